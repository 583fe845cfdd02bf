"""The losses of T-Few, from the log-probabilities of the tokens of every answer choice.

*Paper*: Liu et al. 2022, equations 1 to 3, and the authors' code. For a row with right choice y, log-probabilities p_t of the tokens t of
each choice, |c| tokens in choice c:

* ``lm``: - 1/|y| sum over t of y of log p_t
* ``unlikelihood``: the mean over tokens of all wrong choices of - log(1 - p_t + 0.01)
* ``length_norm``: cross entropy over choices c of beta(c) = (sum over t of c of log p_t) / |c|^a

*Differs*: the code averages ``lm`` and ``unlikelihood`` over the tokens of a batch, so that rows with long answers weigh more; here
every row weighs the same (rows of unlike weight: their weighted mean). Tokens are known by explicit masks, not by their ids.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Loss = Literal["lm", "unlikelihood", "length_norm"]
FLOOR = 1e-2  # keeps the logarithm of 1 - p finite


def lm(steps: Tensor, owner: Tensor, targets: Tensor) -> Tensor:
    """[rows] from ``steps`` [rows, tokens], the choice ``owner`` [tokens] of each and the right one of each row ``targets`` [rows]."""
    right = owner == targets[:, None]
    return -(steps * right).sum(1) / right.sum(1)


def unlikelihood(steps: Tensor, owner: Tensor, targets: Tensor) -> Tensor:
    """[rows]; zero where there is no wrong choice."""
    wrong = owner != targets[:, None]
    each = -torch.log1p(FLOOR - steps.exp())
    return (each * wrong).sum(1) / wrong.sum(1).clamp(min=1)


def length_norm(steps: Tensor, owner: Tensor, targets: Tensor, power: float = 1.0) -> Tensor:
    """[rows]."""
    return F.cross_entropy(normalized(steps, owner, power), targets, reduction="none")


def normalized(steps: Tensor, owner: Tensor, power: float) -> Tensor:
    """Scores [rows, choices]: the sum of log-probabilities over |c|^power."""
    chosen = F.one_hot(owner).to(steps.dtype)
    return steps @ chosen / chosen.sum(0) ** power
