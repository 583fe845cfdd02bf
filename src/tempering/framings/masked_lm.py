"""Masked language modeling: the backbone's own task, on the user's texts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor
from torch.nn import functional as F

from tempering.contracts import Batch, Example, Prediction, Prompt, RowForm, Scores, Slab
from tempering.errors import ModelError, RecipeError
from tempering.framings.hidden.masking import Choice, Ids, Masking
from tempering.framings.hidden.packing import Packing, segmented, sizes_of, unpacked
from tempering.framings.lm_head import drawn_note, ensure_lm_head
from tempering.framings.module import FramingBase
from tempering.framings.text import TextEncoder, pad, tensors

if TYPE_CHECKING:
    from tempering.backbone import Backbone

Share = Annotated[float, Field(ge=0, le=1)]
TOP = 5  # tokens that `decode` names for each mask


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class MaskedLM:
    """Continues the backbone's own pretraining: hides tokens of the texts and trains to name them. Labels are not read.

    Paper: Devlin et al. 2019 (80 / 10 / 10); Liu et al. 2019 (new masks in each epoch); Gururangan et al. 2020 (the use: DAPT, TAPT).
    Formula: for the masked positions, x [masked, dim]: logits = norm(act(x D^T + d)) E^T + b, with E [vocabulary, width] the
    backbone's embeddings; loss = mean over masked positions of the cross entropy with the token that was there.
    Needs: an encoder with a mask token. A backbone without a head for it gets a fresh one, tied to the embeddings.
    Costs: one pass; only masked positions go through the output matrix: 0.15 rows length vocabulary logits.
    Differs: tokens are chosen independently, so that their number varies; ``masking: whole_word`` draws a word and decides mask, random
    or unchanged for each of its tokens; ``span`` draws spans of 1 to 10 words, P(l) ~ 0.2 * 0.8^(l - 1), until the share is reached,
    and decides once for each span (Joshi et al. 2020, without their boundary loss). The output matrix is always tied to the embeddings.

    ``packed`` fills rows of ``max_length`` with several texts, each with its special tokens, its own positions and attention to itself
    alone, so that no row is padded and each text comes out as it would alone. Where a family cannot do that, each has a row of its own.
    """

    probability: Annotated[float, Field(gt=0, le=1)] = 0.15
    max_length: Annotated[int, Field(ge=1)] | None = None
    masking: Choice = "token"
    packed: bool = False
    mask_share: Share = 0.8
    random_share: Share = 0.1

    supervised: ClassVar[bool] = False
    shards: ClassVar[bool] = True
    running: ClassVar[bool] = True  # any row of tokens will do: it need not be a text from its beginning

    def build(self, task: Any, backbone: Backbone) -> MaskedLMModule:
        """The module for ``backbone``, whose ``lm_head`` is put in place. A model that cannot fill masks is a `ModelError`."""
        if self.mask_share + self.random_share > 1:
            raise RecipeError(
                f"masked_lm: mask_share={self.mask_share} and random_share={self.random_share} add up to more than 1; the rest is the share"
                " of chosen tokens that stays as it is"
            )
        _refuse(backbone)
        note = drawn_note(backbone, ensure_lm_head)
        ensure_lm_head(backbone).requires_grad_(True)  # a tuning freezes the whole backbone, the head of an earlier stage with it
        module = MaskedLMModule(self, backbone)
        module.notes += note
        return module


class MaskedLMModule(FramingBase):
    """`MaskedLM` at run time. It has no weights of its own: the head is the backbone's (``backbone.lm_head``)."""

    deterministic = False
    smooths = True
    reads_lm_head = True

    def __init__(self, framing: MaskedLM, backbone: Backbone) -> None:
        super().__init__()
        self.text = TextEncoder.of(backbone, framing.max_length, words=framing.masking != "token")
        table: Any = backbone.embeddings.weight
        shares = (framing.mask_share, framing.random_share)
        self.masking = Masking.of(backbone.tokenizer, len(table), framing.probability, shares, framing.masking)
        self.pad_id = int(backbone.tokenizer.pad_token_id or 0)
        self.packing = Packing.of(backbone, self.text.length) if framing.packed else None
        if framing.packed and self.packing is None:
            self.notes = (unpacked(backbone),)
        self.form = "masked" if backbone.layout.lm is not None else "sequence"

    @property
    def row_form(self) -> RowForm:
        """How it wants running text."""
        wrapping = self.text.wrapping
        return RowForm(self.text.length, wrapping.before, wrapping.after, packed=self.packing is not None, words=self.text.words)

    def render(self, examples: Sequence[Example], support: Sequence[Example], rng: np.random.Generator) -> list[list[Prompt]]:
        """One unmasked prompt an example. Its ``target`` is the word number of each token where whole words are masked, else None."""
        return [[Prompt(x.ids, x.types, x.words)] for x in self.text.encode(examples)]

    def collate(self, prompts: Sequence[Prompt], rng: np.random.Generator) -> Batch:
        """A batch with masks drawn from ``rng``: targets [masked], and ``positions`` [masked] in the flattened batch."""
        arrays = pad(prompts, self.pad_id)
        ids, mask = arrays["input_ids"], arrays.get("attention_mask")
        words = self._words(prompts, ids.shape) if self.text.words else None
        arrays["input_ids"], positions = self.masking.corrupt(ids, None if mask is None else mask.astype(bool), words, rng)
        targets, extra = torch.from_numpy(ids.reshape(-1)[positions]), {"positions": torch.from_numpy(positions)}
        if self.packing is not None:
            arrays.pop("attention_mask", None)
            extra |= segmented(sizes_of(prompts), ids.shape[1])
        return Batch(tensors(arrays), targets, extra=extra)

    def part(self, batch: Batch, rows: slice) -> Batch:
        """Some of the rows of a collated batch, with the masks they have in it."""
        count, length = batch.inputs["input_ids"].shape
        chosen = torch.arange(count)[rows]
        number = torch.full((count,), -1)
        number[chosen] = torch.arange(len(chosen))
        positions = batch.extra["positions"]
        mine = number[positions // length] >= 0
        extra = {name: values[chosen] for name, values in batch.extra.items() if name != "positions"}
        extra["positions"] = (number[positions // length] * length + positions % length)[mine]
        assert batch.targets is not None  # `collate` always makes them
        return Batch({name: values[chosen] for name, values in batch.inputs.items()}, batch.targets[mine], extra=extra)

    def _words(self, prompts: Sequence[Prompt], shape: tuple[int, ...]) -> Ids:
        words = np.full(shape, -1, np.int64)
        lengths = np.array([len(p.input_ids) for p in prompts])
        real = np.arange(shape[1]) < lengths[:, None]
        words[real] = np.fromiter(chain.from_iterable(p.target for p in prompts), np.int64, int(lengths.sum()))
        return words

    def trunk(self, backbone: Backbone, batch: Batch) -> Tensor:
        """Hidden states at the masked positions [masked, dim]."""
        hidden = backbone.encode(batch.inputs).last if self.packing is None else self.packing.hidden(backbone, batch)
        return hidden.flatten(0, 1)[batch.extra["positions"]]

    def trunk_key(self) -> str:
        """Length and masking: masks are drawn anew for each batch, so that the trunk's output is never worth keeping."""
        m = self.masking
        return f"masked_lm max_length={self.text.length} probability={m.probability} shares={m.mask_share}/{m.random_share}"

    def scores(self, backbone: Backbone, batch: Batch) -> Scores:
        """One slab: logits [1, masked, vocabulary] and the transformed states [masked, width] before the output matrix."""
        logits, features = ensure_lm_head(backbone)(self.trunk(backbone, batch), backbone.table)
        return Scores((Slab(logits.unsqueeze(0), batch.targets, None, features, "classification", batch.task),))

    def loss(self, scores: Scores, batch: Batch) -> Tensor:
        """Cross entropy, mean over masked tokens; targets are smoothed in training mode only."""
        slab = scores.only
        assert slab.targets is not None  # `collate` always makes them
        return F.cross_entropy(slab.logits[0], slab.targets, label_smoothing=self.smoothing if self.training else 0.0)

    def decode(self, scores: Scores) -> list[Prediction]:
        """For each masked position the likeliest token, and the probabilities of the five likeliest."""
        chances, ids = scores.only.logits[0].detach().float().softmax(-1).topk(TOP, dim=-1)
        named = (self.text.tokenizer.convert_ids_to_tokens(row) for row in ids.tolist())
        return [Prediction(names[0], dict(zip(names, row, strict=True))) for names, row in zip(named, chances.tolist(), strict=True)]


def _refuse(backbone: Backbone) -> None:
    """A sentence for a model that cannot fill masks."""
    layout, config = backbone.layout, backbone.config
    layout.require("masked_lm")
    name = f"masked_lm cannot serve {backbone.source} ({layout.family})"
    if layout.kind == "decoder" or getattr(config, "is_decoder", False):
        raise ModelError(
            f"{name}: it reads from left to right and so cannot see what follows a mask; take framing causal_lm for it (in a recipe"
            " stages.0.framing=causal_lm), or choose an encoder such as roberta-base"
        )
    if layout.kind != "encoder" or getattr(config, "is_encoder_decoder", False):
        raise ModelError(f"{name}: it was pretrained as a text-to-text model, not by filling masks; choose an encoder such as roberta-base")
    if backbone.tokenizer.mask_token_id is None:
        raise ModelError(f"{name}: its tokenizer has no mask token; choose an encoder such as roberta-base")
