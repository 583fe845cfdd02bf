"""Scores of simulated runs, shared by the tests of the statistics."""

from __future__ import annotations

import math

import numpy as np

NAN = math.nan
ABC = {"a": [0.91, 0.93, 0.92, 0.95, 0.90], "b": [0.88, 0.91, 0.91, 0.92, 0.86], "c": [0.70, 0.71, 0.73, 0.72, 0.69]}


def runs(means: dict[str, float], seeds: int = 5, items: int = 200, seed: int = 0) -> tuple[dict[str, list[float]], dict[str, np.ndarray]]:
    """Real-valued item scores of recipes with the given true means."""
    rng = np.random.default_rng(seed)
    shared = rng.standard_normal((1, items))
    tables = {
        name: mean + shared + 0.02 * rng.standard_normal((seeds, 1)) + 0.3 * rng.standard_normal((seeds, items))
        for name, mean in means.items()
    }
    return {name: table.mean(1).tolist() for name, table in tables.items()}, tables
