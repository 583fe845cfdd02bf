"""A value between two label words: how far the model leans to the one, as a place on the scale, and the loss of that."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

LOW, HIGH = "low", "high"


def value_of(gap: Tensor, bounds: Tensor) -> Tensor:
    """v_l + (v_u - v_l) sigmoid(gap): the value that ``gap`` [...] = logit of the high word - logit of the low word stands for."""
    low, high = bounds
    found: Tensor = low + (high - low) * gap.sigmoid()
    return found


def share_of(values: Tensor, bounds: Tensor) -> Tensor:
    """(y - v_l) / (v_u - v_l), in [0, 1]: where on the scale ``values`` lie; those beyond an end lie at it."""
    low, high = bounds
    found: Tensor = ((values - low) / (high - low)).clamp(0.0, 1.0)
    return found


def pole_losses(gap: Tensor, values: Tensor, bounds: Tensor, reference: bool = False) -> Tensor:
    """KL(t || p) of each row, with t = (1 - s, s) for s = `share_of` and p = softmax of the two words' logits [rows].

    ``reference`` is what LM-BFF's code computes, which takes t for log t: mean over both poles of exp(t) (t - log p). Its least loss
    lies nearer to the middle of the scale than the value (princeton-nlp/LM-BFF#45); it is here to reproduce those runs.
    """
    share = share_of(values.to(gap.dtype), bounds.to(gap.dtype))
    target = torch.stack([1.0 - share, share], -1)
    logs = torch.stack([F.logsigmoid(-gap), F.logsigmoid(gap)], -1)
    if reference:
        return (target.exp() * (target - logs)).mean(-1)
    losses: Tensor = (torch.special.xlogy(target, target) - target * logs).sum(-1)
    return losses
