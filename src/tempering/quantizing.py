"""A frozen body in 8 or 4 bits: the linear maps of its blocks are stored as small integers and made whole, one by one, in each pass.

*Papers*: 8 bits: Dettmers et al. 2022 (vector-wise absmax, weights alone); 4 bits: Dettmers et al. 2023 (QLoRA: NF4, double
quantization). *Formulas*, for W (out, in) in fp32:

* ``8bit``: s_i = max_j |w_ij| / 127 for every output i, q = round(W / s) in int8, W' = s q: |w_ij - w'_ij| <= s_i / 2, and
  1 + 4 / in bytes a number.
* ``4bit``: blocks of 64 numbers in their order in memory, a_b = max |w| of block b, q = the nearest of 16 levels t to w / a_b, two in a
  byte; the a_b are themselves stored as m + c_g p with m their mean, p in int8 and c_g = max |a - m| / 127 over groups g of 256 blocks:
  1/2 + 1/64 + 4 / (64 x 256) bytes a number. The levels t are quantiles of the normal distribution, scaled to [-1, 1], with an exact 0.

*Differs*: activations stay in their precision (LLM.int8 multiplies in int8 and keeps outlying columns in 16 bits); bitsandbytes stores the
a_b in an 8-bit float format of its own, and fuses making whole and multiplying into one GPU kernel, which is faster. What is here runs
wherever torch does, on a CPU as on a GPU, without a further package, and gives the same bits on both. The model is read in fp32 and packed
then: memory for the whole of it is needed once, on the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from tempering.errors import ModelError

Quantize = Literal["8bit", "4bit"]
BLOCK = 64  # numbers that share a scale in 4 bits
GROUP = 256  # scales that share a scale of their own
# Appendix E of Dettmers et al. 2023; bitsandbytes and torchao have the same numbers.
LEVELS = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334),
    *(-0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
Parts = dict[str, Tensor]


def checked(method: str | None) -> Quantize | None:
    """``method`` as one of the two, or None; anything else is refused."""
    if method in (None, ""):
        return None
    if method not in get_args(Quantize):
        raise ModelError(f"quantize: expected 8bit or 4bit, found {method!r}; leave it out for the whole precision")
    return method  # type: ignore[return-value]


def pack(weight: Tensor, method: Quantize) -> Parts:
    """The tensors that stand for ``weight`` (out, in)."""
    return _pack8(weight) if method == "8bit" else _pack4(weight)


def unpack(parts: Parts, shape: tuple[int, int], method: Quantize) -> Tensor:
    """The matrix of ``shape`` (out, in) that ``parts`` stand for, in the precision of their scales."""
    return parts["codes"] * parts["scales"] if method == "8bit" else _unpack4(parts, shape)


def _absmax(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """(int8, scale of each row [rows, 1]) of ``numbers`` [rows, n]; a row of zeros has the scale 1."""
    scales = numbers.abs().amax(1, keepdim=True) / 127
    scales = torch.where(scales > 0, scales, torch.ones_like(scales))
    return (numbers / scales).round().clamp(-127, 127).to(torch.int8), scales


def _pack8(weight: Tensor) -> Parts:
    codes, scales = _absmax(weight.float())
    return {"codes": codes, "scales": scales}


def _pack4(weight: Tensor) -> Parts:
    blocks = _rows(weight.float(), BLOCK)
    largest = blocks.abs().amax(1)
    mean = largest.mean()
    groups, scales = _absmax(_rows(largest - mean, GROUP))
    stored = (groups * scales + mean).flatten()[: len(largest), None]  # codes are chosen for the scales that will be read back
    levels = torch.tensor(LEVELS, device=weight.device)
    between = (levels[1:] + levels[:-1]) / 2
    codes = torch.bucketize(blocks / torch.where(stored > 0, stored, torch.ones_like(stored)), between).to(torch.uint8)
    pairs = codes.flatten().view(-1, 2)
    return {"codes": pairs[:, 0] << 4 | pairs[:, 1], "blocks": groups, "scales": scales, "mean": mean}


def _unpack4(parts: Parts, shape: tuple[int, int]) -> Tensor:
    scales = (parts["blocks"] * parts["scales"] + parts["mean"]).flatten()
    codes = torch.stack((parts["codes"] >> 4, parts["codes"] & 15), 1).view(-1, BLOCK)
    levels = torch.tensor(LEVELS, device=codes.device, dtype=scales.dtype)
    return (levels[codes.int()] * scales[: len(codes), None]).flatten()[: math.prod(shape)].view(shape)


def _rows(numbers: Tensor, width: int) -> Tensor:
    """``numbers`` in their order as rows of ``width``, filled up with zeros."""
    flat = numbers.flatten()
    return nn.functional.pad(flat, (0, -len(flat) % width)).view(-1, width)


class _Product(torch.autograd.Function):
    """x W'^T. The matrix is made whole again in the backward pass: kept from the forward pass, all of them would be in memory at once."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Packed) -> Tensor:
        ctx.layer = layer
        return nn.functional.linear(x, layer.whole(x.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] @ ctx.layer.whole(grads[0].dtype), None


class Packed(nn.Linear):
    """A frozen linear map whose matrix is packed: y = x W'^T + b. The bias stays as it was, and may be trained.

    ``weight`` is the matrix made whole, a copy: to write to it changes nothing, so that no tuning can train or merge into it.
    """

    def __init__(self, weight: Tensor, bias: nn.Parameter | None, method: Quantize) -> None:
        nn.Module.__init__(self)
        self.out_features, self.in_features = weight.shape
        self.method: Quantize = method
        self.register_parameter("bias", bias)
        self.parts = tuple(parts := pack(weight.detach(), method))
        for name, tensor in parts.items():
            self.register_buffer(name, tensor, persistent=False)  # packed again on loading: not worth storing

    @property
    def weight(self) -> nn.Parameter:  # type: ignore[override]
        """W' (out, in), a fresh copy that is not trained."""
        return nn.Parameter(self.whole(self.get_buffer("scales").dtype), requires_grad=False)

    @torch.no_grad()
    def whole(self, dtype: torch.dtype) -> Tensor:
        """W' (out, in)."""
        parts = {name: self.get_buffer(name) for name in self.parts}
        return unpack(parts, (self.out_features, self.in_features), self.method).to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        """In the precision of x, or of autocast where that is on."""
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        product: Tensor = _Product.apply(x, self)  # type: ignore[no-untyped-call]
        return product if self.bias is None else product + self.bias.to(product.dtype)


def packable(body: nn.Module, stacks: Sequence[str]) -> dict[str, nn.Module]:
    """The linear maps of the blocks in ``stacks`` by path; of a body without such a list all but those of its pooler."""
    found = {path: m for path, m in body.named_modules() if isinstance(m, nn.Linear | Conv1D)}
    if not stacks:
        return {path: m for path, m in found.items() if not path.startswith("pooler")}
    return {path: m for path, m in found.items() if path.startswith(tuple(f"{stack}." for stack in stacks))}


def pack_body(body: nn.Module, stacks: Sequence[str], method: Quantize) -> None:
    """Put a `Packed` map in the place of every linear map of the blocks. Embeddings, norms, biases and what lies above stay whole.

    A ``Conv1D``, which stores W transposed, becomes a map like the others.
    """
    done: dict[int, Packed] = {}  # a map that two places share stays shared
    for path, layer in packable(body, stacks).items():
        parent, _, name = path.rpartition(".")
        weight = layer.get_parameter("weight")
        bias: Any = getattr(layer, "bias", None)
        if id(layer) not in done:
            done[id(layer)] = Packed(weight.T.contiguous() if isinstance(layer, Conv1D) else weight, bias, method).train(layer.training)
        setattr(body.get_submodule(parent), name, done[id(layer)])


def packed_bytes(shape: tuple[int, ...], method: Quantize) -> int:
    """Bytes of a packed matrix (out, in)."""
    numbers = math.prod(shape)
    if method == "8bit":
        return numbers + 4 * shape[0]
    blocks = -(-numbers // BLOCK)
    groups = -(-blocks // GROUP)
    return blocks * BLOCK // 2 + groups * (GROUP + 4) + 4


def saved_bytes(body: nn.Module, stacks: Sequence[str], method: Quantize | None) -> int:
    """How many bytes fewer than 4 for each number of its parameters a body takes once it is packed, as an outline is not yet.

    The matrices of one that is packed are no parameters: they make it more.
    """
    if method is None:
        return 0
    return sum(_saved(m, method) for m in {id(m): m for m in packable(body, stacks).values()}.values())


def _saved(layer: nn.Module, method: Quantize) -> int:
    if isinstance(layer, Packed):
        return -packed_bytes((layer.out_features, layer.in_features), method)
    shape = tuple(layer.get_parameter("weight").shape)
    return 4 * math.prod(shape) - packed_bytes(shape[::-1] if isinstance(layer, Conv1D) else shape, method)


def packed_numbers(module: nn.Module) -> int:
    """How many numbers the packed matrices under ``module`` stand for: no parameter of it counts them."""
    return sum(m.in_features * m.out_features for m in module.modules() if isinstance(m, Packed))
