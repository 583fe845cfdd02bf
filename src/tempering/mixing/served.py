"""A backbone as a framing sees it when its pass has been made already, together with the rows of other tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tempering.backbone import Backbone, Encoded
from tempering.mixing.rows import NotByRow


class Served:
    """Gives what the body said of ``inputs`` instead of running it; everything else is the task's own backbone's.

    ``asked_layers`` tells whether the framing wanted the states of all layers.
    """

    def __init__(self, backbone: Backbone, inputs: Mapping[str, Tensor], encoded: Encoded) -> None:
        self._backbone, self._inputs, self._encoded = backbone, inputs, encoded
        self.asked_layers = False

    def encode(self, inputs: Mapping[str, Tensor], layers: bool = False) -> Encoded:
        """What the shared pass said; a framing that wants another pass cannot take part in one."""
        if inputs is not self._inputs:
            raise NotByRow("its framing runs the body on other inputs than those of the batch")
        self.asked_layers |= layers
        return self._encoded

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backbone, name)
