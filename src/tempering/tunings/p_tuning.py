"""Trained vectors before the embeddings of the text, made by a small network while training."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar, Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from tempering.backbone import Backbone
from tempering.errors import ModelError
from tempering.tunings.prompts import Prompt, attach_prompt, prompt_of, require_room

LAYERS = 2


class PromptEncoder(Prompt):
    """p vectors MLP(BiLSTM(E)) with E (p, width); after `flatten` the vectors themselves as ``weight`` [p, width]."""

    weight: Tensor

    def __init__(self, p: int, lstm: bool, table: str, width: int) -> None:
        super().__init__("p_tuning", p, table)
        half = width // 2
        self.E = nn.Parameter(torch.randn(p, width))
        self.lstm = nn.LSTM(width, half, LAYERS, bidirectional=True, batch_first=True) if lstm else None
        self.inner = nn.Linear(2 * half if lstm else width, width)
        self.outer = nn.Linear(width, width)
        self.flat = False

    def forward(self) -> Tensor:
        """[p, width]."""
        if self.flat:
            return self.weight
        return self.outer(torch.relu(self.inner(self.E if self.lstm is None else self._read(self.lstm))))  # type: ignore[no-any-return]

    def _read(self, lstm: nn.LSTM) -> Tensor:
        """The LSTM over E. Its weights are read by name, since ``nn.LSTM`` keeps a list of its own that swapped weights do not enter."""
        weights: list[Tensor] = [weight for _, weight in lstm.named_parameters()]
        start = self.E.new_zeros(2 * LAYERS, 1, lstm.hidden_size)
        out: Tensor = torch.lstm(self.E[None], (start, start), weights, True, LAYERS, 0.0, False, True, True)[0]
        return out[0]

    @torch.no_grad()
    def flatten(self) -> None:
        """Keep the vectors that the network gives now, and drop it."""
        if not self.flat:
            self.weight = nn.Parameter(self().clone(), requires_grad=self.E.requires_grad)
            self.flat = True
            del self.E, self.lstm, self.inner, self.outer


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class PTuning:
    """Puts ``p`` vectors before the embeddings of every text that a small network makes, and trains that network alone.

    ``encoder``: "lstm" is a two-layer BiLSTM and an MLP over trained embeddings, "mlp" the MLP alone. Both are dropped when the model is
    saved: what is used are p vectors, as in prompt_tuning.

    *Paper*: Liu et al. 2021, "GPT Understands, Too". *Formula*: P = W_2 relu(W_1 h + b_1) + b_2 with h = BiLSTM(E), E (p, d), hidden d / 2
    a direction, W (d, d): p d + 2 (d d + d) numbers, and 6 d d + 8 d (each layer 2 (4 d/2 (d + d/2) + 4 d)) for the LSTM. *Needs*: a
    body that takes embeddings in the place of tokens; checked on the model itself at `attach`. *Costs*: one pass over texts p tokens
    longer, also when used: it does not merge; the network runs once a pass. *Differs*: all vectors stand before the text, where the
    paper spreads them over the slots of a template; the body is frozen as in the paper's LAMA runs (its SuperGLUE runs train it along,
    with a hidden size of d). PEFT's MLP has three maps. Saved as a delta, for the reason given in prompt_tuning.
    """

    p: int = Field(default=9, ge=1)
    encoder: Literal["lstm", "mlp"] = "lstm"

    trunk_eval: ClassVar[bool] = False
    trains_pretrained: ClassVar[bool] = False
    trains_backbone: ClassVar[bool] = True
    identity: ClassVar[Literal["exact", "near", "no"]] = "no"
    merges: ClassVar[bool] = False

    def attach(self, backbone: Backbone) -> None:
        """Freeze the backbone, put the prompt in, and test that it arrives. One that a stage before left there is trained on."""
        attach_prompt(backbone, "p_tuning", self.p, partial(PromptEncoder, self.p, self.encoder == "lstm"))

    def merge(self, backbone: Backbone) -> None:
        """Refused: no weight of the body can hold tokens."""
        raise ModelError(
            "p_tuning cannot be merged: its vectors stand before the text, and no pretrained weight can take them in; keep it"
            " attached (then: keep), or use lora where one set of weights is wanted"
        )

    def eject(self, backbone: Backbone) -> None:
        """Drop the network and keep the p vectors it gives now: the same scores from p d numbers."""
        prompt: Any = prompt_of(backbone)
        prompt.flatten()

    def count(self, backbone: Backbone) -> int:
        """p d for the embeddings, 2 d (d + 1) for the MLP and 6 d d + 8 d for the LSTM; p d once they are dropped."""
        require_room(backbone, "p_tuning", self.p)
        d = int(backbone.embeddings.get_parameter("weight").shape[1])
        there, half = prompt_of(backbone), d // 2
        if isinstance(there, PromptEncoder) and there.flat:
            return self.p * d
        read = 2 * half if self.encoder == "lstm" else d
        lstm = sum(2 * 4 * half * (inputs + half + 2) for inputs in (d, 2 * half)) if self.encoder == "lstm" else 0
        return self.p * d + (read + 1) * d + (d + 1) * d + lstm
