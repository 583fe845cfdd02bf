"""What a study keeps of one run, and of itself."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Record:
    """One finished (or failed) cell: a recipe, with its chosen setting, on one training size with one seed.

    ``size`` is the size as it was asked for ("32" or "all"), ``rows`` the training rows really used. ``dev`` and ``test``
    map metric names to values. ``items`` holds the per-row test score (1 right / 0 wrong; for regression the negative squared
    error), ``predictions`` the predicted label of every test row. ``collapsed``: at or under the majority baseline.
    ``seconds`` is wall time of training and evaluation without ``cache_seconds``: those went into outputs of a frozen model that all
    runs share, and whichever run came first happened to compute them. ``peak_memory`` and ``artefact_bytes`` are bytes.
    """

    recipe: str
    recipe_key: str
    size: str
    rows: int
    seed: int
    setting: dict[str, Any] = field(default_factory=dict)
    status: str = "done"  # or "failed"
    reason: str = ""
    dev: dict[str, float] = field(default_factory=dict)
    test: dict[str, float] = field(default_factory=dict)
    items: list[float] = field(default_factory=list)
    predictions: list[Any] = field(default_factory=list)
    collapsed: bool = False
    seconds: float = 0.0
    cache_seconds: float = 0.0
    search_seconds: float = 0.0
    peak_memory: int = 0
    trained_parameters: int = 0
    total_parameters: int = 0
    artefact_bytes: int = 0
    seeds: dict[str, int] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    levels: list[int] = field(default_factory=list)  # of sampling, initialization and order, where a run crosses them
    facts: list[dict[str, float]] = field(default_factory=list)  # what the framing told while training: step, then its main fact first

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON-ready form."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class StudyInfo:
    """What a study compares: written once, checked whenever it is continued.

    ``metric`` is the main metric and ``higher_is_better`` its direction; ``majority`` is the main metric of the majority-class
    (or mean-value) predictor on test; ``test_rows`` and ``dev_rows`` are counts; ``gold`` the true test labels; ``metrics`` the
    extra ones. ``small_spaces`` names recipes with fewer settings to try than ``budget``, with their number. ``cache_seconds`` is what
    the outputs of frozen models, shared by all runs, took up to now. ``crossed`` is how many levels of each seed stream are crossed to
    decompose the variance (0: not asked for). ``quantize`` says how the model's frozen matrices are packed ("": not at all).
    ``search_seeds`` is how many seeds each setting was tried with (0: all, in studies of before).
    """

    title: str
    data: str
    model: str
    kind: str
    metric: str
    recipes: list[str]
    sizes: list[str]
    seeds: int
    budget: int
    majority: float
    dev_rows: int
    test_rows: int
    labels: list[Any] = field(default_factory=list)
    gold: list[Any] = field(default_factory=list)
    higher_is_better: bool = True
    fingerprint: str = ""
    findings: list[str] = field(default_factory=list)  # what the data doctor said
    metrics: list[str] = field(default_factory=list)
    small_spaces: dict[str, int] = field(default_factory=dict)
    cache_seconds: float = 0.0
    crossed: int = 0
    quantize: str = ""
    search_seeds: int = 0

    @property
    def space_note(self) -> str:
        """Which recipes cannot use the whole budget, in a sentence; empty if all can."""
        if not self.small_spaces:
            return ""
        names = ", ".join(f"{name} ({count})" for name, count in self.small_spaces.items())
        return f"Fewer settings than the budget of {self.budget} in the search space of {names}: all of them are tried."

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON-ready form."""
        return asdict(self)
