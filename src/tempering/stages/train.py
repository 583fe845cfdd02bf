"""The stage that trains with gradients: supervised, task- or domain-adaptive, intermediate."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, Field, ValidationInfo, field_validator
from pydantic.dataclasses import dataclass

from tempering.backbone import Backbone
from tempering.cache import TrunkCache
from tempering.codec import methods
from tempering.contracts import Kind, Seeds
from tempering.corpora.nearest import Curate
from tempering.framings.head import Head
from tempering.learner import Learner
from tempering.registry import name_of
from tempering.stages.acting import Acting
from tempering.stages.checks import check_train
from tempering.stages.data_source import Named, named
from tempering.stages.finishing import close
from tempering.stages.kept import Kept, keep_head, keep_tuning, start_from
from tempering.stages.live_dropout import dropout_notes
from tempering.stages.setup import Surroundings, assemble, material, metric_of, prepared, rows_of, tell_notes
from tempering.stages.sources import read_source
from tempering.streams import numpy_stream
from tempering.train.checkpoint import latest
from tempering.train.device import Place, place, shards_asked, threads
from tempering.train.evaluate import Evaluator, telling
from tempering.train.feed import Feed
from tempering.train.fit import Plan, fit
from tempering.train.settings import Loop
from tempering.train.sharding import spread
from tempering.tunings.full import Full


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Train(Loop, Acting):
    """Trains a tuning of the backbone under a framing, steadied by stabilizers.

    ``text``: "labeled" trains on the task's rows; "unlabeled" on the texts of its training split alone; anything else is a corpus: a
    text file, a table, a folder of them (each also packed by gzip) or a data set, of any size. ``documents`` says what one text is in a
    text file, ``column`` where the texts of a table are, and ``curate`` keeps of a corpus only what is like the task's own texts.
    What crosses to the next stage is the backbone with the tuning folded in; the framing's own weights stay behind.
    ``data`` names another labelled data set (a file, a folder, a hub id; with its columns a `DataSource`) that this stage learns from in
    place of the user's: intermediate training (STILTs, Phang, Fevry, Bowman 2018). Its kind and labels may differ. ``keep_head`` is a
    name under which the framing's own weights wait for a later stage, which starts from them where its ``reuse_head`` says that name (the
    labels must agree);
    ``keep_tuning`` is a name for the tuning's weights: they are not folded in, the model itself goes on as it came (the stage works on a
    copy), and a later stage with the same tuning and this name as its ``reuse_tuning`` starts from them. So a prompt, a prefix or
    adapters are trained on one task and then on the next (PPT, SPoT). A stage `tempering.stages.prime.Prime` keeps a tuning's start, too.
    The loop's settings (`tempering.train.settings.Loop`) are fields of this value too.
    """

    framing: Any = Field(default_factory=Head)
    tuning: Any = Field(default_factory=Full)
    stabilizers: tuple[Any, ...] = ()
    text: str = Field(default="labeled", min_length=1)
    documents: Literal["line", "paragraph", "file"] = "line"
    column: str | None = Field(default=None, min_length=1)
    curate: Curate | None = None
    data: Named | None = None
    keep_head: str | None = Field(default=None, min_length=1)
    reuse_head: str | None = Field(default=None, min_length=1)
    keep_tuning: str | None = Field(default=None, min_length=1)
    reuse_tuning: str | None = Field(default=None, min_length=1)

    shards: ClassVar[bool] = True

    @field_validator("framing", "tuning", "stabilizers", mode="before")
    @classmethod
    def _by_name(cls, given: Any, info: ValidationInfo) -> Any:
        """Methods may be named as in a recipe file: ``Train(tuning="lora")``."""
        return methods(str(info.field_name), given, f"Train.{info.field_name}")

    @field_validator("data", mode="before")
    @classmethod
    def _named(cls, given: Any) -> Any:
        return given if given is None else named(given)

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
        if reason := getattr(self.framing, "why_not_cached", ""):
            return str(reason)
        return f"{touching[0]} changes weights or embeddings from pass to pass" if touching else ""

    @property
    def apart(self) -> bool:
        """Whether it works on a copy of the model, which goes on to the next stage as it came."""
        return self.keep_tuning is not None

    @property
    def data_paths(self) -> tuple[Named, ...]:
        """The data sets beside the user's that are read."""
        return (self.data,) if self.data else ()

    def learns(self, task: Any, read: bool = True) -> tuple[Any, ...]:
        """The one task it trains on: its own data, or the user's ``task``, which without ``read`` stands for both."""
        return (read_source(self.data) if self.data and read else task,)

    def suited(self, kind: Kind) -> Train:
        """This stage with the framing that stands for its own on a task of ``kind``: `Head` for `TokenHead`, say."""
        framing = self.framing.suited(kind) if hasattr(self.framing, "suited") else self.framing
        return self if framing is self.framing else dataclasses.replace(self, framing=framing)

    def check(self, where: str, last: bool) -> list[str]:
        """Refuse what cannot work or means nothing, before any weight is loaded; notes worth printing."""
        return check_train(self, where, last)

    def run(self, backbone: Backbone, task: Any, seeds: Seeds, **context: Any) -> Learner:
        """Train on ``backbone`` (in place, unless ``apart``) and return the learner. ``context`` holds a `Surroundings` as ``around``."""
        around: Surroundings = context.get("around") or Surroundings()
        if self.data:  # the user's own metrics are of the user's own task
            (task,), around = self.learns(task), dataclasses.replace(around, metrics=())
        if (mine := self.suited(task.kind)) is not self:
            return dataclasses.replace(mine, data=None).run(backbone, task, seeds, around=around)
        metric = metric_of(self, task, around.metrics)
        rows = rows_of(self, task, seeds)
        learner = assemble(self, backbone, task, seeds)
        start_from(learner, self, task, around.kept)
        where = place(self, shards_asked())
        learner.framing.prepare(learner.to(where.home), rows[0], numpy_stream(seeds.sampling, "framing"))
        tell_notes(learner, around, dropout_notes(self, learner))
        feed, evaluator, identity = material(self, learner, task, rows, seeds, around)
        if self.cached:
            self._compute_once(learner, feed, evaluator, around)
        learner.backbone.recompute(self.gradient_checkpointing)
        named, identity = [(name_of(part)[1], part) for part in self.acting], dict(around.identity) | identity
        plan = Plan(self, named, seeds.dropout, evaluator, metric, around.folder, around.resume, identity, around.listener)
        if not (around.resume and around.folder and latest(around.folder)):  # a checkpoint holds what was chosen
            plan = prepared(self, learner, feed, plan, seeds)
        with spread(learner, where) as trained, threads(1 if self.cached else None):
            before, run = self._before(trained, evaluator, where), fit(trained, feed, plan)
        close(learner, self, evaluator, run, rows[0], seeds)
        learner.record["stage"] |= {"rows": len(feed.examples)} | before
        around.kept.update(self._kept(learner, task))
        return learner

    def _before(self, learner: Learner, evaluator: Evaluator | None, where: Place) -> dict[str, Any]:
        """Of plain text, what the model makes of the part that is held out before anything is trained, and how much that is."""
        if self.framing.supervised or evaluator is None or self.eval_strategy == "no":
            return {}
        return {"before": where.once(lambda: evaluator(learner)[0]), "held_out": evaluator.amount(learner)}

    def _kept(self, learner: Learner, task: Any) -> dict[str, Kept]:
        """What waits for a later stage, by its name."""
        found = {self.keep_head: keep_head(learner, self.framing, task)} if self.keep_head else {}
        return found | ({self.keep_tuning: keep_tuning(learner, (), task)} if self.keep_tuning else {})

    def _compute_once(self, learner: Learner, feed: Feed, evaluator: Evaluator | None, around: Surroundings) -> None:
        """Put the trunk's outputs into the feed and the evaluator; both read those from then on."""
        cache, size = around.cache or TrunkCache(), self.per_device_eval_batch_size
        with telling(learner, around.listener):
            feed.features = cache.features(learner, feed.prompts(), size)
            if evaluator is not None:
                evaluator.features = lambda prompts: cache.features(learner, prompts, size)
                evaluator.asked(learner)  # here, where all threads are at work
