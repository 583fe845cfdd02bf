"""Running text as training rows: opened, held out in part, cut or packed, and given to the one `Feed` row by row.

The order of rows is the feed's, a pure function of (seed, epoch), so that a run is resumed in the middle of an epoch like any other.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from tempering.contracts import Example, RowForm, Seeds
from tempering.corpora.nearest import choose
from tempering.corpora.rows import Rows
from tempering.corpora.sources import Source
from tempering.corpora.tokenizing import open_tokens, tokens_of
from tempering.corpora.tokens import Array, Tokens
from tempering.corpora.worker import text_hash
from tempering.errors import DataError
from tempering.tasks.task import Task
from tempering.train.progress import Listener

OWN = ("labeled", "unlabeled")  # names of the task's own texts, beside paths
HELD_SHARE = 20  # one text in as many, copies aside, is held out where a stage evaluates ...
HELD_MOST = 2_000  # ... and of running text no more than these: they are read at every evaluation
SAMPLE = 1 << 20  # characters from which the number of rows is estimated before anything is read in full


class Stream(NamedTuple):
    """Training rows, rows held out, and what names the text: a checkpoint belongs to it."""

    rows: Rows
    held_out: Rows
    key: str


def streams(stage: Any) -> bool:
    """Whether ``stage`` reads running text: a file, or texts of the task that are packed. Else its rows are examples."""
    running = bool(getattr(stage.framing, "running", False))  # the framing takes any row of tokens
    return running and (stage.text not in OWN or bool(getattr(stage.framing, "packed", False)))


def source_of(stage: Any) -> Source:
    """The corpus that ``stage`` names by path."""
    return Source(stage.text, getattr(stage, "documents", "line"), getattr(stage, "column", None))


def open_stream(stage: Any, learner: Any, task: Task, seeds: Seeds, listener: Listener) -> Stream:
    """The text of ``stage`` for ``learner``. Documents that are a text of the task's dev or test split are left out."""
    form: RowForm = learner.framing.row_form
    tokenizer = learner.backbone.tokenizer

    def tell(words: str) -> None:
        listener({"event": "note", "text": words})

    own = stage.text in OWN
    tokens = _of_task(task, tokenizer, form) if own else open_tokens(source_of(stage), tokenizer, form.words, tell=tell)
    if stage.curate is not None:
        tokens = _curated(stage, tokens, learner, task, form)
        tell(f"curated text: {len(tokens):,} documents of {stage.text} and of the task itself")
    train, held = split(stage, tokens, secret(task), seeds)
    rows, held_out = Rows(tokens, train, form), Rows(tokens, held, form)
    if not len(rows):
        raise no_text(f"task {task.name}" if own else stage.text)
    return Stream(rows, held_out, tokens.key)


def no_text(where: str) -> DataError:
    """What to say where nothing is left to train on."""
    return DataError(f"{where}: expected text to train on, found none beside that of the dev and test splits; give another file")


def held_of(stage: Any, texts: int) -> int:
    """How many of so many different texts ``stage`` holds out: none where it never evaluates, since nothing would read them."""
    return 0 if stage.eval_strategy == "no" else texts // HELD_SHARE


def split(stage: Any, tokens: Tokens, secret: Array, seeds: Seeds) -> tuple[Array, Array]:
    """(documents to train on, documents held out), each in the order of the file; those whose hash is ``secret`` are in neither."""
    documents = np.flatnonzero(~np.isin(tokens.hashes, secret))
    train, held = apart(stage, tokens.hashes[documents], seeds, HELD_MOST)
    return documents[np.sort(train)], documents[np.sort(held)]


def apart(stage: Any, hashes: Array, seeds: Seeds, most: int | None = None) -> tuple[Array, Array]:
    """(places of the texts to train on, of those held out, ``most`` at most) among texts with these ``hashes``.

    Texts that repeat are drawn as one: such a text is trained on in all its copies, or held out once and trained on in none.
    """
    rng = np.random.default_rng(seeds.sampling)
    if not held_of(stage, len(hashes)):
        return rng.permutation(len(hashes)), np.zeros(0, np.int64)
    first = np.sort(np.unique(hashes, return_index=True)[1])
    order = first[rng.permutation(len(first))]
    count = held_of(stage, len(first))
    held = order[: count if most is None else min(count, most)]
    again = np.ones(len(hashes), np.bool_)
    again[first] = False
    copies = np.flatnonzero(again)
    return np.concatenate([order[len(held) :], copies[~np.isin(hashes[copies], hashes[held])]]), held


def secret(task: Task) -> Array:
    """Hashes of the texts that training may not see: those of the dev and the test split, pairs also joined."""
    examples = chain.from_iterable(s.examples for s in (task.dev, task.test) if s is not None)
    found = {text_hash(text) for e in examples for text in {*e.texts, " ".join(e.texts)}}
    return np.fromiter(found, np.uint64, len(found))


def unseen(task: Task, examples: Iterable[Example] | None = None) -> list[Example]:
    """``examples`` (the training texts without labels) but for copies of texts of the dev and the test split."""
    hidden = set(secret(task).tolist())
    return [e for e in (task.unlabeled() if examples is None else examples) if text_hash(" ".join(e.texts)) not in hidden]


def _of_task(task: Task, tokenizer: Any, form: RowForm) -> Tokens:
    """The task's own texts; the two of a pair are one document."""
    return tokens_of((" ".join(e.texts) for e in unseen(task)), tokenizer, form.words)


def _curated(stage: Any, tokens: Tokens, learner: Any, task: Task, form: RowForm) -> Tokens:
    """The documents nearest to the task's texts, and those texts themselves, each once."""
    own = [" ".join(e.texts) for e in unseen(task)]
    if not own:
        raise DataError(f"curate: {stage.text} is searched for texts like those of the task, and it has none; leave curate out")
    allowed = np.flatnonzero(~np.isin(tokens.hashes, secret(task)))
    chosen = choose(stage.curate, source_of(stage), own, allowed, learner.backbone)
    both = Tokens.joined([tokens.taken(chosen), tokens_of(own, learner.backbone.tokenizer, form.words)])
    _, first = np.unique(both.hashes, return_index=True)
    return both.taken(np.sort(first))


def expected_rows(stage: Any, learner: Any, task: Task) -> int | None:
    """How many rows training will have, estimated from the first megabyte where the text is longer; None where nothing tells."""
    form: RowForm = learner.framing.row_form
    tokenizer, seeds = learner.backbone.tokenizer, Seeds.of(0)
    if stage.text in OWN:
        return len(Rows(own := _of_task(task, tokenizer, form), split(stage, own, secret(task), seeds)[0], form))
    source = source_of(stage)
    texts, size, whole = _first(source)
    if stage.curate is not None or not (whole or source.plain):
        return None
    tokens = tokens_of(texts, tokenizer, form.words)
    scale = 1.0 if whole else source.size / max(size, 1)
    documents = round(len(tokens) * scale)
    share = 1 - min(held_of(stage, documents), HELD_MOST) / documents
    if whole:
        return len(Rows(tokens, split(stage, tokens, secret(task), seeds)[0], form))
    return round(len(Rows(tokens, np.arange(len(tokens)), form)) * scale * share)


def _first(source: Source) -> tuple[list[str], int, bool]:
    """Documents from the beginning, their bytes, and whether these are all."""
    texts: list[str] = []
    size = 0
    for text in source:
        texts.append(text)
        size += len(text.encode()) + 1
        if size > SAMPLE:
            return texts, size, False
    return texts, size, True
