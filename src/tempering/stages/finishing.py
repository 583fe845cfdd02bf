"""The framing's own last step once training is over, and whether it left predictions as they were."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tempering.contracts import Example, Seeds
from tempering.learner import Learner
from tempering.streams import numpy_stream

_TORCH = frozenset({"training", "_parameters", "_buffers", "_modules"})  # a pass puts the mode back; tensors are compared by value


def finish(learner: Learner, examples: Sequence[Example], seeds: Seeds) -> bool:
    """Let the framing finish on the training rows; whether it may predict otherwise now than in the evaluations while training."""
    numbers, rest = _numbers(learner.framing), _rest(learner.framing)
    learner.framing.finish(learner, examples, numpy_stream(seeds.sampling, "framing", "finish"))
    after, now = _numbers(learner.framing), _rest(learner.framing)
    same = numbers.keys() == after.keys() and all(torch.equal(numbers[name], after[name]) for name in after)
    return not same or rest.keys() != now.keys() or any(rest[name] is not now[name] for name in now)


def _numbers(framing: nn.Module) -> dict[str, Tensor]:
    """Weights and buffers as they are, also those that are not saved."""
    return {name: value.detach().clone() for part in (framing.named_parameters(), framing.named_buffers()) for name, value in part}


def _rest(framing: nn.Module) -> dict[tuple[str, str], Any]:
    """What else is set on the framing and the modules inside: flags, examples shown, a copy of the model before training."""
    return {(path, name): value for path, one in framing.named_modules() for name, value in vars(one).items() if name not in _TORCH}
