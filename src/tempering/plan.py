"""What a recipe will do, computed before any weight is loaded: the content of ``temper explain`` and of ``--dry-run``.

The model is built on torch's ``meta`` device from its configuration alone, where tensors have shapes and no memory. Every stage is
then assembled on it as a run would assemble it, so the counts are those of the run and a refusal is the run's own sentence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tempering.backbone import Backbone
from tempering.codec import encode
from tempering.contracts import Example, Kind, Prompt, Seeds
from tempering.footprint import Memory, memory_of
from tempering.foretelling import costs_of, foretold, rows_read
from tempering.learner import Learner
from tempering.outlining import outline as outline
from tempering.outlining import token_lengths as token_lengths
from tempering.quantizing import packed_numbers
from tempering.recipe import Recipe
from tempering.registry import name_of
from tempering.saving import loads_with
from tempering.stages.checks import check_quantized, labelled
from tempering.stages.setup import assemble, learned_anew, leave, parts_of
from tempering.stages.sources import check_against, check_sources, learned, naming
from tempering.tasks.task import Split, Task
from tempering.train import hooks
from tempering.train.stream import expected_rows, streams

_SAMPLE = 2_000  # rows whose length is measured


@dataclass(frozen=True, slots=True)
class StagePlan:
    """One stage. ``backbone_trained`` counts trained parameters inside the model's body, ``head_trained`` those beside it.

    ``students``, ``teachers`` and ``perturbed`` are the forward passes of one micro-batch, ``micro_batches`` how many of these a full
    step has (priming: its tasks), ``passes`` what it makes in all. ``batch`` is the rows of that step; ``rows`` and ``steps`` are None
    without data. The memory is for texts of ``tokens`` tokens. ``costs``: what is made and read beyond one prompt a row, in words.
    """

    framing: Any
    tuning: Any
    stabilizers: tuple[Any, ...]
    backbone_trained: int
    head_trained: int
    students: int
    teachers: int
    perturbed: int
    micro_batches: int
    passes: int
    cached: bool
    why_not_cached: str
    batch: int
    tokens: int
    rows: int | None
    steps: int | None
    memory: Memory
    costs: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """A recipe on a model. ``parameters`` are those of the body; ``assumed`` says what was taken for granted without data."""

    recipe: str
    description: str
    key: str
    model: str
    family: str
    blocks: int
    width: int
    parameters: int
    stages: tuple[StagePlan, ...]
    loads_with: tuple[str, ...]
    notes: tuple[str, ...] = ()
    assumed: str = ""

    def lines(self) -> list[str]:
        """The plan in words, a line each."""
        where = f"{self.family}, {self.blocks} blocks of width {self.width}" if self.blocks else f"{self.family}, width {self.width}"
        found = [f"recipe {self.recipe}" + (f": {self.description}" if self.description else "")]
        found.append(f"model {self.model}: {where}, {self.parameters:,} parameters")
        for i, stage in enumerate(self.stages):
            found.append(f"stage {i + 1} of {len(self.stages)}: {_title(stage)}")
            found += [f"  {line}" for line in _stage_lines(stage, self.parameters)]
        found.append(f"the saved folder loads with: {', '.join(self.loads_with)}")
        return [*found, *(f"note: {note}" for note in (*self.notes, self.assumed) if note)]

    def as_dict(self) -> dict[str, Any]:
        """The plan as JSON-ready data; every memory entry is in bytes."""
        plain = asdict(self)
        for stage, mine in zip(plain["stages"], self.stages, strict=True):
            stage["share"] = mine.backbone_trained / self.parameters
            stage["memory"]["total"] = mine.memory.total
        return plain


def explain(recipe: Recipe | str, model: str | Backbone = "minilm", task: Task | None = None, quantize: str | None = None) -> Plan:
    """The plan of ``recipe`` on ``model`` (an alias, folder, hub id or an `outline`), with steps where there is a ``task``.

    A recipe that cannot work, or a family that a method cannot serve, is the error that a run would give. ``quantize`` "8bit" or "4bit":
    the model would be packed (`tempering.quantizing`).
    """
    recipe = Recipe.load(recipe)
    notes = recipe.check(task is None or labelled(task))
    if task is not None:
        check_sources(recipe.stages)
        notes += check_against(recipe.stages, task)
    backbone = outline(model, quantize) if isinstance(model, str) else model
    check_quantized(recipe.stages, backbone.quantized)
    for stage in recipe.stages:
        if hasattr(stage.framing, "opens"):
            stage.framing.opens(backbone)
    parameters = sum(p.numel() for p in backbone.model.parameters()) + packed_numbers(backbone)
    stages, learner = [], None
    for i, stage in enumerate(recipe.stages):
        with naming(stage, i):
            stage_plan, learner = _stage_plan(stage, backbone, task)
        stages.append(stage_plan)
        notes += [f"{recipe.name}: stages.{i}: {note}" for note in foretold(stage, learner, backbone, task)]
        if i + 1 < len(recipe.stages):
            leave(stage, backbone, learned_anew(learner))
    assert learner is not None  # a recipe has at least one stage
    return Plan(
        recipe=recipe.name,
        description=recipe.description,
        key=recipe.key(),
        model=backbone.source,
        family=backbone.layout.family,
        blocks=max(0, backbone.top - 1),
        width=backbone.hidden_size,
        parameters=parameters,
        stages=tuple(stages),
        loads_with=tuple(loads_with(learner)),
        notes=tuple(notes),
        assumed="" if task else "without data: two classes and texts as long as the model can read are assumed",
    )


def _stage_plan(stage: Any, backbone: Backbone, task: Task | None) -> tuple[StagePlan, Learner]:
    tasks = learned(stage, task or _stub(stage), read=task is not None)
    stage = stage.suited(tasks[0].kind) if hasattr(stage, "suited") else stage
    outlined = stage.outline(backbone, tasks, Seeds.of(0)) if hasattr(stage, "outline") else None
    learner: Learner = outlined or assemble(stage, backbone, tasks[0], Seeds.of(0))
    for part in parts_of(stage.tuning):
        if hasattr(part, "check_files"):
            part.check_files(backbone)
    trained = learner.trained()
    inside = sum(w.numel() for n, w in trained.items() if n.startswith("backbone.model."))
    rows = None if task is None else [row for mine in tasks for row in rows_read(stage, mine)]
    count, walks = _amount(stage, learner, rows, tasks)
    tokens = _tokens(stage, learner, rows)
    folded = hooks.start([(name_of(s)[1], s) for s in stage.acting], learner, trained, 0)
    plan = StagePlan(
        framing=encode(stage.framing, "framing"),
        tuning=encode(stage.tuning, "tuning"),
        stabilizers=tuple(encode(s, "stabilizer") for s in stage.stabilizers),
        backbone_trained=inside,
        head_trained=sum(w.numel() for w in trained.values()) - inside,
        students=stage.students,
        teachers=sum(getattr(s, "teachers", 0) for s in stage.live),
        perturbed=sum(getattr(s, "perturbations", 0) for s in stage.live),
        micro_batches=stage.micro_batches,
        passes=stage.passes_per_step,
        cached=stage.cached,
        why_not_cached=stage.why_not_cached,
        batch=stage.per_device_train_batch_size * stage.gradient_accumulation_steps,
        tokens=tokens,
        rows=count,
        steps=None if walks is None else stage.total_steps(walks),
        memory=memory_of(stage, learner, folded, trained, tokens, count),
        costs=costs_of(stage, learner, rows),
    )
    return plan, learner


def _amount(stage: Any, learner: Learner, rows: Sequence[Example] | None, tasks: Sequence[Task]) -> tuple[int | None, int | None]:
    """(training rows, rows that an epoch walks through); of a large corpus an estimate."""
    if rows is None:
        return None, None
    if not streams(stage):
        return len(rows), walked(learner.framing, rows)
    count = expected_rows(stage, learner, tasks[0])
    return count, count


def _stub(stage: Any) -> Task:
    """A task without rows, of a kind that the stage's framing serves."""
    kind: Kind = getattr(stage.framing, "kinds", ("classification",))[0]
    labels = getattr(stage.framing, "named", ()) or (("O", "B-a") if kind == "tagging" else ("a", "b"))
    return Task("task", kind, labels, Split("train", ()))


def _tokens(stage: Any, learner: Learner, rows: Sequence[Example] | None) -> int:
    """The longest text a batch will hold, with the positions that a prompt takes up before it.

    The model's limit, or what the first rows need of it. A framing that puts more than the row itself into a prompt says so:
    ``length_hint(lengths, limit)`` is the length of its longest prompt for rows of so many tokens (none given: unknown).
    """
    backbone = learner.backbone
    limit = min(backbone.max_length, getattr(stage.framing, "max_length", None) or backbone.max_length)
    lengths = token_lengths(backbone, rows[:_SAMPLE]) if rows else []
    if hasattr(learner.framing, "length_hint"):
        return int(learner.framing.length_hint(lengths, limit)) + backbone.reserved
    return min(limit, max(lengths, default=limit)) + backbone.reserved


def walked(framing: Any, rows: Sequence[Example]) -> int:
    """Prompts of an epoch: the rows, or the windows of their texts, counted on the first of them and taken for alike."""
    if rows and getattr(framing, "walks", False):
        return len(framing.walk([prompt for found in framing.render(rows, rows, np.random.default_rng(0)) for prompt in found]))
    if not getattr(framing, "windows", False) or not rows:
        return len(rows)
    sample: list[list[Prompt]] = framing.render(rows[:_SAMPLE], (), np.random.default_rng(0))
    return round(len(rows) * sum(prompt.weight > 0 for found in sample for prompt in found) / len(sample))


def _title(stage: StagePlan) -> str:
    steady = f", steadied by {' and '.join(map(_name, stage.stabilizers))}" if stage.stabilizers else ""
    return f"framing {_name(stage.framing)}, tuning {_name(stage.tuning)}{steady}"


def _name(encoded: Any) -> str:
    """``lora (r 16)`` from the plain form of a value."""
    if isinstance(encoded, str):
        return encoded
    if isinstance(encoded, list):  # several tunings at once
        return " and ".join(map(_name, encoded))
    ((name, fields),) = encoded.items()
    return f"{name} ({', '.join(f'{k} {v}' for k, v in fields.items())})"


def _stage_lines(stage: StagePlan, parameters: int) -> list[str]:
    each, kinds = stage.micro_batches, ((stage.students, "student"), (stage.teachers, "teacher"), (stage.perturbed, "perturbed"))
    parts = [f"{each * n} {word}" for n, word in kinds if n] + ([f"{each} micro-batches"] if each > 1 else [])
    share = f"{stage.backbone_trained / parameters:.2%} of its size"
    found = [
        f"trained: {stage.backbone_trained:,} parameters in the model ({share}), {stage.head_trained:,} beside it",
        f"forward passes a step: {stage.passes} ({', '.join(parts)})",
        "model computed once and its output kept: " + ("yes, nothing in it changes" if stage.cached else f"no, {stage.why_not_cached}"),
    ]
    if stage.steps is not None:
        found.append(f"steps: {stage.steps:,} of {stage.batch} rows, {stage.rows:,} training rows")
    found += [f"prompts: {stage.costs}"] if stage.costs else []
    return [*found, f"memory: {stage.memory.words(stage.tokens)}"]
