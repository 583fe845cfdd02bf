"""Numbers as people read them. Every form of the report goes through these functions, so all of them say the same."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

UNKNOWN = "n/a"


@dataclass(frozen=True, slots=True)
class Scale:
    """How values of the main metric are shown: as a percentage with one decimal, or as they are with three digits.

    ``metric`` is the metric's name and ``higher_is_better`` its direction.
    """

    metric: str
    percent: bool
    higher_is_better: bool = True

    @classmethod
    def of(cls, metric: str, higher_is_better: bool, values: Iterable[float]) -> Scale:
        """Percent for a score that lives in 0..1 (judged by its direction and the values seen), else plain numbers."""
        seen = [v for v in values if math.isfinite(v)]
        share = higher_is_better and bool(seen) and max(seen) >= 0 and all(-1 <= v <= 1 for v in seen)
        return cls(metric, share, higher_is_better)

    @property
    def factor(self) -> float:
        """What a raw value is multiplied with before it is shown or plotted."""
        return 100.0 if self.percent else 1.0

    @property
    def unit(self) -> str:
        """The word behind a difference of two values."""
        return " points" if self.percent else ""

    def value(self, value: float) -> str:
        """A value: "91.2 %" or "0.913"."""
        return percent(value) if self.percent else number(value)

    def interval(self, low: float, high: float) -> str:
        """An interval: "90.1 to 92.3 %"."""
        if not (math.isfinite(low) and math.isfinite(high)):
            return UNKNOWN
        return f"{self.bare(low)} to {self.value(high)}"

    def bare(self, value: float) -> str:
        """A value without its unit."""
        return self.value(value).removesuffix(" %")

    def difference(self, value: float, signed: bool = True) -> str:
        """A difference: "+1.2 points", or "0.013" where values are not percentages."""
        shown = self.bare(value)
        plus = "+" if signed and math.isfinite(value) and shown.strip("0.-") and value > 0 else ""
        return shown if shown == UNKNOWN else f"{plus}{shown}{self.unit}"


def number(value: float, digits: int = 3) -> str:
    """A plain number with three significant digits, without a negative zero."""
    if not math.isfinite(value):
        return UNKNOWN
    shown = f"{value:.{digits}f}" if abs(value) < 10 else f"{value:,.1f}"
    return shown.removeprefix("-") if not shown.strip("-0.") else shown


def percent(share: float) -> str:
    """A share in 0..1 as a percentage with one decimal: 0.9123 is "91.2 %"."""
    if not math.isfinite(share):
        return UNKNOWN
    shown = f"{share * 100:.1f}"
    return ("0.0" if shown == "-0.0" else shown) + " %"


def share(part: int, whole: int) -> str:
    """The share of parameters that are trained; small shares keep two significant digits, so that none reads as zero."""
    if whole <= 0:
        return UNKNOWN
    ratio = part / whole
    return f"{ratio * 100:.2g} %" if 0 < ratio < 0.001 else percent(ratio)


def probability(p: float) -> str:
    """A p value with three decimals; smaller ones are "< 0.001"."""
    if not math.isfinite(p):
        return UNKNOWN
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def seconds(value: float) -> str:
    """A duration: "40 ms", "1.2 s", "45 s", "3.5 min", "25 min", "2.1 h"."""
    if not math.isfinite(value):
        return UNKNOWN
    if value <= 0:
        return "0 s"
    if value < 0.0995:
        return f"{value * 1000:.2g} ms"
    if value < 99.5:
        return f"{value:.1f} s" if value < 9.95 else f"{value:.0f} s"
    minutes = value / 60
    if minutes < 99.5:
        return f"{minutes:.1f} min" if minutes < 9.95 else f"{minutes:.0f} min"
    return f"{minutes / 60:.1f} h"


def size_of(count: float) -> str:
    """Bytes in decimal units: "22.7 MB". Zero means that it was not measured."""
    return UNKNOWN if not math.isfinite(count) or count <= 0 else _scaled(count, ("B", "kB", "MB", "GB", "TB"))


def count_of(count: float) -> str:
    """A count of parameters: "22.7 M"."""
    return UNKNOWN if not math.isfinite(count) else _scaled(count, ("", "k", "M", "B", "T"))


def _scaled(count: float, units: tuple[str, ...]) -> str:
    power = 0
    while count >= 999.5 and power < len(units) - 1:
        count, power = count / 1000, power + 1
    shown = f"{count:.0f}" if power == 0 or count >= 99.95 else f"{count:.1f}"
    return f"{shown} {units[power]}".strip()
