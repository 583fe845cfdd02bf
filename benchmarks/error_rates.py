"""Measured error rates of the study's statistics: how often equal recipes are called different, how often intervals miss.

    python benchmarks/error_rates.py [--trials 1000] [--items 100]

Every world draws fresh seeds and fresh test items for recipes that are equal in truth, with the spread real runs show; the
functions under test are those of `tempering.study.statistics`. Needs no data.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from tempering.study.statistics import compare_all, find_best, interval

Array = NDArray[np.float64]
RECIPES, SEEDS = (3, 4, 5, 6, 7, 8), (3, 5, 10)
# Compares [K, S] scores (and [K, S, n] items) of equal recipes: True when it claims what is not so.
Judge = Callable[[Array, Array | None], bool]


@dataclass(frozen=True)
class World:
    """How runs of equal recipes come out. Standard deviations of the effects, in logits when ``binary``, else in scores.

    ``shared_seed`` is common to the recipes of a seed (same training rows); ``taste`` is what a recipe makes of an item in
    every run. One run in ``collapse`` answers at random; ``uneven`` multiplies the seed effect of every third recipe by 4 and
    divides that of the next. A ``wild`` world is so skewed that no interval from three or five runs of one recipe can promise to
    cover its mean (half of all triples show no collapse); differences of equal recipes are symmetric and stay valid.
    """

    name: str
    seed: float = 0.3
    shared_seed: float = 0.0
    item: float = 1.0
    taste: float = 0.5
    rest: float = 0.7
    binary: bool = True
    base: float = 1.5
    collapse: float = 0.0
    uneven: bool = False
    items: int | None = None
    scores_only: bool = False
    wild: bool = False

    def draw(self, recipes: int, seeds: int, items: int, rng: np.random.Generator) -> Array:
        """Item scores [recipes, seeds, items] of one study."""
        n = self.items or items
        scale = 4.0 ** (np.arange(recipes) % 3 - 1) if self.uneven else np.ones(recipes)
        value = self.seed * scale[:, None, None] * rng.standard_normal((recipes, seeds, 1))
        value = value + self.shared_seed * rng.standard_normal((1, seeds, 1)) + self.item * rng.standard_normal((1, 1, n))
        value = value + self.taste * rng.standard_normal((recipes, 1, n)) + self.rest * rng.standard_normal((recipes, seeds, n))
        if not self.binary:
            return value
        right = (self.base + value > 0).astype(float)
        collapsed = rng.random((recipes, seeds, 1)) < self.collapse
        return np.where(collapsed, (rng.random((recipes, seeds, n)) < 0.5).astype(float), right)

    def truth(self, rng: np.random.Generator) -> float:
        """The expected score of a future run on a future item."""
        if not self.binary:
            return 0.0
        sd = np.sqrt(self.seed**2 + self.shared_seed**2 + self.item**2 + self.taste**2 + self.rest**2)
        healthy = float(stats.norm.cdf(self.base / sd))
        return (1 - self.collapse) * healthy + self.collapse * 0.5


WORLDS = (
    World("binary items, mild seeds"),
    World("binary items, seeds do nothing", seed=0.0),
    World("binary items, seeds dominate", seed=0.6, taste=0.1),
    World("seeds correlated across recipes", seed=0.3, shared_seed=0.6),
    World("30 items, 95 % right", base=2.6, items=30),
    World("real-valued items", binary=False, base=0.0, seed=0.1),
    World("real-valued, uneven recipes", binary=False, base=0.0, seed=0.2, uneven=True),
    World("scores only, uneven recipes", binary=False, base=0.0, seed=0.2, item=0.0, taste=0.0, uneven=True, scores_only=True),
    World("one run in five collapses", collapse=0.2, wild=True),
    World("sd between seeds 25 points", seed=1.5, taste=0.1, wild=True),
)


def ours(scores: Array, items: Array | None) -> bool:
    """The study's own comparison of all pairs: any pair is called different."""
    return any(pair.different for pair in compare_all(*_named(scores, items)))


def lost_best(scores: Array, items: Array | None) -> bool:
    """The study's own answer: the first recipe, as good as any, is said to be behind the best."""
    return "0" in find_best(*_named(scores, items)).behind


def _named(scores: Array, items: Array | None) -> tuple[dict[str, list[float]], dict[str, Array] | None]:
    names = [str(k) for k in range(len(scores))]
    return dict(zip(names, scores.tolist(), strict=True)), None if items is None else dict(zip(names, items, strict=True))


def uncorrected(scores: Array, items: Array | None) -> bool:
    """Wrong on purpose: a paired t test a pair, without a correction and blind to the choice of test items."""
    del items
    pairs = itertools.combinations(scores, 2)
    return any(bool(stats.ttest_rel(a, b).pvalue < 0.05) for a, b in pairs if np.ptp(a - b) > 0)


def bootstrap(scores: Array, items: Array | None) -> bool:
    """Wrong on purpose: a percentile bootstrap over the seeds of the first recipe, judged by whether it misses a truth of 0."""
    del items
    rng = np.random.default_rng(int(abs(scores[0, 0]) * 1e9) % 2**32)
    means = rng.choice(scores[0], (1000, scores.shape[1])).mean(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return bool(low > 0 or high < 0)


def false_positives(world: World, recipes: int, seeds: int, items: int, trials: int, judge: Judge = ours, start: int = 0) -> int:
    """In how many of ``trials`` studies of equal recipes ``judge`` claims something: by default, that some pair is different."""
    wrong = 0
    for trial in range(trials):
        table = world.draw(recipes, seeds, items, np.random.default_rng((start, recipes, seeds, trial)))
        wrong += judge(table.mean(2), None if world.scores_only else table)
    return wrong


def misses(world: World, seeds: int, items: int, trials: int, start: int = 1) -> int:
    """In how many of ``trials`` runs the 95 % interval of one recipe misses the score of future runs on future items."""
    truth, wrong = world.truth(np.random.default_rng(0)), 0
    for trial in range(trials):
        table = world.draw(1, seeds, items, np.random.default_rng((start, seeds, trial)))[0]
        found = interval(table.mean(1).tolist(), table)
        wrong += not found.low <= truth <= found.high
    return wrong


def most_allowed(trials: int, nominal: float = 0.05) -> int:
    """The largest count of errors that a method of error rate ``nominal`` shows in 999 of 1,000 such simulations."""
    return int(stats.binom.ppf(0.999, trials, nominal))


def simulate(
    worlds: Sequence[World] = WORLDS,
    recipes: Sequence[int] = RECIPES,
    seeds: Sequence[int] = SEEDS,
    trials: int = 1000,
    items: int = 100,
) -> Iterable[tuple[str, int, list[float], float, float]]:
    """For every world and number of seeds: familywise error rates, one for each number of recipes, the miss rate of `interval`,
    and how often the answer among the most recipes leaves out one that is as good as any.

    The miss rate is nan for a world of scores only, whose interval does not speak of future items.
    """
    for world, count in itertools.product(worlds, seeds):
        rates = [false_positives(world, k, count, items, trials) / trials for k in recipes]
        missed = float("nan") if world.scores_only else misses(world, count, items, trials) / trials
        left_out = false_positives(world, max(recipes), count, items, trials, judge=lost_best) / trials
        yield world.name + "*" * world.wild, count, rates, missed, left_out


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--items", type=int, default=100)
    options = parser.parse_args()
    allowed = 100 * most_allowed(options.trials) / options.trials
    print(f"{options.trials} studies a figure, {options.items} items; 5 % is kept when a rate is at most {allowed:.1f} %\n")
    print("(*: so skewed that the interval of one recipe cannot keep 5 %, see World)\n")
    print(f"{'world':34}{'seeds':>6}" + "".join(f"{k:>7}" for k in RECIPES) + "   missed by the 95 % interval   best left out")
    for name, count, rates, missed, left_out in simulate(trials=options.trials, items=options.items):
        print(
            f"{name:34}{count:>6}" + "".join(f"{100 * rate:>6.1f}%" for rate in rates) + f"{100 * missed:>10.1f}%{100 * left_out:>29.1f}%",
            flush=True,
        )


if __name__ == "__main__":
    main()
