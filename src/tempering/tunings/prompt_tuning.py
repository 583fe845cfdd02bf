"""Trained vectors before the embeddings of the text."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from tempering.backbone import Backbone
from tempering.errors import ModelError
from tempering.tunings.prompts import Prompt, attach_prompt, prompt_of, require_room
from tempering.tunings.reach import still
from tempering.tunings.saved_adapters import base_fingerprint

if TYPE_CHECKING:
    from tempering.contracts import Probe
    from tempering.learner import Learner

COMMON = 5000  # words at the front of a vocabulary, where the frequent ones stand


class SoftPrompt(Prompt):
    """``weight`` [p, width], drawn from U(-0.5, 0.5). ``untouched``: no stage has trained it yet."""

    def __init__(self, p: int, table: str, width: int) -> None:
        super().__init__("prompt_tuning", p, table)
        self.weight = nn.Parameter(torch.rand(p, width) - 0.5)
        self.untouched = True

    def forward(self) -> Tensor:
        """[p, width]."""
        return self.weight


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class PromptTuning:
    """Puts ``p`` trained vectors before the embeddings of every text, and trains nothing else of the body.

    ``init``: "random" draws U(-0.5, 0.5); "vocab" takes embeddings of p different frequent words; "text" those of the pieces of
    ``text`` in order; "labels" the mean over the pieces of each label's name, one position each; "file" takes the prompt that another run
    saved in the folder ``file`` (SPoT, Vu et al. 2022; `tempering.tunings.saved_prompts`). Positions left over are as in "vocab".

    *Paper*: Lester et al. 2021. *Formula*: the body reads [P; E(x)], P (p, d): p d numbers; the states of P are cut off again, so that
    a head sees the text's own. *Needs*: a body that takes embeddings in the place of tokens; checked on the model itself at
    `attach`. *Costs*: one pass over texts p tokens longer, also when used: it does not merge; texts are cut to what positions are left.
    *Differs*: AdamW here, the paper's Adafactor at rate 0.3; flax's uniform(0.5) draws from [0, 0.5), here symmetric. PEFT's prompt
    tuning leaves the prompt's states in place, so that a first-token or pooler head reads the prompt and not the text: its folder
    would score differently, and this prompt is saved as a delta. In an encoder-decoder the vectors stand before the source, and the decoder
    attends to the states of the source alone.
    """

    p: int = Field(default=20, ge=1)
    init: Literal["random", "vocab", "text", "labels", "file"] = "vocab"
    text: str = ""
    file: str = ""

    trunk_eval: ClassVar[bool] = False
    trains_pretrained: ClassVar[bool] = False
    trains_backbone: ClassVar[bool] = True
    identity: ClassVar[Literal["exact", "near", "no"]] = "no"
    merges: ClassVar[bool] = False
    reads_rows: ClassVar[bool] = False  # `prepare` sets the first vectors and looks at no row

    @model_validator(mode="after")
    def _text_fits(self) -> PromptTuning:
        if (self.init == "text") != bool(self.text.strip()):
            raise ValueError('init: text and a text belong together; give both, as in  init: text, text: "is the film good or bad?"')
        if (self.init == "file") != bool(self.file.strip()):
            raise ValueError("init: file and a file belong together; give both, as in  init: file, file: source-model/")
        return self

    def attach(self, backbone: Backbone) -> None:
        """Freeze the backbone, put the prompt in, and test that it arrives. One that a stage before left there is trained on."""
        fresh = attach_prompt(backbone, "prompt_tuning", self.p, partial(SoftPrompt, self.p))
        prompt: Any = prompt_of(backbone)
        prompt.untouched = fresh
        if not fresh or self.init == "random" or backbone.embeddings.get_parameter("weight").is_meta:
            return
        pieces = _pieces(backbone, self.text) if self.init == "text" else []
        found = [[i] for i in pieces[: self.p]]
        _fill(backbone, found + [[i] for i in _frequent(backbone, self.p - len(found))])

    def prepare(self, learner: Learner, probe: Probe) -> None:
        """With ``init: labels``, the first positions become the labels' names, which `attach` does not know yet; with ``init: file`` those
        of the saved prompt, whose folder a model that is loaded needs no more.
        """
        prompt: Any = prompt_of(learner.backbone)
        if self.init == "labels" and prompt.untouched:
            _fill(learner.backbone, [_pieces(learner.backbone, str(label)) for label in learner.framing.labels][: self.p])
        if self.init == "file" and prompt.untouched:
            from tempering.tunings.saved_prompts import saved_prompt

            saved = saved_prompt(self.file, prompt.weight.shape[1], base_fingerprint(learner.backbone))
            with torch.no_grad():
                prompt.weight[: len(saved)] = saved[: self.p].to(prompt.weight)

    def started(self, backbone: Backbone) -> None:
        """The vectors came from an earlier stage: `prepare` sets none any more."""
        prompt: Any = prompt_of(backbone)
        prompt.untouched = False

    def check_files(self, backbone: Backbone) -> None:
        """Refuse a folder that is missing or holds no prompt of this width, before anything is trained."""
        if self.init == "file":
            from tempering.tunings.saved_prompts import saved_prompt

            saved_prompt(self.file, int(backbone.embeddings.get_parameter("weight").shape[1]))

    def merge(self, backbone: Backbone) -> None:
        """Refused: no weight of the body can hold tokens."""
        raise ModelError(
            "prompt_tuning cannot be merged: its vectors stand before the text, and no pretrained weight can take them in; keep it"
            " attached (then: keep), or use lora where one set of weights is wanted"
        )

    def count(self, backbone: Backbone) -> int:
        """p d, with d the width of the token embeddings."""
        require_room(backbone, "prompt_tuning", self.p)
        return self.p * int(backbone.embeddings.get_parameter("weight").shape[1])


@torch.no_grad()
def _fill(backbone: Backbone, groups: list[list[int]]) -> None:
    """Position i of the prompt becomes the mean embedding of the tokens ``groups[i]``; an empty group leaves it as it is."""
    prompt: Any = prompt_of(backbone)
    with still(backbone.model):
        for i, ids in enumerate(groups):
            if ids:
                prompt.weight[i] = backbone.embeddings(torch.tensor(ids, device=prompt.weight.device)).mean(0)


def _pieces(backbone: Backbone, text: str) -> list[int]:
    return list(backbone.tokenizer(text, add_special_tokens=False)["input_ids"])


def _frequent(backbone: Backbone, count: int) -> list[int]:
    """``count`` words among the first of the vocabulary, drawn without replacement: neither special tokens, bytes nor single letters."""
    tokens = backbone.tokenizer.convert_ids_to_tokens(range(len(backbone.tokenizer)))
    special = set(backbone.tokenizer.all_special_ids)
    words = [i for i, token in enumerate(tokens) if i not in special and len(word := token.lstrip("▁Ġ")) > 1 and word.isalpha()]
    words = (words or [i for i in range(len(tokens)) if i not in special])[:COMMON]
    drawn = torch.randperm(len(words))[:count].tolist()
    return [words[i] for i in (drawn * count)[:count]]
