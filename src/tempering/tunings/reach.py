"""The self-test at attach: whether what a tuning puts into the forward pass arrives there.

Several families leave an unknown input out without a word; a method that then trains nothing would look like a weak method. The
tests run on a handful of made-up tokens in evaluation mode, draw from no random stream and leave every gradient alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from tempering.backbone import Backbone
from tempering.errors import ModelError
from tempering.streams import numpy_stream

LEAST = 1e-4  # of the states' size: a smaller change is rounding, a larger one is not


@contextmanager
def still(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the block; afterwards every module is in the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def made_up(backbone: Backbone, length: int) -> dict[str, Tensor]:
    """Two rows of ``length`` tokens, the second with its last token padded."""
    size, pad = int(backbone.embeddings.get_parameter("weight").shape[0]), backbone.config.pad_token_id
    known = [i for i in range(min(size, 1000)) if i != pad]
    ids = torch.from_numpy(numpy_stream("reach").choice(known, (2, length)))
    mask = torch.ones_like(ids)
    mask[1, -1] = 0
    device = backbone.embeddings.get_parameter("weight").device
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}


@torch.no_grad()
def states(backbone: Backbone, inputs: dict[str, Tensor], body: nn.Module | None = None) -> Tensor:
    """The last hidden states of the real tokens [tokens, dim], of the whole ``body``, its decoder included where that is open."""
    body = body or backbone.model
    with still(backbone.model):
        found: Tensor = body(**_asked(backbone, inputs, body)).last_hidden_state[inputs["attention_mask"].bool()]
    return found


def _asked(backbone: Backbone, inputs: dict[str, Tensor], body: nn.Module) -> dict[str, Any]:
    """What ``body`` is called with: the decoder of an encoder-decoder that does not choose its own tokens gets those of the text."""
    whole, kind = body is backbone.model, backbone.layout.kind
    extra: dict[str, Any] = {"use_cache": False} if whole and (kind == "decoder" or backbone.opened) else {}
    if whole and backbone.opened and kind == "text-encoder":
        extra["decoder_input_ids"] = inputs["input_ids"]
    return {**inputs, **extra}


def same(a: Tensor, b: Tensor) -> bool:
    """Whether two passes say the same, up to rounding."""
    return bool((a - b).abs().max() <= LEAST * a.abs().max())


def check_arrives(
    backbone: Backbone,
    method: str,
    names: Sequence[str],
    inputs: dict[str, Tensor],
    before: Tensor,
    part: nn.Module | None = None,
) -> None:
    """Refuse where other values of the weights ``names`` (in the body, or ``part`` of it) leave its states as ``before``, or get no
    gradient.
    """
    body, rng = part or backbone.model, numpy_stream("reach", "values")
    weights = {}
    for name in names:
        now = body.get_parameter(name)
        drawn = torch.from_numpy(rng.standard_normal(tuple(now.shape))).to(now.device, now.dtype)
        weights[name] = (drawn * now.shape[-1] ** -0.5).requires_grad_(True)
    with still(body), torch.enable_grad():
        last = functional_call(body, weights, kwargs=_asked(backbone, inputs, body)).last_hidden_state[inputs["attention_mask"].bool()]
        if same(before, last.detach()):
            raise unreached(backbone, method, "it leaves the output as it is")
        if not last.requires_grad:
            raise unreached(backbone, method, "no gradient comes back from it")
        toward = torch.from_numpy(rng.standard_normal(tuple(last.shape))).to(last.device, last.dtype)
        found = torch.autograd.grad((last * toward).sum(), list(weights.values()), allow_unused=True)
    idle = [name for name, grad in zip(weights, found, strict=True) if grad is None or not grad.any()]
    if idle:
        raise unreached(backbone, method, f"{idle[0]} gets no gradient")


def unreached(backbone: Backbone, method: str, why: str) -> ModelError:
    """The refusal of a model that a method does not reach."""
    return ModelError(
        f"{method} cannot serve {backbone.source} ({backbone.layout.family}): it does not arrive in this model's forward pass as it"
        f" should, {why}; use lora, which changes the linear maps themselves"
    )
