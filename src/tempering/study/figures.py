"""How a study's sentences write scores, differences and lists."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Unit:
    """How scores are written: percentages for metrics in 0..1 (as the report's tables do), else three digits."""

    metric: str
    percent: bool

    def bare(self, value: float) -> str:
        shown = f"{100 * value:.1f}" if self.percent else (f"{value:.3f}" if abs(value) < 10 else f"{value:,.1f}")
        return shown if shown.strip("-0.") else shown.removeprefix("-")

    def values(self, values: Iterable[float]) -> str:
        """ "94.1 and 93.8 % accuracy"."""
        return f"{listed([self.bare(v) for v in values])}{' %' if self.percent else ''} {self.metric}"

    def range(self, values: Sequence[float]) -> str:
        """ "61.0 to 85.2 % accuracy"."""
        return f"{self.span(min(values), max(values))}{' %' if self.percent else ''} {self.metric}"

    def span(self, low: float, high: float) -> str:
        return f"{self.bare(low)} to {self.bare(high)}"

    def gap(self, value: float) -> str:
        """ "0.3 points"."""
        return self.bare(value) + (" points" if self.percent else "")


def listed(parts: Sequence[str]) -> str:
    """ "a, b and c"."""
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
