"""The settings of the gradient loop, named as in transformers' ``TrainingArguments``."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

Positive = Field(gt=0)


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Loop:
    """How the loop trains. Every field has transformers' name and meaning unless said otherwise.

    ``warmup_steps`` below 1 is a share of all steps. ``min_steps`` stretches training on few rows: small sets need steps, not
    epochs (Mosbach et al. 2021, Zhang et al. 2021). ``eval_strategy: epoch`` evaluates ``num_train_epochs`` times, evenly spaced,
    also when ``min_steps`` stretches the run. ``head_learning_rate`` is the rate of the framing's own new weights (default:
    ``learning_rate``). ``class_weights: balanced`` weighs rows by n / (classes x count of the row's class). The schedule
    ``slanted_triangular`` (Howard and Ruder 2018) rises over the warm-up from a 32nd of the rate and falls back to it; ``polynomial`` falls
    as (1 - share) to ``lr_scheduler_power``. ``adam_bias_correction: false`` is Adam as BERT's first code had it, whose first steps are
    too long: to see what that does, not to train with. Several processes (``accelerate launch``) share the rows of each micro-batch:
    ``per_device_train_batch_size`` is what one alone would take, so that a recipe does the same however many there are.
    """

    learning_rate: float = Field(default=5e-5, gt=0)
    head_learning_rate: float | None = Field(default=None, gt=0)
    num_train_epochs: float = Field(default=3.0, gt=0)
    max_steps: int = Field(default=-1, ge=-1)
    min_steps: int = Field(default=0, ge=0)
    per_device_train_batch_size: int = Field(default=16, gt=0)
    per_device_eval_batch_size: int = Field(default=64, gt=0)
    gradient_accumulation_steps: int = Field(default=1, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    adam_beta1: float = Field(default=0.9, ge=0, lt=1)
    adam_beta2: float = Field(default=0.999, ge=0, lt=1)
    adam_epsilon: float = Field(default=1e-8, gt=0)
    max_grad_norm: float = Field(default=1.0, ge=0)
    adam_bias_correction: bool = True
    label_smoothing_factor: float = Field(default=0.0, ge=0, lt=1)
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup", "polynomial", "slanted_triangular"] = "linear"
    lr_scheduler_power: float = Field(default=1.0, gt=0)
    warmup_steps: float = Field(default=0.1, ge=0)
    eval_strategy: Literal["epoch", "steps", "no"] = "epoch"
    eval_steps: int = Field(default=500, gt=0)
    save_strategy: Literal["epoch", "steps", "no"] = "epoch"
    save_steps: int = Field(default=500, gt=0)
    load_best_model_at_end: bool = True
    metric_for_best_model: str | None = None
    early_stopping_patience: int | None = Field(default=None, gt=0)
    group_by_length: bool = True
    class_weights: Literal["none", "balanced"] = "none"
    bf16: bool | None = None
    fp16: bool = False
    gradient_checkpointing: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> Loop:
        if self.fp16:
            raise ValueError("fp16 needs loss scaling, which this loop does not do; set bf16: true, or leave both out")
        if self.early_stopping_patience and self.eval_strategy == "no":
            raise ValueError("early_stopping_patience needs evaluations; set eval_strategy to epoch or steps")
        return self

    def total_steps(self, rows: int) -> int:
        """Optimizer steps for ``rows`` training rows."""
        if self.max_steps > 0:
            return self.max_steps
        return max(1, self.min_steps, round(self.num_train_epochs * self.steps_per_epoch(rows)))

    def steps_per_epoch(self, rows: int) -> int:
        """Optimizer steps in one pass over ``rows``; what is left over makes a last, smaller step."""
        return -(-rows // (self.per_device_train_batch_size * self.gradient_accumulation_steps))

    def warmup(self, total: int) -> int:
        """Warm-up in steps."""
        return int(self.warmup_steps) if self.warmup_steps >= 1 else round(self.warmup_steps * total)

    def marks(self, strategy: str, every: int, total: int) -> frozenset[int]:
        """The steps (1-based) after which ``strategy`` acts; the last step is always among them unless it is "no"."""
        if strategy == "no":
            return frozenset()
        if strategy == "steps":
            return frozenset(range(every, total + 1, every)) | {total}
        parts = max(1, round(self.num_train_epochs))
        return frozenset(round(total * (i + 1) / parts) for i in range(parts)) - {0}
