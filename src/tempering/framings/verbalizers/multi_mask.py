"""Label words of several tokens, a mask for each."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from torch import Tensor

from tempering.contracts import Batch, Slab
from tempering.errors import ModelError
from tempering.framings.verbalizers.base import MASKS, Run, VerbalizerModule, Words, classes_of
from tempering.framings.verbalizers.manual import owner_of
from tempering.framings.verbalizers.words import Table, WordCoder

if TYPE_CHECKING:
    from tempering.backbone import Backbone

Order = Literal["default", "ltr", "parallel"]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class MultiMask:
    """Gives every token of a label word a mask of its own, and scores the word by the tokens' log probabilities.

    ``order`` of scoring outside of training: "default" fills the mask whose token is likeliest and runs the model again, until all are
    filled; "ltr" fills from left to right; "parallel" reads all from one run. ``loss``: "softmax" over the classes' scores, or the
    "hinge". ``average`` divides a word's score by its number of tokens. Of several words of a class the probabilities are added.

    *Paper*: Schick and Schütze 2021 (PET with several masks). *Formula*: score of word v = sum over its tokens of log P(v_i | text,
    tokens filled before), each over the whole vocabulary; s_y = log sum over its words of exp score; softmax: -log softmax(s)_y;
    hinge: mean over rows of sum over wrong classes c of max(0, 1 - s_y + s_c). *Needs*: a template whose mask is followed by no other;
    the longest word says how many masks it holds, and a word with fewer tokens is read where the last masks are taken out.
    *Costs*: training: a pass for each number of tokens a word has; use: n - 1 more for each word of n tokens, but in parallel.
    *Differs*: the authors train with the hinge alone, on one pass with the masks of the longest word; their scoring works on one row
    at a time and takes the logarithm of probabilities that may be 0.
    """

    order: Order = "default"
    loss: Literal["softmax", "hinge"] = "softmax"
    average: bool = False

    trains: ClassVar[bool] = False
    reads_rows: ClassVar[bool] = False
    why_not_cached: ClassVar[str] = "label words of several tokens are read in several passes"

    def build(self, task: Any, backbone: Backbone, words: Words) -> MultiMaskModule:
        """The module for the label words of each class, however many tokens they have."""
        module = MultiMaskModule(self, classes_of(task, words), WordCoder.of(backbone).table(task, words, single=False))
        if module.masks > 1 and backbone.layout.kind == "decoder":
            raise ModelError(
                f"multi_mask cannot serve {backbone.source} ({backbone.layout.family}): it reads from left to right and has no masks, and a"
                f" label word has {module.masks} tokens; give words of one token, or use framing in_context, which scores whole labels"
            )
        return module


class MultiMaskModule(VerbalizerModule):
    """`MultiMask` at run time. It has no weights."""

    walks = True
    owner: Tensor

    def __init__(self, value: MultiMask, labels: tuple[Any, ...], table: Table) -> None:
        super().__init__()
        self.value, self.labels, self.table = value, labels, table
        self.flat = tuple(word for row in table for word in row)
        self.masks = max(map(len, self.flat))
        self.register_buffer("owner", owner_of([len(row) for row in table]), persistent=False)

    def forward(self, read: Tensor) -> Tensor:
        """All words from one run with ``masks`` masks: logits [rows, masks, vocabulary] -> class scores [rows, classes].

        Exact where all words have so many tokens; words with fewer are read at the first masks. `walk` takes masks out for those.
        """
        chances = read.float().log_softmax(-1)
        return self.of_words(torch.stack([self._at_once(chances, word) for word in self.flat], -1))

    def walk(self, run: Run, batch: Batch) -> Tensor:
        """Class scores [rows, classes]: words of one length share their first run."""
        scores: dict[int, Tensor] = {}
        for length in sorted({len(word) for word in self.flat}):
            short = without_masks(batch, length)
            chances = run(short).float().log_softmax(-1)
            for i, word in ((i, w) for i, w in enumerate(self.flat) if len(w) == length):
                if self.training or self.value.order == "parallel" or length == 1:
                    scores[i] = self._at_once(chances, word)
                else:
                    scores[i] = self._in_turn(run, short, chances, word)
        return self.of_words(torch.stack([scores[i] for i in range(len(self.flat))], -1))

    def of_words(self, scores: Tensor) -> Tensor:
        """Log probabilities of words [rows, words] -> class scores [rows, classes]."""
        if self.value.average:
            scores = scores / torch.tensor([len(word) for word in self.flat], device=scores.device)
        return scores.unsqueeze(1).masked_fill(~self.owner, -torch.inf).logsumexp(-1)

    def _at_once(self, chances: Tensor, word: tuple[int, ...]) -> Tensor:
        at = torch.arange(len(word), device=chances.device)
        return chances[:, at, torch.tensor(word, device=chances.device)].sum(-1)

    def _in_turn(self, run: Run, batch: Batch, chances: Tensor, word: tuple[int, ...]) -> Tensor:
        """A token at a time: its log probability is taken, it is put in its place, and the model runs again."""
        rows = torch.arange(len(chances), device=chances.device)
        tokens = torch.tensor(word, device=chances.device)
        at, total = torch.arange(len(word), device=chances.device), chances.new_zeros(len(chances))
        open_ = torch.ones(len(chances), len(word), dtype=torch.bool, device=chances.device)
        for left in reversed(range(len(word))):
            found = chances[:, at, tokens]
            ranks = found if self.value.order == "default" else -at.to(found.dtype).expand_as(found)
            chosen = ranks.masked_fill(~open_, -torch.inf).argmax(-1)
            total = total + found[rows, chosen]
            open_[rows, chosen] = False
            if left:
                batch = filled(batch, chosen, tokens[chosen])
                chances = run(batch).float().log_softmax(-1)
        return total

    def loss(self, slab: Slab) -> Tensor | None:
        """The hinge, where it is asked for; the scores are already of one prompt a row."""
        if self.value.loss == "softmax" or slab.targets is None:
            return None
        scores = slab.logits[0]
        right = scores.gather(1, slab.targets.unsqueeze(1))
        wrong = torch.ones_like(scores).scatter(1, slab.targets.unsqueeze(1), 0.0)
        rows = ((1.0 - right + scores).clamp(min=0.0) * wrong).sum(-1)
        return rows.mean() if slab.weights is None else (rows * slab.weights).sum() / slab.weights.sum()


def filled(batch: Batch, which: Tensor, tokens: Tensor) -> Batch:
    """The batch with mask ``which`` [rows] of each prompt replaced by ``tokens`` [rows]."""
    ids = batch.inputs["input_ids"].clone()
    rows = torch.arange(len(ids), device=ids.device)
    ids[rows, batch.extra[MASKS][rows, which]] = tokens
    return dataclasses.replace(batch, inputs=batch.inputs | {"input_ids": ids})


def without_masks(batch: Batch, keep: int) -> Batch:
    """The batch with all but the first ``keep`` masks of each prompt taken out, and what follows moved up.

    Every row loses as many tokens, so that the batch stays a rectangle. Entries of ``extra`` that hold positions are moved along.
    """
    places = batch.extra[MASKS]
    if places.shape[1] == keep:
        return batch
    stays = torch.ones_like(batch.inputs["input_ids"], dtype=torch.bool).scatter(1, places[:, keep:], False)
    inputs = {name: given[stays].view(len(given), -1) for name, given in batch.inputs.items()}
    moved = stays.long().cumsum(1) - 1
    extra = {name: moved.gather(1, value) if name.endswith("_positions") else value for name, value in batch.extra.items()}
    extra[MASKS] = extra[MASKS][:, :keep]
    return dataclasses.replace(batch, inputs=inputs, extra=extra)
