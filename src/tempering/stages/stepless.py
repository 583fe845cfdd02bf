"""What every stage without a gradient step answers to those who ask about steps, passes and stabilizers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import ValidationInfo, field_validator

from tempering.codec import methods
from tempering.tunings.frozen import Frozen


class Stepless(ABC):
    """Base of stages that take no step: the body stays as it is, nothing acts while training, and no setting of the loop has a meaning."""

    tuning: ClassVar[Any] = Frozen()
    cached: ClassVar[bool]
    stabilizers: ClassVar[tuple[Any, ...]] = ()
    acting: ClassVar[tuple[Any, ...]] = ()
    live: ClassVar[tuple[Any, ...]] = ()
    text: ClassVar[str] = "labeled"
    students: ClassVar[int] = 0
    at_once: ClassVar[tuple[int, int]] = (0, 0)
    micro_batches: ClassVar[int] = 1
    passes_per_step: ClassVar[int] = 0
    per_device_train_batch_size: ClassVar[int] = 0
    gradient_accumulation_steps: ClassVar[int] = 1
    gradient_checkpointing: ClassVar[bool] = False
    metric_for_best_model: ClassVar[str | None] = None
    label_smoothing_factor: ClassVar[float] = 0.0
    load_best_model_at_end: ClassVar[bool] = False
    eval_strategy: ClassVar[str] = "no"

    @field_validator("framing", mode="before", check_fields=False)
    @classmethod
    def _by_name(cls, given: Any, info: ValidationInfo) -> Any:
        """The framing may be named as in a recipe file."""
        return methods("framing", given, f"{cls.__name__}.framing")

    def total_steps(self, rows: int) -> int:
        """None are taken."""
        return 0

    def account(self, rows: int, found: Mapping[str, float]) -> dict[str, Any]:
        """What the learner's record tells of the stage: so many ``rows`` were read, and what came of it, if anything is worth telling."""
        course = {
            "steps": 0,
            "best_step": 0,
            "best_kept": False,
            "history": [],
            "passes": 0,
            "cached": self.cached,
            "split": 1,
            "rows": rows,
        }
        return course | ({"found": dict(found)} if found else {})

    @abstractmethod
    def check(self, where: str, last: bool) -> list[str]:
        """Refuse what cannot work or means nothing; notes worth printing."""
