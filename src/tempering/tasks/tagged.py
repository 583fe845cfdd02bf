"""Texts with a tag for every word: tokens beside tags, or texts beside character spans, to examples. Broken tags are repaired and told.

A row of tokens becomes one text, the tokens between single spaces, so that every offset speaks of that text.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tempering.contracts import Example
from tempering.tags import Scheme, as_bioes, detect, learned, parts, repaired, scheme_of, split_words, tag_set, types_of
from tempering.tasks.columns import Columns, missing_column, require
from tempering.tasks.labels import label_key, ordered
from tempering.tasks.marked import is_empty, is_spans, tags_of_spans
from tempering.tasks.neartags import refuse_near_tags
from tempering.tasks.table import Table, is_missing, is_unicode, show, some
from tempering.tasks.tagcolumns import OFFSETS, choose
from tempering.tasks.wordlists import Offsets, is_words, listed, words_of


@dataclass(frozen=True)
class Repairs:
    """What was put right in the tags of one file: ``rows`` concerned, ``words`` changed, and the ``first`` case in words."""

    rows: tuple[int, ...] = ()
    words: int = 0
    first: str = ""


@dataclass
class TagReader:
    """Reads the splits of one tagging task alike: the columns, the scheme and the labels are those of its training rows.

    ``spans`` says that these have spans of characters, or may have: then empty lists beside texts are rows without any.
    """

    columns: Columns
    scheme: Scheme = "plain"
    labels: tuple[Any, ...] = ()
    spans: bool = False
    notes: list[str] = field(default_factory=list)
    repairs: dict[str, Repairs] = field(default_factory=dict)

    kind = "tagging"

    @classmethod
    def of(cls, train: Table, text: str | None, label: str | None, why: str = "") -> tuple[TagReader, tuple[Example, ...]]:
        """The reader that the training table asks for, and the training rows."""
        columns = choose(train, text, label)
        found = cls(columns, spans=is_spans(train.columns[columns.label[0]]), notes=[*train.notes, *columns.notes, *([why] if why else [])])
        raw = found._raw(train)
        found.scheme = detect([tags for _, tags, _ in raw])
        if found.scheme == "plain":
            refuse_near_tags(train, columns.label[0], raw)
        found.notes += _told(found.scheme, [tags for _, tags, _ in raw])
        examples = found._examples(train, raw, "train")
        found.labels = _labels(train, columns, found.scheme, examples)
        return found, examples

    @classmethod
    def known(cls, columns: Columns, labels: Sequence[Any]) -> TagReader:
        """The reader of further rows for a model whose labels are known."""
        scheme = scheme_of(labels)
        return cls(columns, scheme, tuple(labels), spans=scheme == "IOB2")  # the scheme that spans are written in

    def read(self, table: Table, split: str, optional: bool = False) -> tuple[Example, ...] | None:
        """The rows of another table, with tags the training rows know; None where it has no tags and need not."""
        column = self.columns.label[0]
        if column not in table.columns or all(is_missing(v) for v in table.columns[column]):
            if optional:
                return None
            raise missing_column(table, column, "label")
        require(table, self.columns.text, "text")
        examples = self._examples(table, self._raw(table), split)
        self._only_known(table, examples)
        return examples

    @property
    def record(self) -> dict[str, Any]:
        """Scheme and repairs, JSON-ready."""
        told = {split: {"rows": list(r.rows), "words": r.words, "first": r.first} for split, r in self.repairs.items() if r.rows}
        return {"tags": {"scheme": self.scheme, "repaired": told}} if self.scheme != "plain" else {}

    def _raw(self, table: Table) -> list[tuple[str, tuple[Any, ...], tuple[tuple[int, int], ...]]]:
        """(text, tags, words) of every row, as they stand."""
        column = self.columns.label[0]
        texts = words_of(table, self.columns.text)
        bare = self.spans and is_empty(table.columns[column]) and not any(words is not None for _, words in texts)
        if bare or is_spans(table.columns[column]):
            found, notes = tags_of_spans(table, column, [text for text, _ in texts])
            self.notes += notes
            return [(text, tags, words) for (text, _), (tags, words) in zip(texts, found, strict=True)]
        offsets = table.columns.get(OFFSETS, ()) if self.columns.text != OFFSETS else ()
        known: Any = offsets if len(offsets) and not is_words(offsets) else [words for _, words in texts]
        rows: list[tuple[str, tuple[Any, ...], Offsets]] = []
        for i, (text, _) in enumerate(texts):
            tags = _tags(table, column, i)
            rows.append((text, tags, _words(table, column, i, text, known[i], len(tags))))
        return rows

    def _examples(self, table: Table, raw: Sequence[tuple[str, tuple[Any, ...], Any]], split: str) -> tuple[Example, ...]:
        scheme = learned(self.scheme)
        made: list[Example] = []
        rows: list[int] = []
        changed, first = 0, ""
        for (text, given, words), row in zip(raw, table.rows, strict=True):
            tags = as_bioes(given) if scheme == "BIOES" and all(isinstance(t, str) for t in given) else given
            good = repaired(tags, scheme) if scheme != "plain" and all(isinstance(t, str) for t in tags) else tags
            wrong = [i for i, (a, b) in enumerate(zip(tags, good, strict=True)) if a != b]
            if wrong and self.scheme != "IOB1":
                i = wrong[0]
                first = first or f"row {row}, word {i + 1} {show(text[slice(*words[i])], 30)}: {tags[i]} {_after(tags, i)}, now {good[i]}"
                rows, changed = [*rows, row], changed + len(wrong)
            made.append(Example((text,), tuple(good), row, words))
        self.repairs[split] = Repairs(tuple(rows), changed, first)
        if rows:
            where = some([str(row) for row in rows], 5)
            self.notes.append(
                f"{split}: {changed} tags in {len(rows)} rows (rows {where}) break the scheme {scheme} and were read as conlleval reads"
                f" them ({first})"
            )
        return tuple(made)

    def _only_known(self, table: Table, examples: Sequence[Example]) -> None:
        keys = {label_key(label) for label in self.labels}
        for index, example in enumerate(examples):
            for i, tag in enumerate(example.label):
                if label_key(tag) not in keys:
                    expected = some([show(label, 30) for label in self.labels], 8)
                    problem = f"expected tags among {expected}, found {show(tag, 40)} at word {i + 1}, which the training data lacks"
                    raise table.error(f"{problem}; correct it or add training rows", index=index, column=self.columns.label[0])


def _words(table: Table, column: str, index: int, text: str, given: Any, count: int) -> Offsets:
    """The words that ``count`` tags belong to: as given, or those of a text, between white space if that fits, else also at punctuation."""
    known = [given] if given is not None else [tuple(m.span() for m in re.finditer(r"\S+", text)), split_words(text)]
    fitting = next((words for words in known if len(words) == count), None)
    if fitting is None:
        problem = f"expected as many tags as words, found {count} tags for {len(known[0])} words; correct or delete the row"
        raise table.error(problem, index=index, column=column)
    return tuple((int(start), int(end)) for start, end in fitting)


def _tags(table: Table, column: str, index: int) -> tuple[Any, ...]:
    """The tags of a row."""
    tags = listed(table, column, index)
    if tags is None:
        found = show(table.columns[column][index])
        raise table.error(f"expected a list of tags, found {found}; correct or delete the row", index=index, column=column)
    for i, tag in enumerate(tags):
        if not isinstance(tag, (str, int)) or tag == "" or (isinstance(tag, str) and not is_unicode(tag)):
            raise table.error(f"expected a tag for word {i + 1}, found {show(tag)}; fill it in", index=index, column=column)
    return tuple(tags)


def _labels(table: Table, columns: Columns, scheme: Scheme, examples: Sequence[Example]) -> tuple[Any, ...]:
    """Every tag a model may say: of entities all that the scheme has for the types seen, else the tags seen, in order."""
    first: dict[str, tuple[int, Any]] = {}
    for example in examples:
        for tag in example.label:
            first.setdefault(type(tag).__name__, (example.row, tag))
    column = columns.label[0]
    if len(first) > 1:
        said = " and ".join(f"{name} {show(tag)} in row {row}" for name, (row, tag) in first.items())
        raise table.error(f"expected tags of one type, found {said}; write them all alike", column=column)
    if scheme != "plain":
        types = types_of({tag for example in examples for tag in example.label})
        return tag_set(types, learned(scheme))
    found = ordered(tag for example in examples for tag in example.label)
    if len(found) < 2:
        only = show(found[0]) if found else "none"
        raise table.error(f"expected at least two different tags, found only {only}; nothing can be learned", column=column)
    return found


def _told(scheme: Scheme, rows: Sequence[Sequence[Any]]) -> list[str]:
    """What is worth saying about the scheme."""
    if scheme == "IOB1":
        return ["the tags follow IOB1 (B only between two entities of one type); they are learned and predicted as IOB2"]
    if scheme == "BMES":
        return ["the tags follow BMES (M within an entity; S or W for one of a single word); they are learned and predicted as BIOES"]
    if scheme != "plain":
        return [f"the tags follow {scheme}"]
    counts = Counter(tag for tags in rows for tag in tags)
    if counts and all(not isinstance(tag, str) for tag in counts):
        return ["the tags are numbers, so that entities cannot be seen in them; write B-PER and the like to have entities scored"]
    return ["the tags follow no scheme of entities (B-PER, I-PER): every word's tag is scored by itself"]


def _after(tags: Sequence[str], i: int) -> str:
    if i == 0:
        return "at the beginning"
    return f"after {tags[i - 1]}" if parts(tags[i])[0] in ("I", "E") or i + 1 == len(tags) else f"between {tags[i - 1]} and {tags[i + 1]}"
