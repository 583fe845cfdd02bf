"""What heads over the tokens of a text have in common: long texts read in windows, and one linear map over tokens."""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from torch import Tensor

from tempering.contracts import Batch, Prompt
from tempering.framings.module import FramingBase
from tempering.framings.spans.readout import Readout
from tempering.framings.text import pad, tensors

if TYPE_CHECKING:
    from tempering.backbone import Backbone
    from tempering.framings.spans.windows import Offsets
    from tempering.layouts import HeadSpec


class HeadOverTokens(Protocol):
    """What the value of such a framing says of its head."""

    @property
    def heads(self) -> int:
        """Linear maps whose mean predicts."""

    @property
    def dropout(self) -> float | None:
        """None: as the model's configuration says."""


class WindowsModule(FramingBase, ABC):
    """Windows of ``text``, each a prompt with any number of rows, read by ``readout``, which holds the weights.

    ``method`` is the framing's name in recipes.
    """

    method: ClassVar[str]
    windows = True

    def __init__(self, value: HeadOverTokens, backbone: Backbone, text: Offsets, family: HeadSpec | None, outputs: int) -> None:
        super().__init__()
        self.heads, self.text = value.heads, text
        self.readout = Readout(backbone.config, family, backbone.hidden_size, outputs, value.heads, value.dropout)
        self._pad = int(backbone.tokenizer.pad_token_id or 0)

    def padded(self, prompts: Sequence[Prompt], targets: Sequence[Sequence[int]], sizes: Sequence[int], extra: dict[str, Any]) -> Batch:
        """Inputs padded on the right, and ``sizes`` [prompts], the rows of each; the ``targets`` of the rows if every prompt has one."""
        known = all(prompt.target is not None for prompt in prompts)
        flat = torch.tensor([target for mine in targets for target in mine], dtype=torch.int64) if known else None
        weights = [prompt.weight for prompt, size in zip(prompts, sizes, strict=True) for _ in range(size)]
        weighed = torch.tensor(weights) if any(weight != 1.0 for weight in weights) else None
        return Batch(tensors(pad(prompts, self._pad)), flat, weighed, extra=extra | {"sizes": torch.tensor(sizes)})

    def trunk_key(self) -> str:
        """Length and windows. (Not used: what a text says is no single vector.)"""
        return f"{self.method} max_length={self.text.length} stride={self.text.stride}"

    def export_state(self) -> dict[str, Tensor] | None:
        """The weights as the family's transformers class for such heads names them, heads folded."""
        return self.readout.export_state()
