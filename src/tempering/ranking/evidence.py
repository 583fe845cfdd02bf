"""LogME: how probable the labels are under a linear model of the features, with its two precisions chosen to make them most probable."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_ROUNDS, _TOLERANCE, _LEAST = 200, 1e-9, 1e-12


def log_me(features: Floats, targets: Floats) -> float:
    """Mean over the columns of ``targets`` [rows, columns] (one a class, or the values) of the largest log evidence a row.

    *Paper*: You, Liu, Wang, Long 2021 (LogME). *Formula*: y = F w + noise, w ~ N(0, 1/alpha), noise ~ N(0, 1/beta); with
    A = alpha I + beta F'F and m = beta A^-1 F'y,
    log p(y | F, alpha, beta) = n/2 log beta + d/2 log alpha - n/2 log 2 pi - beta/2 |F m - y|^2 - alpha/2 m'm - 1/2 log |A|,
    divided by the rows n; alpha and beta by the fixed point gamma = sum_i beta s_i / (alpha + beta s_i), alpha = gamma / m'm,
    beta = (n - gamma) / |F m - y|^2 for the eigenvalues s_i of F'F. One decomposition of F serves every column.
    *Differs*: it iterates to convergence where the authors' code stops after eleven rounds.
    """
    left, singular, _ = np.linalg.svd(features, full_matrices=False)
    kept = singular > singular.max(initial=0.0) * max(features.shape) * np.finfo(np.float64).eps
    return float(np.mean([_column(left[:, kept], singular[kept] ** 2, features.shape, y) for y in targets.T]))


def _column(left: Floats, eigenvalues: Floats, shape: tuple[int, ...], y: Floats) -> float:
    """The evidence a row of one column, in the basis of the left singular vectors ``left`` [rows, rank]."""
    n, d = shape
    inside = (left.T @ y) ** 2  # how much of y lies along each of them
    outside = max(float(y @ y - inside.sum()), 0.0)
    alpha, beta = 1.0, 1.0
    for _ in range(_ROUNDS):
        share = beta * eigenvalues / (alpha + beta * eigenvalues)
        size = max(float((beta**2 * eigenvalues * inside / (alpha + beta * eigenvalues) ** 2).sum()), _LEAST)
        rest = max(float(((1.0 - share) ** 2 * inside).sum() + outside), _LEAST)
        before, alpha, beta = alpha / beta, max(float(share.sum()), _LEAST) / size, max(n - float(share.sum()), _LEAST) / rest
        if abs(alpha / beta - before) <= _TOLERANCE * before:
            break
    return evidence(alpha, beta, eigenvalues, inside, outside, n, d) / n


def evidence(alpha: float, beta: float, eigenvalues: Floats, inside: Floats, outside: float, n: int, d: int) -> float:
    """log p(y | F, alpha, beta) from the eigenvalues of F'F, y's squared parts along the left singular vectors, and the rest of |y|^2."""
    divisor = alpha + beta * eigenvalues
    rest = float(((alpha / divisor) ** 2 * inside).sum() + outside)
    size = float((beta**2 * eigenvalues * inside / divisor**2).sum())
    determinant = float(np.log(divisor).sum()) + (d - len(eigenvalues)) * math.log(alpha)
    return 0.5 * (n * math.log(beta) + d * math.log(alpha) - n * math.log(2 * math.pi) - beta * rest - alpha * size - determinant)
