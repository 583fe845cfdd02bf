"""Which columns hold the text, the second text and the label: as named, or by the names people use."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from tempering.errors import DataError
from tempering.tasks.table import Table, show, some

PAIRS = (
    ("text", "text_pair"),
    ("text_a", "text_b"),
    ("text1", "text2"),
    ("sentence1", "sentence2"),
    ("sentence_a", "sentence_b"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
)
TEXTS = ("text", "sentence", "review", "content", "document", "body", "message", "comment", "tweet", "utterance", "question", "title")
LABELS = ("label", "labels", "target", "class", "category", "stars", "rating", "sentiment", "score", "intent", "topic", "y", "gold_label")


@dataclass(frozen=True)
class Columns:
    """The columns in use. ``label`` is one name, several for multi-label data in 0/1 columns, or none for unlabelled text."""

    text: str
    text_pair: str | None = None
    label: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, str]:
        """``{"text": ..., "text_pair": ..., "label": ...}``, leaving out what is not used."""
        named = {"text": self.text, "text_pair": self.text_pair, "label": ",".join(self.label) or None}
        return {key: name for key, name in named.items() if name is not None}


def choose_columns(
    table: Table,
    text: str | None,
    text_pair: str | None,
    label: str | None,
    *,
    labelled: bool = True,
    label_optional: bool = False,
    option: str = "--text",
) -> Columns:
    """Columns as given; what is not given is found by its usual name, and said in the notes.

    With ``labelled`` False no label column is looked for; with ``label_optional`` a missing one is no error. ``option`` is how the user
    names the text.
    """
    labels = _label(table, label, {text, text_pair}, label_optional) if labelled else ()
    inferred = [] if label or not labels else [f"label = {show(labels[0])}"]
    notes = []
    if text is None:
        text, text_pair = _texts(table, text_pair, set(labels), option)
        inferred = [f"text = {show(text)}", *([f"text pair = {show(text_pair)}"] if text_pair else []), *inferred]
    else:
        require(table, text, "text")
        partner = dict(PAIRS).get(text)
        if text_pair is None and partner in table.columns:
            notes.append(f"column {show(partner)} is not used; add --text-pair {partner} to read pairs")
    if text_pair is not None:
        require(table, text_pair, "text-pair")
    if inferred:
        notes.insert(0, f"columns taken by their names: {', '.join(inferred)}")
    return Columns(text, text_pair, labels, tuple(notes))


def require(table: Table, name: str, option: str) -> None:
    """`DataError` with near misses when the table has no column of that name."""
    if name not in table.columns:
        raise missing_column(table, name, option)


def missing_column(table: Table, name: str, option: str) -> DataError:
    """The error for a column that is not there."""
    by_folded = {known.casefold().strip(): known for known in table.columns}
    near = difflib.get_close_matches(name.casefold().strip(), list(by_folded), n=1, cutoff=0.6)
    hint = f"did you mean {show(by_folded[near[0]])}? " if near else ""
    found = some([show(known) for known in table.columns])
    return table.error(f"expected a column {show(name)} (--{option}), found {found}; {hint}name it with --{option}")


def _label(table: Table, given: str | None, texts: set[str | None], optional: bool) -> tuple[str, ...]:
    if given is not None:
        if given in table.columns:
            return (given,)
        several = tuple(part.strip() for part in given.split(","))
        if len(several) > 1 and all(part in table.columns for part in several):
            return several
        absent = next(part for part in several if part not in table.columns)
        if optional:
            return ()
        raise missing_column(table, absent, "label")
    folded = _folded(table, texts)
    for usual in LABELS:
        if usual in folded:
            return (folded[usual],)
    if optional:
        return ()
    raise table.error(f"expected a label column, found {some([show(name) for name in table.columns])}; name the label with --label")


def _texts(table: Table, pair: str | None, labels: set[str], option: str) -> tuple[str, str | None]:
    folded = _folded(table, {pair, *labels})
    if pair is None:
        for first, second in PAIRS:
            if first in folded and second in folded:
                return folded[first], folded[second]
    for usual in (*TEXTS, *(first for first, _ in PAIRS)):
        if usual in folded:
            return folded[usual], pair
    rest = [name for name in folded.values() if isinstance(table.columns[name][0], str)]
    if len(rest) == 1:
        return rest[0], pair
    raise table.error(f"expected a text column, found {some([show(name) for name in table.columns])}; name the text with {option}")


def _folded(table: Table, taken: set[str] | set[str | None]) -> dict[str, str]:
    """Folded name -> name of every column not taken; the first of two that fold alike."""
    folded: dict[str, str] = {}
    for name in table.columns:
        if name not in taken:
            folded.setdefault(name.casefold().strip(), name)
    return folded
