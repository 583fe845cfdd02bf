"""The stage that makes a body ready for the light tuning that will be put to it: meta-learning over other labelled data sets."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, Field, ValidationInfo, field_validator
from pydantic.dataclasses import dataclass

from tempering.backbone import Backbone
from tempering.codec import methods
from tempering.contracts import Seeds
from tempering.errors import RecipeError
from tempering.framings.head import Head
from tempering.learner import Learner
from tempering.registry import name_of
from tempering.stages.data_source import DataSource, Named, named
from tempering.stages.episodes import Nursery
from tempering.stages.priming import prime
from tempering.stages.setup import Surroundings, parts_of
from tempering.stages.sources import distinct_names, read_source, refuse_kinds, suited
from tempering.train.settings import Loop
from tempering.tunings.houlsby import Houlsby


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Prime:
    """Meta-learns the body so that the tuning named here, put to it later, learns a task of that kind quickly.

    *Paper*: after Gheini, Ma, May 2022 (Know Where You're Going); Finn et al. 2017 (MAML).
    *Formula*: a step draws ``tasks_per_step`` sources, of each ``support_rows`` and ``query_rows`` rows, none in both. Inner loop:
    phi <- phi - alpha grad_phi L_support(theta, phi), ``inner_steps`` times, alpha = ``inner_learning_rate``, phi the weights of tuning
    and head, theta the body, frozen. Outer step: AdamW with the mean over tasks of grad_theta L_query(theta, phi_K), by default to first
    order (phi_K taken as constant); ``second_order`` differentiates through the inner steps (`tempering.train.meta`).
    ``inner`` "all" moves the body inside too: plain MAML. ``outer_trains`` "body_and_start" learns the start of phi as well, else it
    stays as drawn. ``heads``: "shared", one start for all sources (their labels must agree); "fresh", drawn anew in every episode;
    "kept", each source's own, which goes on where its last episode ended.
    *Needs*: ``sources``, labelled data sets of the user's kind of task, by path (or with their columns, a `DataSource`). The body keeps
    what it learned; tuning and head are drawn anew by the next stage, unless ``keep_head`` or ``keep_tuning`` gives their start a name
    that it says in ``reuse_head`` and ``reuse_tuning``.
    *Costs*: inner_steps + 1 passes forward and backward a task and step; second order keeps the activations of all of them.
    *Differs*: a reconstruction from the abstract and reviews; rates, steps and sizes are ours. Dropout is off inside the episode, also in
    the query pass. ``eval_steps`` rehearses on every source's training rows and scores its development rows; the best mean is kept.
    """

    sources: tuple[Named, ...] = ()
    framing: Any = Field(default_factory=Head)
    tuning: Any = Field(default_factory=Houlsby)
    outer_steps: int = Field(default=1000, gt=0)
    inner_steps: int = Field(default=5, ge=0)
    inner_learning_rate: float = Field(default=1e-2, ge=0)
    learning_rate: float = Field(default=1e-5, gt=0)
    tasks_per_step: int = Field(default=4, gt=0)
    support_rows: int = Field(default=16, gt=0)
    query_rows: int = Field(default=32, gt=0)
    second_order: bool = False
    inner: Literal["tuning", "all"] = "tuning"
    heads: Literal["shared", "fresh", "kept"] = "shared"
    outer_trains: Literal["body", "body_and_start"] = "body"
    keep_head: str | None = Field(default=None, min_length=1)
    keep_tuning: str | None = Field(default=None, min_length=1)
    weight_decay: float = Field(default=0.01, ge=0)
    adam_beta1: float = Field(default=0.9, ge=0, lt=1)
    adam_beta2: float = Field(default=0.999, ge=0, lt=1)
    adam_epsilon: float = Field(default=1e-8, gt=0)
    max_grad_norm: float = Field(default=1.0, ge=0)
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "linear"
    warmup_steps: float = Field(default=0.1, ge=0)
    eval_strategy: Literal["steps", "no"] = "steps"
    eval_steps: int = Field(default=250, gt=0)
    save_strategy: Literal["steps", "no"] = "steps"
    save_steps: int = Field(default=250, gt=0)
    load_best_model_at_end: bool = True
    per_device_eval_batch_size: int = Field(default=64, gt=0)
    bf16: bool | None = None
    gradient_checkpointing: bool = False

    rehearses: ClassVar[bool] = True  # its tuning is that of the next stage
    unshared: ClassVar[str] = "draws episodes"
    stabilizers: ClassVar[tuple[Any, ...]] = ()
    acting: ClassVar[tuple[Any, ...]] = ()
    live: ClassVar[tuple[Any, ...]] = ()
    text: ClassVar[str] = "labeled"
    cached: ClassVar[bool] = False
    why_not_cached: ClassVar[str] = "the body is trained"
    label_smoothing_factor: ClassVar[float] = 0.0
    class_weights: ClassVar[str] = "none"
    metric_for_best_model: ClassVar[str | None] = None
    gradient_accumulation_steps: ClassVar[int] = 1

    @field_validator("framing", "tuning", mode="before")
    @classmethod
    def _by_name(cls, given: Any, info: ValidationInfo) -> Any:
        return methods(str(info.field_name), given, f"Prime.{info.field_name}")

    @field_validator("sources", mode="before")
    @classmethod
    def _listed(cls, given: Any) -> Any:
        listed = [given] if isinstance(given, str | DataSource | Mapping) else given
        return tuple(named(one) for one in listed) if isinstance(listed, list | tuple) else given

    @property
    def loop(self) -> Loop:
        """What the outer loop shares with the gradient loop: optimizer, schedule, when to evaluate and save."""
        shared = ("learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "lr_scheduler_type",
                  "warmup_steps", "eval_strategy", "eval_steps", "save_strategy", "save_steps", "load_best_model_at_end",
                  "per_device_eval_batch_size", "bf16")  # fmt: skip
        return Loop(max_steps=self.outer_steps, **{name: getattr(self, name) for name in shared})

    @property
    def data_paths(self) -> tuple[Named, ...]:
        """The data sets beside the user's that are read."""
        return tuple(self.sources)

    @property
    def per_device_train_batch_size(self) -> int:
        """Rows of an outer step."""
        return self.tasks_per_step * (self.support_rows + self.query_rows)

    @property
    def students(self) -> int:
        """Forward passes of a task in one outer step."""
        return 1 + (self.inner_steps if self.inner_learning_rate else 0)

    @property
    def at_once(self) -> tuple[int, int]:
        """(rows, passes of each) whose activations are kept until gradients are taken: to first order one pass of an episode, to second
        order all of one, as its outer gradient goes through them.
        """
        inner = self.students - 1
        if self.second_order:
            return inner * self.support_rows + self.query_rows, 1
        return max(self.support_rows if inner else 0, self.query_rows), 1

    @property
    def micro_batches(self) -> int:
        """The tasks of one outer step."""
        return self.tasks_per_step

    @property
    def passes_per_step(self) -> int:
        """Forward passes of one outer step."""
        return self.micro_batches * self.students

    def total_steps(self, rows: int) -> int:
        """Outer steps."""
        return self.outer_steps

    def learns(self, task: Any, read: bool = True) -> tuple[Any, ...]:
        """The sources; without ``read`` the user's ``task`` stands for all of them."""
        return tuple(read_source(path) if read else task for path in self.sources)

    def outline(self, backbone: Backbone, tasks: tuple[Any, ...], seeds: Seeds) -> Learner:
        """A learner on a copy of the backbone, in which what the outer loop trains requires gradient."""
        return Nursery.of(self, backbone, tasks, seeds).learner

    def leave(self, backbone: Backbone) -> None:
        """Nothing to fold: the rehearsal was on a copy, and `run` has brought the body's weights back."""

    def check(self, where: str, last: bool) -> list[str]:
        """Refuse what cannot work or means nothing, before any weight is loaded; notes worth printing."""
        if not self.sources:
            raise RecipeError(
                f"{where}: prime rehearses on other labelled data sets, such as other languages, and names none; set"
                "  stages.0.sources=[english.jsonl, german.jsonl]"
            )
        if last:
            raise RecipeError(f"{where}: priming makes a body to be tuned, and no stage follows; add a stage train with its tuning")
        if self.gradient_checkpointing:
            raise RecipeError(
                f"{where}: gradient_checkpointing computes a pass again with other weights than the inner loop's, and gradients would be"
                " wrong; set it to false"
            )
        if not self.framing.supervised:
            raise RecipeError(f"{where}: framing {name_of(self.framing)[1]} reads no labels, and episodes are of labelled rows; take head")
        return _check_methods(self, where)

    def run(self, backbone: Backbone, task: Any, seeds: Seeds, **context: Any) -> Learner:
        """Prime the body of ``backbone`` (changed in place); the learner is the rehearsal's, on a copy of it."""
        around: Surroundings = context.get("around") or Surroundings()
        tasks = self.learns(task)
        refuse_kinds(tasks, distinct_names(tasks), self.framing, task)
        if (framing := suited(self.framing, task.kind)) is not self.framing:
            return dataclasses.replace(self, framing=framing).run(backbone, task, seeds, around=around)
        nursery = Nursery.of(self, backbone, tasks, seeds)
        learner = prime(self, nursery, seeds, around)
        nursery.bring_back(backbone)
        if self.keep_head:
            around.kept[self.keep_head] = nursery.kept_head()
        if self.keep_tuning:
            around.kept[self.keep_tuning] = nursery.kept_tuning()
        return learner


def _check_methods(stage: Prime, where: str) -> list[str]:
    """Tunings that choose from data, act on their own, or leave nothing to prime."""
    for part in (*parts_of(stage.tuning), stage.framing):
        acts = hasattr(part, "start") and not part.neutral
        if acts or (hasattr(part, "prepare") and getattr(part, "reads_rows", True)):
            raise RecipeError(
                f"{where}: {name_of(part)[1]} {'acts while it trains' if acts else 'chooses from the data'}, which the few steps of an"
                " episode cannot rehearse; take a tuning that adds weights, such as houlsby or lora"
            )
    if stage.inner == "tuning" and name_of(stage.tuning)[1] == "full":
        raise RecipeError(f"{where}: tuning full moves the whole body inside the episode; that is plain MAML: set inner: all")
    if stage.heads != "shared" and stage.keep_head:
        raise RecipeError(f"{where}: keep_head keeps the start that all sources share, and heads are {stage.heads!r}; set heads: shared")
    notes = []
    if stage.outer_trains == "body" and (stage.keep_head or stage.keep_tuning):
        notes.append(f"{where}: outer_trains is body, so the start that is kept is as it was drawn")
    if stage.outer_trains == "body_and_start" and not (stage.keep_head or stage.keep_tuning):
        notes.append(f"{where}: the start is learned and then dropped; keep_tuning and keep_head give it a name for the next stage")
    return notes
