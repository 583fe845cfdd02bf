"""The stage that trains one backbone on several tasks at once, each with a framing of its own."""

from __future__ import annotations

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
from tempering.stages.acting import Acting, Framings
from tempering.stages.checks import check_train
from tempering.stages.data_source import DataSource, Named, named
from tempering.stages.finishing import account
from tempering.stages.group import Group
from tempering.stages.kept import keep_head
from tempering.stages.live_dropout import dropout_notes
from tempering.stages.setup import Surroundings, parts_of, prepared
from tempering.stages.sources import read_source
from tempering.train.checkpoint import latest
from tempering.train.fit import Plan, Run, fit
from tempering.train.settings import Loop
from tempering.train.several import MEAN, Sampling
from tempering.tunings.full import Full

ENOUGH = 15  # tasks; Muppet was worse than none with fewer, and better with each more


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class TaskSource:
    """One task of several: its ``data`` by path (none: the user's own task), its framing, and the factor ``weight`` on its loss.

    In a list of tasks a path alone, or one with its columns (`DataSource`), stands for its settings, and ``{}`` for the user's own task:
    ``tasks: [{}, films.csv, {path: snli.jsonl, label: gold_label}]``. ``name`` is what metrics call it (default: the
    name of its file). ``keep_head`` is a name under which its framing's weights wait for a later stage.
    """

    data: Named | None = None
    framing: Any = Field(default_factory=Head)
    weight: float = Field(default=1.0, gt=0)
    name: str | None = Field(default=None, pattern=r"^[^./]+$")
    keep_head: str | None = Field(default=None, min_length=1)

    @field_validator("framing", mode="before")
    @classmethod
    def _by_name(cls, given: Any) -> Any:
        return methods("framing", given, "TaskSource.framing")

    @field_validator("data", mode="before")
    @classmethod
    def _named(cls, given: Any) -> Any:
        return given if given is None else named(given)


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class MultiTask(Loop, Acting):
    """Trains one body on several tasks at once; every micro-batch is of one task, every step of several.

    *Paper*: Caruana 1997; Liu et al. 2019 (MT-DNN); Aghajanyan et al. 2021 (Muppet: heterogeneous steps, losses over log n); Raffel et
    al. 2020 (temperature, cap).
    *Formula*: a step holds ``gradient_accumulation_steps`` micro-batches, each of task t with the chance p_t = m_t^(1/T) / sum m^(1/T),
    m_t = min(n_t, ``cap``) for n_t rows; T = 1 for ``sampling`` "size", ``temperature`` for "temperature", infinite for "uniform"; with
    "round_robin" no task comes again before all have come. The loss is the mean over rows of w_t l_t / log(classes_t), or of w_t l_t with
    ``loss_scale`` "none". An epoch is as many rows as all tasks have together.
    *Needs*: data sets by path. One task without ``data`` is the user's own: with it the stage may be the last, and makes a learner for
    that task. ``heads`` "shared" gives all tasks one head: then kinds must be equal and labels agree.
    *Costs*: as a stage train on all rows.
    *Differs*: Muppet draws no task more or less often than its rows (here: "size") and spreads a step over processes, here over
    micro-batches one after the other. The best weights are those of the best mean of the tasks' main metrics on their development rows.
    """

    tasks: tuple[TaskSource, ...] = ()
    sampling: Sampling = "size"
    temperature: float = Field(default=2.0, gt=0)
    cap: int | None = Field(default=None, gt=0)
    loss_scale: Literal["log_classes", "none"] = "log_classes"
    heads: Literal["own", "shared"] = "own"
    tuning: Any = Field(default_factory=Full)
    stabilizers: tuple[Any, ...] = ()
    gradient_accumulation_steps: int = Field(default=4, gt=0)

    text: ClassVar[str] = "labeled"
    cached: ClassVar[bool] = False
    why_not_cached: ClassVar[str] = "rows of several tasks are drawn anew for every step"

    @field_validator("tuning", "stabilizers", mode="before")
    @classmethod
    def _by_name(cls, given: Any, info: ValidationInfo) -> Any:
        return methods(str(info.field_name), given, f"MultiTask.{info.field_name}")

    @field_validator("tasks", mode="before")
    @classmethod
    def _paths(cls, given: Any) -> Any:
        """A path alone, or one with its columns, is a task with a head."""
        listed = [given] if isinstance(given, str | DataSource | Mapping) else given
        return tuple(TaskSource(data=named(one)) if _is_data(one) else one for one in listed)

    @property
    def framing(self) -> Framings:
        """Those of all tasks."""
        return Framings(task.framing for task in self.tasks)

    @property
    def own(self) -> int | None:
        """The number of the user's own task among the tasks."""
        return next((i for i, task in enumerate(self.tasks) if task.data is None), None)

    @property
    def data_paths(self) -> tuple[Named, ...]:
        """The data sets beside the user's that are read."""
        return tuple(task.data for task in self.tasks if task.data)

    def learns(self, task: Any, read: bool = True) -> tuple[Any, ...]:
        """Its tasks in their order; ``task`` is the user's, which without ``read`` stands for all."""
        return tuple(read_source(one.data) if one.data and read else task for one in self.tasks)

    def outline(self, backbone: Backbone, tasks: tuple[Any, ...], seeds: Seeds) -> Learner:
        """The learner over all tasks, as it stands before the first step."""
        return Group.of(self, backbone, tasks, seeds).learner

    def check(self, where: str, last: bool) -> list[str]:
        """Refuse what cannot work or means nothing, before any weight is loaded; notes worth printing."""
        if len(self.tasks) < 2:
            raise RecipeError(
                f"{where}: multi_task needs at least two tasks, found {len(self.tasks)}; name data sets, as in"
                "  stages.0.tasks=[a.jsonl, b.jsonl], or take a stage train for a single one"
            )
        _check_tasks(self, where, last)
        refused = [p for p in (*self.stabilizers, *parts_of(self.tuning), *self.framing) if hasattr(p, "prepare")]
        refused += [framing for framing in self.framing if hasattr(framing, "start")]
        if refused:
            raise RecipeError(
                f"{where}: {name_of(refused[0])[1]} chooses from, or acts on, the rows of one task, and here are several; take another"
                " method, or one stage train a task"
            )
        if self.metric_for_best_model not in (None, "loss", MEAN):
            raise RecipeError(
                f"{where}: metric_for_best_model {self.metric_for_best_model!r} is of one task; leave it out (the mean of the tasks' main"
                " metrics), or set loss"
            )
        return check_train(self, where, last) + ([] if last else _few(self, where))

    def run(self, backbone: Backbone, task: Any, seeds: Seeds, **context: Any) -> Learner:
        """Train on ``backbone`` (changed in place); the learner of the user's own task where it is among them, else of all."""
        around: Surroundings = context.get("around") or Surroundings()
        group = Group.of(self, backbone, self.learns(task), seeds)
        learner, evaluator, feed = group.learner, group.evaluator(around), group.feed()
        group.prepare(around)
        metric = self.metric_for_best_model or (MEAN if evaluator is not None and group.judged else "loss")
        backbone.recompute(self.gradient_checkpointing)
        named = [(name_of(part)[1], part) for part in self.acting]
        plan = Plan(self, named, seeds.dropout, evaluator, metric, around.folder, around.resume, dict(around.identity), around.listener)
        if not (around.resume and around.folder and latest(around.folder)):
            plan = prepared(self, learner, feed, plan, seeds)
        run = fit(learner, feed, plan)
        finished = group.finish()
        for i, source in enumerate(self.tasks):
            if source.keep_head:
                around.kept[source.keep_head] = keep_head(group.view(i), group.framings[i], group.under_head(i))
        done = learner if self.own is None else group.view(self.own)
        done.record["stage"] = _account(run, group, finished)
        return done.eval()


def _is_data(given: Any) -> bool:
    """Whether an entry of the list is a data set alone, without settings of its task."""
    return isinstance(given, str | DataSource) or (isinstance(given, Mapping) and "path" in given)


def _check_tasks(stage: MultiTask, where: str, last: bool) -> None:
    own = [task for task in stage.tasks if task.data is None]
    names = [task.name for task in stage.tasks if task.name]
    if len(own) > 1:
        raise RecipeError(f"{where}: {len(own)} of the tasks have no data, and without it a task is your own; give all but one a path")
    if last and not own:
        raise RecipeError(f"{where}: the last stage must learn your task; add a task without data, which is yours, or a stage after it")
    if packed := [framing for framing in stage.framing if getattr(framing, "packed", False)]:
        raise RecipeError(
            f"{where}: {name_of(packed[0])[1]} with packed fills its rows with several texts, and a task of several is drawn text by text;"
            " set packed to false here, or give it a stage train of its own"
        )
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise RecipeError(f"{where}: two tasks are named {doubled[0]!r}; give each another name, or none")
    if stage.heads == "shared" and len(set(stage.framing)) > 1:
        raise RecipeError(f"{where}: heads are shared, and the tasks have different framings; give all the same, or set heads: own")
    if stage.heads == "shared" and any(task.keep_head for task in stage.tasks[1:]):
        raise RecipeError(f"{where}: the shared head is kept once; leave keep_head to the first task")


def _few(stage: MultiTask, where: str) -> list[str]:
    """A note where a stage trains on fewer tasks than are known to help the one after it."""
    if len(stage.tasks) >= ENOUGH:
        return []
    said = f"{len(stage.tasks)} tasks at once; fewer than about {ENOUGH} before another were seen to hurt it (Aghajanyan et al. 2021)"
    return [f"{where}: {said}, so compare with a recipe without this stage"]


def _account(run: Run, group: Group, finished: bool) -> dict[str, Any]:
    tasks = {name: {"rows": len(rows), "share": share} for (name, rows), share in zip(group.rows.items(), group.chances, strict=True)}
    more = {"notes": dropout_notes(group.stage, group.learner), "finished": finished}
    told = account(group.stage, run, sum(map(len, group.rows.values())), run.split, **more)
    own = {} if group.stage.own is None else {"own": group.names[group.stage.own]}
    return told | {"tasks": tasks} | own
