"""What the data doctor finds: one value a finding."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """One thing worth knowing. ``message`` is a sentence with counts and what to do; ``rows`` are 1-based rows in the file.

    ``severity``: an error makes results meaningless, a warning may mislead, a note is good to know.
    """

    code: str
    severity: Severity
    message: str
    rows: tuple[int, ...] = ()
    split: str = "train"
    detail: dict[str, Any] = field(default_factory=dict)
