"""What a stage reads beside the user's data, by path: labelled data sets of other tasks, read once, and corpora. Known by their content."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import Any

from tempering.contracts import Kind
from tempering.corpora.plain import blocks
from tempering.corpora.sources import PARQUET, Source
from tempering.errors import DataError, ModelError, RecipeError
from tempering.registry import name_of
from tempering.stages.data_source import DataSource
from tempering.stages.kept import refuse_labels
from tempering.tasks.labels import label_key
from tempering.tasks.task import Split, Task
from tempering.train.stream import OWN, source_of, unseen

Stamp = tuple[tuple[str, int, int], ...]
LOOKED = 100  # files of a corpus of which a block is read before anything is trained


def read_source(data: str | DataSource, setting: str = "", what: str = "") -> Task:
    """The task in ``data``, a path (a file, a folder, a hub data set) or one with its columns; an unchanged file is not read again.

    Rows to evaluate on, where it has none of its own, are the same in every run: they are taken off by seed 0. ``setting`` is where the
    recipe names it; ``what`` it is, where it is not the data of a stage.
    """
    source = data if isinstance(data, DataSource) else DataSource(data)
    try:
        return _read(source, _stamp(Path(source.path)))
    except DataError as error:
        called = f"{what} {source.path!r}" if what else f"data {source.path!r} of a stage"
        raise DataError(f"{called}: {source.advised(str(error), setting)}") from None


@lru_cache(maxsize=32)
def _read(source: DataSource, _: Stamp) -> Task:
    return Task.from_file(source.path, **source.said)


def _stamp(path: Path) -> Stamp:
    """Size and time of change of every file, so that a changed one is read again."""
    try:
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path] if path.is_file() else []
        return tuple((str(p), p.stat().st_mtime_ns, p.stat().st_size) for p in files)
    except (OSError, ValueError):  # not a path: the reader says so
        return ()


def check_sources(stages: Sequence[Any]) -> dict[str, Task]:
    """Every data set that ``stages`` name, by its path. One that cannot be read, or a corpus that is not there or no text, is refused with
    the setting that names it, before a model is loaded and before an earlier stage has trained for nothing.
    """
    found = {}
    for i, stage in enumerate(stages):
        field = next((name for name in ("data", "tasks", "sources") if getattr(stage, name, None)), "")
        for path in getattr(stage, "data_paths", ()):
            found[str(path)] = read_source(path, f"stages.{i}.{field}")
    for i, corpus in _corpora(stages):
        with _named(i):
            check_corpus(corpus)
    return found


def check_corpus(corpus: Source) -> None:
    """Refuse a corpus that is not there or no text, by what its files begin with."""
    _begins(corpus, _stamp(Path(corpus.path).expanduser()))


@lru_cache(maxsize=32)
def _begins(corpus: Source, _: Stamp) -> None:
    for path in corpus.files[:LOOKED]:
        if path.suffix.lower() not in PARQUET:
            next(blocks(path), "")
    next(iter(corpus))


@lru_cache(maxsize=32)
def _key(corpus: Source, _: Stamp) -> str:
    return corpus.key


def _corpora(stages: Sequence[Any]) -> Iterator[tuple[int, Source]]:
    """The corpora that ``stages`` name, each with the number of its stage."""
    return ((i, source_of(stage)) for i, stage in enumerate(stages) if hasattr(stage, "documents") and stage.text not in OWN)


@contextmanager
def _named(i: int) -> Iterator[None]:
    """What is refused of the corpus of a stage tells where the recipe names it."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{error}; the text of a stage is named in stages.{i}.text") from None


@contextmanager
def naming(stage: Any, i: int) -> Iterator[None]:
    """What is refused of a stage that learns from a data set of its own says so: the user's own data may have no such fault."""
    try:
        yield
    except (DataError, ModelError, RecipeError) as error:
        if not getattr(stage, "data", None) or f"stages.{i}" in str(error):
            raise
        raise type(error)(f"stages.{i} (data {stage.data}): {error}") from None


def check_against(stages: Sequence[Any], task: Task) -> list[str]:
    """What the data sets that ``stages`` name mean for the user's ``task``: a head that is reused for other labels is refused before the
    stage that it comes from has trained. Notes on rows that the task is judged by, and on files of a corpus that are not read.
    """
    heads: dict[str, Task] = {}
    notes = []
    for i, stage in enumerate(stages):
        mine = learned(stage, task)
        if (name := getattr(stage, "reuse_head", None)) and name in heads:
            head = heads[name]
            refuse_labels(name, (head.name, head.kind, head.labels), mine[0])
        heads |= _heads(stage, mine)
        shown = ((path, found) for path, found in zip(_paths(stage), mine, strict=True) if path)
        notes += [f"stages.{i}: {note}" for path, found in shown if (note := _judged(path, found, task))]
        if hasattr(stage, "documents") and stage.text not in OWN and (left := source_of(stage).left_out):
            notes.append(f"stages.{i}: {left}")
    return notes


def _heads(stage: Any, tasks: Sequence[Task]) -> dict[str, Task]:
    """By its name, what each head that ``stage`` keeps is trained on: of several tasks that share one, the one with most labels."""
    whole = max(tasks, key=lambda task: len(task.labels))
    own = {stage.keep_head: whole} if getattr(stage, "keep_head", None) else {}
    parts = getattr(stage, "tasks", ())
    shared = getattr(stage, "heads", "own") == "shared"
    return own | {part.keep_head: whole if shared else task for part, task in zip(parts, tasks, strict=False) if part.keep_head}


def _paths(stage: Any) -> Sequence[str | DataSource | None]:
    """Where each of the tasks that ``stage`` learns from comes from; None is the user's own."""
    if hasattr(stage, "tasks"):
        return [part.data for part in stage.tasks]
    return list(getattr(stage, "data_paths", ())) or [None]


def _judged(path: str | DataSource, source: Task, task: Task) -> str:
    """A note if training rows of ``source`` stand in the dev or the test split of ``task``."""
    count = len(source.train) - len(unseen(task, source.train))
    if not count:
        return ""
    rows = "1 training row stands" if count == 1 else f"{count} training rows stand"
    return f"data {path}: {rows} in the dev or test split of your task too, so that scores there are too good; leave them out of that file"


def fingerprints(stages: Sequence[Any]) -> dict[str, str]:
    """Path -> fingerprint of the content, of every data set and corpus that ``stages`` name: a run belongs to these as to the user's own
    data. A corpus is read for it once, as long as no file of it changes.
    """
    found = {path: task.fingerprint() for path, task in check_sources(stages).items()}
    for i, corpus in _corpora(stages):
        with _named(i):
            key = _key(corpus, _stamp(Path(corpus.path).expanduser()))
        found[corpus.path] = "+".join(filter(None, (found.get(corpus.path), key)))
    return found


def suited(framing: Any, kind: Kind) -> Any:
    """What stands for ``framing`` on a task of ``kind``."""
    return framing.suited(kind) if hasattr(framing, "suited") else framing


def learned(stage: Any, task: Task, read: bool = True) -> tuple[Task, ...]:
    """The tasks that ``stage`` learns from, of a run on ``task``; without ``read`` that one stands for every data set by path."""
    return tuple(stage.learns(task, read)) if hasattr(stage, "learns") else (task,)


def distinct_names(tasks: Sequence[Task], given: Sequence[str | None] = ()) -> list[str]:
    """A name for each task, all different and without dots: the ``given`` one, or the task's own, numbered where it is taken."""
    asked = list(given) or [None] * len(tasks)
    wanted = [name or task.name.replace(".", "_") for name, task in zip(asked, tasks, strict=True)]
    found: list[str] = []
    for name, mine in zip(wanted, asked, strict=True):
        taken, numbered = {*found, *filter(None, asked)}, (f"{name}-{number}" for number in count(2))
        found.append(name if mine or name not in taken else next(new for new in numbered if new not in {*taken, *wanted}))
    return found


def pooled(tasks: Sequence[Task], names: Sequence[str], why: str) -> Task:
    """The tasks as one, for what they share. Kinds must be equal, and one of them must have every label: else the first that does not
    fit is refused, with what it was to share (``why``).
    """
    largest = max(range(len(tasks)), key=lambda i: len(tasks[i].labels))
    known = {label_key(label) for label in tasks[largest].labels}
    for name, task in zip(names, tasks, strict=True):
        same = task.kind == tasks[largest].kind and {label_key(label) for label in task.labels} <= known
        if not same:
            raise RecipeError(
                f"{names[largest]} ({described(tasks[largest])}) and {name} ({described(task)}) cannot share {why}; give data sets with"
                " the same labels, or each a head of its own"
            )
    examples = tuple(example for task in tasks for example in task.train)
    return replace(tasks[largest], name="+".join(names), train=Split("train", examples))


def described(task: Task) -> str:
    """Kind and labels of a task in a few words."""
    if not task.labels:
        return task.kind
    shown = ", ".join(str(label) for label in task.labels[:6])
    return f"{task.kind} into {shown}" + (f" and {len(task.labels) - 6} more" if len(task.labels) > 6 else "")


def refuse_kinds(tasks: Sequence[Task], names: Sequence[str], framing: Any, own: Task) -> None:
    """Refuse data sets of another kind than the user's task, whose tuning they are to rehearse."""
    for name, task in zip(names, tasks, strict=True):
        if task.kind != own.kind:
            raise RecipeError(
                f"source {name} is {described(task)}, and your task {own.name} is {described(own)}; framing {name_of(framing)[1]} is"
                " rehearsed for your task, so give data sets of its kind, or take another stage for the others, such as train with data"
            )
