"""The invertible adapter of MAD-X: after the token embeddings, and its inverse before the output matrix that is tied to them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tempering.backbone import Backbone
from tempering.errors import ModelError
from tempering.tunings.attach import Added, check_free, plug
from tempering.tunings.bottleneck import as_buffers, draw_near_zero

NAME = "invertible"


class Invertible(Added):
    """A NICE coupling of the halves of e [..., width] = [e1, e2]: o1 = e1 + F(e2), o2 = e2 + G(o1), each a two-layer map.

    A language-model head that is tied to the embeddings looks for `inverse` under them and puts it before its output matrix.
    """

    def __init__(self, width: int, std: float) -> None:
        super().__init__()
        self.F = _map(width // 2, std)
        self.G = _map(width // 2, std)

    def forward(self, e: Tensor) -> Tensor:
        """[e1, e2] -> [o1, o2]."""
        a, b = e.chunk(2, -1)
        first = a + self.F(b)
        return _joined(first, b + self.G(first))

    def inverse(self, o: Tensor) -> Tensor:
        """[o1, o2] -> [e1, e2]: e2 = o2 - G(o1), e1 = o1 - F(e2)."""
        a, b = o.chunk(2, -1)
        second = b - self.G(a)
        return _joined(a - self.F(second), second)


def _map(half: int, std: float) -> nn.Sequential:
    """half -> half / 2 -> half, with a ReLU between."""
    down, up = nn.Linear(half, half // 2), nn.Linear(half // 2, half)
    for layer in (down, up):
        draw_near_zero(layer, std)
    return nn.Sequential(down, nn.ReLU(), up)


def _joined(a: Tensor, b: Tensor) -> Tensor:
    return torch.cat((a, b), -1)


def _through(embeddings: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
    """The forward hook of the embeddings."""
    moved: Tensor = embeddings.get_submodule(NAME)(output)
    return moved


def check_invertible(method: str, backbone: Backbone, frozen: bool) -> None:
    """Refuse an embedding that cannot be halved twice, and one that carries an invertible adapter of another use."""
    width = _width(backbone)
    if width % 4:
        raise ModelError(
            f"{method}: an invertible adapter halves the embedding twice, and that of {backbone.source} is {width} wide;"
            " give invertible=false, or choose a model whose width is a multiple of 4"
        )
    check_free(("the embeddings", backbone.embeddings), NAME, (width, frozen))


def hang_invertible(backbone: Backbone, std: float, frozen: bool) -> Invertible:
    """Put the adapter after the token embeddings: trained, or as buffers that are filled from a saved one."""
    width = _width(backbone)

    def make() -> Invertible:
        return as_buffers(Invertible(width, std)) if frozen else Invertible(width, std)

    plug(backbone.embeddings, NAME, make, _through, backbone.embeddings.get_parameter("weight"))
    found: Any = backbone.embeddings.get_submodule(NAME)
    found.setting = (width, frozen)
    return found  # type: ignore[no-any-return]


def invertible_size(backbone: Backbone) -> int:
    """Numbers of F and G: 2 (2 h q + q + h) with h half and q a quarter of the embedding's width."""
    half, quarter = _width(backbone) // 2, _width(backbone) // 4
    return 2 * (2 * half * quarter + quarter + half)


def _width(backbone: Backbone) -> int:
    return int(backbone.embeddings.get_parameter("weight").shape[1])
