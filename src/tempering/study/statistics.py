"""The statistics of a study in one place: intervals, comparisons of all pairs, groups, the best and the power, churn, learning curves.

How valid they are was measured by ``benchmarks/error_rates.py``; the derivation is in `tempering.study.variance`.
"""

from __future__ import annotations

from tempering.study.best import Best, find_best, smallest_difference
from tempering.study.disagreement import Disagreement, churn, disagreement
from tempering.study.intervals import Gain, Interval, interval, learning_curve_gain
from tempering.study.pairs import Pair, compare_all, groups

__all__ = [
    "Best",
    "Disagreement",
    "Gain",
    "Interval",
    "Pair",
    "churn",
    "compare_all",
    "disagreement",
    "find_best",
    "groups",
    "interval",
    "learning_curve_gain",
    "smallest_difference",
]
