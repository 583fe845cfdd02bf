"""The stage that trains with gradients: supervised, task- or domain-adaptive, intermediate."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, Field, ValidationInfo, field_validator
from pydantic.dataclasses import dataclass

from tempering.backbone import Backbone
from tempering.cache import TrunkCache
from tempering.codec import methods
from tempering.contracts import Seeds
from tempering.framings.head import Head
from tempering.learner import Learner
from tempering.registry import name_of
from tempering.stages.checks import check_train
from tempering.stages.setup import Surroundings, assemble, evaluator_of, fresh_note, metric_of, parts_of, prepared, row_weights, rows_of
from tempering.streams import numpy_stream
from tempering.train.checkpoint import latest
from tempering.train.device import place, threads
from tempering.train.evaluate import fit_thresholds, telling
from tempering.train.feed import Feed
from tempering.train.fit import Plan, fit
from tempering.train.settings import Loop
from tempering.tunings.full import Full


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Train(Loop):
    """Trains a tuning of the backbone under a framing, steadied by stabilizers.

    ``text``: "labeled" trains on the task's rows; "unlabeled" on the texts of its training split alone; anything else is a file of
    texts. What crosses to the next stage is the backbone with the tuning folded in; the framing's own weights stay behind.
    The loop's settings (`tempering.train.settings.Loop`) are fields of this value too.
    """

    framing: Any = Field(default_factory=Head)
    tuning: Any = Field(default_factory=Full)
    stabilizers: tuple[Any, ...] = ()
    text: str = "labeled"

    @field_validator("framing", "tuning", "stabilizers", mode="before")
    @classmethod
    def _by_name(cls, given: Any, info: ValidationInfo) -> Any:
        """Methods may be named as in a recipe file: ``Train(tuning="lora")``."""
        return methods(str(info.field_name), given, f"Train.{info.field_name}")

    @property
    def cached(self) -> bool:
        """Whether the trunk is computed once: decided from the values alone, before anything is loaded (DESIGN, leak 7)."""
        return not self.why_not_cached

    @property
    def why_not_cached(self) -> str:
        """The reason why the trunk cannot be computed once; empty if it can."""
        touching = [name_of(s)[1] for s in self.live if {"weights", "noise"} & set(s.touches) or bool(getattr(s, "perturbations", 0))]
        if self.tuning.trains_backbone:
            return f"tuning {name_of(self.tuning)[1]} trains weights of the backbone"
        if not self.tuning.trunk_eval:
            return "the trunk runs with dropout"
        if not self.framing.supervised:
            return "masks are drawn anew for every batch"
        return f"{touching[0]} changes weights or embeddings from pass to pass" if touching else ""

    @property
    def acting(self) -> tuple[Any, ...]:
        """Everything that has hooks while training: the stabilizers, and those parts of the tuning and framing that act along."""
        return (*self.stabilizers, *(part for part in (*parts_of(self.tuning), self.framing) if hasattr(part, "start")))

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
    def passes_per_step(self) -> int:
        """Forward passes one micro-batch costs."""
        return self.students + sum(getattr(s, "teachers", 0) + getattr(s, "perturbations", 0) for s in self.live)

    def check(self, where: str, last: bool) -> list[str]:
        """Refuse what cannot work or means nothing, before any weight is loaded; notes worth printing."""
        return check_train(self, where, last)

    def run(self, backbone: Backbone, task: Any, seeds: Seeds, **context: Any) -> Learner:
        """Train on ``backbone`` (changed in place) and return the learner. ``context`` holds a `Surroundings` as ``around``."""
        around: Surroundings = context.get("around") or Surroundings()
        metric = metric_of(self, task, around.metrics)
        examples, held_out = rows_of(self, task, seeds)
        learner = assemble(self, backbone, task, seeds)
        if note := fresh_note(learner):
            around.listener({"event": "note", "text": note})
        evaluator = evaluator_of(self, task, held_out, around)
        learner.framing.prepare(learner.to(place(self).device), examples, numpy_stream(seeds.sampling, "framing"))
        feed = Feed(learner.framing, examples, self, seeds, weights=row_weights(self, task, examples))
        if self.cached:
            learner.to(place(self).device)
            cache = around.cache or TrunkCache()
            with telling(learner, around.listener):
                feed.features = cache.features(learner, feed.prompts(), self.per_device_eval_batch_size)
            if evaluator is not None:
                evaluator.features = lambda prompts: cache.features(learner, prompts, self.per_device_eval_batch_size)
                with telling(learner, around.listener):
                    evaluator.prompts(learner)  # here, where all threads are at work
        backbone.recompute(self.gradient_checkpointing)
        named = [(name_of(part)[1], part) for part in self.acting]
        plan = Plan(self, named, seeds.dropout, evaluator, metric, around.folder, around.resume, dict(around.identity), around.listener)
        if not (around.resume and around.folder and latest(around.folder)):  # a checkpoint holds what was chosen
            plan = prepared(self, learner, feed, plan, seeds)
        with threads(1 if self.cached else None):
            run = fit(learner, feed, plan)
        learner.framing.finish(learner, examples, numpy_stream(seeds.sampling, "framing", "finish"))
        if evaluator is not None and self.framing.supervised:
            fit_thresholds(learner, evaluator)
        learner.record["stage"] = {
            "steps": run.step,
            "best_step": run.best_step,
            "best_kept": self.load_best_model_at_end and bool(run.history),
            "history": run.history,
            **({"facts": run.facts} if run.facts else {}),
            "passes": run.passes,
            "cached": self.cached,
            "split": run.split,
            "rows": len(examples),
        }
        return learner
