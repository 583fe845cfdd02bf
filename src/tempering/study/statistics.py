"""The statistics of a study in one place: intervals, comparisons of all pairs, groups, power, churn, learning curves.

How valid they are was measured by ``benchmarks/statistics.py``; the derivation is in `tempering.study.variance`.
"""

from __future__ import annotations

from tempering.study.disagreement import Disagreement, churn, disagreement
from tempering.study.intervals import Gain, Interval, interval, learning_curve_gain
from tempering.study.pairs import Pair, compare_all, groups, smallest_difference, tied_with_best

__all__ = [
    "Disagreement",
    "Gain",
    "Interval",
    "Pair",
    "churn",
    "compare_all",
    "disagreement",
    "groups",
    "interval",
    "learning_curve_gain",
    "smallest_difference",
    "tied_with_best",
]
