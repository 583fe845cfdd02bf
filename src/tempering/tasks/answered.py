"""Questions with answers that stand in a context: SQuAD's JSON, or rows of question, context and answers, to examples.

An answer is (start, text) in characters of the context; a question may have several, all right, or none.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tempering.contracts import Example
from tempering.tasks.columns import Columns, missing_column, require
from tempering.tasks.table import Table, is_missing, is_unicode, show, some

QUESTIONS, CONTEXTS = ("question", "query"), ("context", "passage", "paragraph", "document")
ANSWERS = ("answers", "answer", "answer_text")
START = "answer_start"
_WHOLE = re.compile(r"-?\d{1,18}(\.0*)?")
Answer = tuple[int, str]


@dataclass
class AnswerReader:
    """Reads the splits of one task of question answering alike."""

    columns: Columns
    notes: list[str] = field(default_factory=list)

    kind = "question_answering"
    labels: tuple[Any, ...] = ()

    @classmethod
    def of(
        cls, train: Table, request: tuple[str | None, str | None, str | None], why: str = ""
    ) -> tuple[AnswerReader, tuple[Example, ...]]:
        """The reader that the training table asks for by (question, context, answers), and the training rows."""
        columns = choose(train, *request)
        found = cls(columns, [*train.notes, *columns.notes, *([why] if why else [])])
        examples = found._examples(train)
        if not any(example.label for example in examples):
            raise train.error("expected an answer in at least one row, found none; nothing can be learned", column=columns.label[0])
        return found, examples

    def read(self, table: Table, split: str, optional: bool = False) -> tuple[Example, ...] | None:
        """The rows of another table; None where it has no column of answers and need not."""
        column = self.columns.label[0]
        if column not in table.columns:
            if optional:
                return None
            raise missing_column(table, column, "label")
        return self._examples(table)

    @property
    def record(self) -> dict[str, Any]:
        """Nothing worth keeping beyond the rows."""
        return {}

    def _examples(self, table: Table) -> tuple[Example, ...]:
        context = self.columns.text_pair or ""
        texts = zip(_texts(table, self.columns.text, "text"), _texts(table, context, "text-pair"), strict=True)
        made, guessed = [], []
        for index, (question, passage) in enumerate(texts):
            answers, sought = _answers(table, self.columns.label[0], index, passage)
            guessed += [table.rows[index]] if sought else []
            made.append(Example((question, passage), answers, table.rows[index]))
        if guessed:
            where = some([str(row) for row in guessed], 5)
            self.notes.append(f"{len(guessed)} answers come without a place (rows {where}) and were taken where they first occur")
        return tuple(made)


def answered(table: Table, request: tuple[str | None, str | None, str | None]) -> str:
    """Why the table is one of question answering, in words; empty where it is not surely one."""
    text, pair, label = request
    question, context, answers = text or _named(table, QUESTIONS), pair or _named(table, CONTEXTS), label or _named(table, ANSWERS)
    if any(name is None or name not in table.columns for name in (question, context, answers)):
        return ""
    found = [_forms(value) for value in table.columns[str(answers)]]
    places = START in table.columns or any(start is not None for entries in found if entries for start, _ in entries)
    known = places and all(entries is not None for entries in found)
    return "the rows hold questions with answers in a context: question answering" if known else ""


def choose(table: Table, text: str | None, text_pair: str | None, label: str | None) -> Columns:
    """The columns of question, context and answers, as named or by their usual names."""
    roles = (("question", text, QUESTIONS, "text"), ("context", text_pair, CONTEXTS, "text-pair"), ("answers", label, ANSWERS, "label"))
    found = []
    for role, given, names, option in roles:
        if given is not None:
            require(table, given, option)
        name = given or _named(table, names)
        if name is None:
            known = some([show(column) for column in table.columns])
            raise table.error(f"expected a column with the {role}, found {known}; name it with --{option}")
        found.append(name)
    return Columns(found[0], found[1], (found[2],))


def _named(table: Table, names: Sequence[str]) -> str | None:
    folded = {name.casefold().strip(): name for name in reversed(table.columns)}
    return next((folded[name] for name in names if name in folded), None)


def _texts(table: Table, column: str, option: str) -> list[str]:
    require(table, column, option)
    for index, value in enumerate(table.columns[column]):
        if not isinstance(value, str) or not is_unicode(value):
            found = "nothing" if is_missing(value) else show(value)
            raise table.error(f"expected text, found {found}; fill it in or delete the row", index=index, column=column)
    return table.columns[column]


def _forms(value: Any) -> list[tuple[int | None, str]] | None:
    """(start or None, text) of every answer in any of the known forms; None where it is none of them."""
    if is_missing(value) or value == "":
        return []
    if isinstance(value, str):
        return [(None, value)]
    if isinstance(value, dict) and "text" in value:
        texts, starts = value["text"], value.get(START, value.get("start"))
        if isinstance(texts, str):
            texts, starts = [texts], [starts]
        starts = starts if isinstance(starts, (list, tuple)) else [None] * len(texts)
        value = list(zip(starts, texts, strict=False)) if len(starts) == len(texts) else None
    if not isinstance(value, (list, tuple)):
        return None
    entries = [_entry(entry) for entry in value]
    return None if any(entry is None for entry in entries) else [entry for entry in entries if entry is not None]


def _entry(entry: Any) -> tuple[int | None, str] | None:
    if isinstance(entry, str):
        return None, entry
    if isinstance(entry, dict):
        entry = (entry.get(START, entry.get("start")), entry.get("text"))
    if not isinstance(entry, (list, tuple)) or len(entry) != 2:
        return None
    start, text = entry
    place = _number(start)
    good = place is not None or is_missing(start)
    return (place, text) if good and isinstance(text, str) else None


def _answers(table: Table, column: str, index: int, context: str) -> tuple[tuple[Answer, ...], bool]:
    """The answers of a row, held against the context, and whether a place had to be sought."""
    forms = _forms(table.columns[column][index])
    if forms is None:
        form = '{"text": ["..."], "answer_start": [0]}'
        problem = f"expected answers such as {form}, or none, found {show(table.columns[column][index])}"
        raise table.error(f"{problem}; correct it or delete the row", index=index, column=column)
    beside = table.columns[START][index] if START in table.columns and len(forms) == 1 else None
    found: dict[Answer, None] = {}
    sought = False
    for start, text in forms:
        given = start if start is not None else _number(beside)
        if not text.strip() or given == -1:
            continue  # how some files write that there is no answer
        place = context.find(text) if given is None else given
        sought = sought or given is None
        if place < 0 or context[place : place + len(text)] != text:
            raise table.error(_elsewhere(context, text, given), index=index, column=column)
        found[place, text] = None
    return tuple(found), sought


def _elsewhere(context: str, text: str, given: int | None) -> str:
    """What is wrong with an answer that does not stand where it is said to."""
    there = context.find(text)
    if there < 0:
        return f"expected the answer to stand in the context, and {show(text)} does not; copy it from the context letter by letter"
    found = f"found {show(context[max(0, given or 0) : max(0, given or 0) + len(text)])}"
    return f"expected the answer {show(text)} at character {given} of the context, {found}; it stands at {there}: correct answer_start"


def _number(value: Any) -> int | None:
    """A start as an int: formats of strings alone write it as one, and columns with gaps hold floats (20.0, and NaN for none)."""
    if isinstance(value, str) and _WHOLE.fullmatch(value.strip()):
        return int(value.partition(".")[0])
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
