"""What stages that train by the gradient loop say of their methods, decided from the values alone."""

from __future__ import annotations

from abc import ABC
from typing import Any

from tempering.stages.setup import parts_of


class Framings(tuple[Any, ...]):
    """The framings of a stage of several tasks, where one task's stage has a single one."""

    __slots__ = ()

    @property
    def supervised(self) -> bool:
        """Whether any of them reads labels."""
        return any(framing.supervised for framing in self)

    @property
    def max_length(self) -> int | None:
        """The longest text any of them reads; None where one leaves that to the model."""
        lengths: list[int] = [getattr(framing, "max_length", None) or 0 for framing in self]
        return None if 0 in lengths else max(lengths, default=None)


class Acting(ABC):
    """The methods that act while such a stage trains, and the forward passes they make."""

    framing: Any
    tuning: Any
    stabilizers: tuple[Any, ...]
    per_device_train_batch_size: int
    gradient_accumulation_steps: int

    @property
    def acting(self) -> tuple[Any, ...]:
        """Everything that has hooks while training: the stabilizers, and those parts of the tuning and framings that act along."""
        framings = self.framing if isinstance(self.framing, Framings) else (self.framing,)
        return (*self.stabilizers, *(part for part in (*parts_of(self.tuning), *framings) if hasattr(part, "start")))

    @property
    def live(self) -> tuple[Any, ...]:
        """What acts and is not at its neutral setting."""
        return tuple(s for s in self.acting if not s.neutral)

    @property
    def students(self) -> int:
        """Stochastic passes of one micro-batch: as many as any method reads, and one for the supervised loss unless it is replaced."""
        plain = 0 if any("base" in s.touches for s in self.live) else 1
        return max([plain, *(getattr(s, "students", 0) for s in self.live)])

    @property
    def at_once(self) -> tuple[int, int]:
        """(rows, student passes of each) whose activations are kept until gradients are taken: a whole micro-batch."""
        return self.per_device_train_batch_size, self.students

    @property
    def micro_batches(self) -> int:
        """How many batches a full step goes through, one after the other."""
        return self.gradient_accumulation_steps

    @property
    def passes_per_step(self) -> int:
        """Forward passes a full step costs."""
        each = self.students + sum(getattr(s, "teachers", 0) + getattr(s, "perturbations", 0) for s in self.live)
        return self.micro_batches * each
