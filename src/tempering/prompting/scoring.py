"""How well prompts do before anything is trained: zero-shot scores of candidate templates and label words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol, TypeVar

from tempering.backbone import Backbone
from tempering.contracts import Example, Seeds
from tempering.errors import DataError, RecipeError
from tempering.framings.cloze import Cloze
from tempering.learner import Learner
from tempering.stages.setup import Surroundings, assemble
from tempering.stages.use import Use, check_head
from tempering.streams import numpy_stream
from tempering.tasks.metrics import default_metric, higher_is_better
from tempering.tasks.task import Task
from tempering.train.evaluate import Evaluator
from tempering.train.progress import Listener, silent

On = Literal["dev", "train"]


class Metrics(Protocol):
    """What has metrics with the loss among them."""

    @property
    def metrics(self) -> dict[str, float]:
        """By name."""


Judged = TypeVar("Judged", bound=Metrics)


@dataclass(frozen=True)
class Scored:
    """A cloze and what it says of ``rows`` rows: ``metrics`` with the loss, and the share of rows each class was ``predicted`` for."""

    templates: tuple[str, ...]
    words: dict[str, list[str]]
    metrics: dict[str, float]
    predicted: dict[str, float]
    rows: int
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def check_kind(task: Task) -> None:
    """Refuse a kind of task that no mask can answer."""
    if task.kind not in Cloze.kinds:
        served = " and ".join(Cloze.kinds)
        other = "cloze_ner" if task.kind == "tagging" else "head"
        raise RecipeError(f"{task.name} is of kind {task.kind}: these prompts serve {served}; take framing {other} or text_to_text")


def rows_on(task: Task, on: str, rows: int, seed: int = 0) -> list[Example]:
    """At most ``rows`` labelled rows of the split ``on``, drawn by ``seed``, in their order. The test split is never read here."""
    if on not in ("dev", "train"):
        raise RecipeError(f"prompts are scored on dev or train rows, found {on!r}; the test split is for the model that is chosen")
    check_kind(task)
    split = task.dev if on == "dev" else task.train
    known = [e for e in split or () if e.label is not None]
    if not known:
        other = "train" if on == "dev" else "dev"
        raise DataError(f"{task.name}: there are no labelled {on} rows to score prompts on; take --on {other}")
    chosen = sorted(numpy_stream(seed, "prompts").permutation(len(known))[:rows].tolist())
    return [known[i] for i in chosen]


def untrained(cloze: Cloze, task: Task, backbone: Backbone, seed: int = 0, listener: Listener = silent) -> Learner:
    """The learner that ``cloze`` makes of the model as it stands. One whose new weights would mean nothing is refused."""
    stage = Use(cloze)
    stage.check("prompts", last=True)
    learner = stage.run(backbone, task, Seeds.of(seed), around=Surroundings(listener=listener))
    if learner.framing.reads_lm_head:
        check_head(backbone)
    return learner


def built(cloze: Cloze, task: Task, backbone: Backbone, seed: int = 0) -> Learner:
    """As `untrained`, but no row is read: what is refused is refused here already. Its language-model head may be drawn at random."""
    stage = Use(cloze)
    stage.check("prompts", last=True)
    return assemble(stage, backbone, task, Seeds.of(seed)).eval()


def reads_drawn_head(learner: Learner) -> bool:
    """Whether it names words by a language-model head that was drawn at random."""
    return learner.framing.reads_lm_head and bool(getattr(learner.backbone.lm_head, "fresh", False))


def score(cloze: Cloze, task: Task, backbone: Backbone, examples: Sequence[Example], seed: int = 0) -> Scored:
    """Zero-shot metrics of ``cloze`` on ``examples``; a verbalizer that chooses from training rows does."""
    told: list[str] = []
    read = _enough(cloze, task, len(examples), seed)
    learner = untrained(cloze, read, backbone, seed, lambda event: told.append(event["text"]) if event["event"] == "note" else None)
    metrics, predictions = Evaluator(examples, task.kind, task.labels)(learner)
    said = Counter(str(p.label) for p in predictions) if task.kind == "classification" else Counter()
    shares = {str(label): said[str(label)] / len(examples) for label in task.labels} if said else {}
    words = {str(label): list(given) for label, given in learner.framing.words.items()}
    templates = tuple(str(text.template) for text in learner.framing.texts)
    return Scored(templates, words, metrics, shares, len(examples), tuple(told))


def _enough(cloze: Cloze, task: Task, rows: int, seed: int) -> Task:
    """``task`` with as many training rows as are scored, drawn as those are, for a note on how many are too long. All where the verbalizer
    chooses from them, or their values tell the ends of a scale.
    """
    if task.kind == "regression" or getattr(cloze.verbalizer, "reads_rows", True):
        return task
    return task.with_train(sorted(numpy_stream(seed, "prompts").permutation(len(task.train))[:rows].tolist()), seed)


def ranked(found: Sequence[Judged], task: Task, metric: str | None = None) -> list[Judged]:
    """Best first by ``metric``, by default the task's main one; ties by the loss."""
    main = metric or default_metric(task.kind, task.labels)
    sign = -1.0 if higher_is_better(main) else 1.0
    return sorted(found, key=lambda s: (sign * s.metrics[main], s.metrics["loss"]))
