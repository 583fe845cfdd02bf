"""Labels exactly as given: what kind of task they make, how they are told apart, and what is wrong with them.

Python holds ``1 == True == 1.0``; here a label is its type and its value (`label_key`), so that 1, True and "1" never meet.
"""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

from tempering.contracts import Kind, Label
from tempering.tasks.table import Table, is_missing, is_unicode, show, some

TEXTS = 'if the column holds texts to be written: --kind text (in Python kind="text")'
_FEW = 10  # labels that a few rows may well have
_TRUE, _FALSE = ("1", "1.0", "true", "yes"), ("0", "0.0", "false", "no", "")


def label_key(label: Any) -> Hashable:
    """What two labels must share to be the same label."""
    return (type(label).__name__, label)


def ordered(labels: Iterable[Any]) -> tuple[Label, ...]:
    """Distinct labels of one type in their natural order."""
    return tuple(sorted({label_key(label): label for label in labels}.values()))


def label_values(table: Table, columns: tuple[str, ...]) -> list[Any]:
    """Raw label of every row; several 0/1 columns become the tuple of the names whose cell says yes."""
    if len(columns) == 1:
        return table.columns[columns[0]]
    flags = [[_flag(table, name, i) for i in range(len(table))] for name in columns]
    return [tuple(name for name, flag in zip(columns, row, strict=True) if flag) for row in zip(*flags, strict=True)]


def _flag(table: Table, column: str, index: int) -> bool:
    value = table.columns[column][index]
    said = str(value).strip().casefold()
    if is_missing(value) or said not in _TRUE + _FALSE:
        raise table.error(f"expected 0 or 1, since the column is one of several labels, found {show(value)}", index=index, column=column)
    return said in _TRUE


def infer_kind(values: Sequence[Any], typed: bool) -> tuple[Kind, str]:
    """The kind of task the labels make and, where that is worth saying, why."""
    present = [value for value in values if not is_missing(value)]
    if any(isinstance(value, (list, tuple, set, frozenset)) for value in present):
        return "multilabel", "the labels are lists: multi-label"
    if not typed:
        return _infer_from_strings([value for value in present if value.strip()])
    numbers = [value for value in present if isinstance(value, (int, float)) and not isinstance(value, bool)]
    if numbers and len(numbers) == len(present):
        if any(isinstance(value, float) and not value.is_integer() for value in numbers):
            return "regression", "the labels are fractional numbers: regression (--kind classification to change)"
        if len(set(numbers)) > 20 and any(isinstance(value, float) for value in numbers):
            return "regression", f"the labels are {len(set(numbers))} different numbers: regression (--kind classification to change)"
        return "classification", _many_integers(len(set(numbers)))
    return "classification", _many_texts(present)


def _infer_from_strings(present: list[str]) -> tuple[Kind, str]:
    if present and all(_json_list(value) is not None for value in present):
        return "multilabel", "the labels are JSON lists: multi-label"
    if any("|" in value for value in present):
        parts = [part.strip() for value in present for part in value.split("|")]
        texts = f"; {TEXTS}" if _hardly_twice(parts) else ""
        return "multilabel", f"labels are split at '|': multi-label (--kind classification to keep them whole){texts}"
    numbers = [_number(value) for value in present]
    if not numbers or any(number is None for number in numbers):
        return "classification", _many_texts(present)
    distinct = len(set(numbers))
    if distinct > 20 and any(number is not None and not number.is_integer() for number in numbers):
        return "regression", f"the labels are {distinct} different numbers: regression (--kind classification to change)"
    return "classification", _many_integers(distinct)


def _many_integers(distinct: int) -> str:
    said = f"the labels are {distinct} different whole numbers, read as classes; --kind regression if they are amounts"
    return said if distinct > 20 else ""


def _many_texts(present: Sequence[Any]) -> str:
    """What is said where hardly a label comes twice, as it is of texts that a model is to write."""
    texts = [value for value in present if isinstance(value, str)]
    return f"{len(present)} rows have {len(set(texts))} different labels, read as classes; {TEXTS}" if _hardly_twice(texts) else ""


def _hardly_twice(labels: Sequence[str]) -> bool:
    """Whether most of the ``labels`` come once, as texts do."""
    return len(set(labels)) > max(_FEW, len(labels) / 2)


def read_labels(table: Table, columns: tuple[str, ...], kind: Kind, known: Sequence[Any] = (), advice: str = "") -> list[Any]:
    """The label of every row in the form of the task's kind. ``known`` are the training labels, for dev and test files; of one that is not
    among them ``advice`` says what else may be wrong.

    A missing, unknown, wrongly typed or unreadable label is a `DataError` that names its row.
    """
    values = label_values(table, columns)
    column = ",".join(columns)
    if kind == "regression":
        return [_value(table, column, i, value) for i, value in enumerate(values)]
    if kind == "text":
        return [_string(table, column, i, value) for i, value in enumerate(values)]
    if kind == "multilabel":
        groups = [_members(table, column, i, value) for i, value in enumerate(values)]
    else:
        groups = [(_single(table, column, i, value),) for i, value in enumerate(values)]
    groups = _as_known(groups, known) if known and not table.typed else groups
    if known:
        _only_known(table, column, groups, known, advice)
    else:
        _one_type(table, column, groups)
    return groups if kind == "multilabel" else [group[0] for group in groups]


def _value(table: Table, column: str, index: int, value: Any) -> float:
    number = _number(value) if isinstance(value, str) else value
    if isinstance(number, bool) or not isinstance(number, (int, float)) or is_missing(number):
        found = "nothing" if is_missing(value) or value == "" else show(value)
        problem = f"expected a number, since this is regression, found {found}; correct or delete the row"
        raise table.error(problem, index=index, column=column)
    try:
        result = float(number)
    except OverflowError:
        result = math.inf
    if not math.isfinite(result):
        raise table.error(f"expected a finite number, found {show(value)}; correct or delete the row", index=index, column=column)
    return result


def _string(table: Table, column: str, index: int, value: Any) -> str:
    if not isinstance(value, str) or not is_unicode(value):
        raise table.error(f"expected text as the target, found {show(value)}; correct or delete the row", index=index, column=column)
    return value


def _single(table: Table, column: str, index: int, value: Any) -> Label:
    untyped_gap = not table.typed and isinstance(value, str) and (not value.strip() or value in ("nan", "NaN"))
    if is_missing(value) or value == "" or untyped_gap:
        raise table.error(f"expected a label, found {show(value)} (missing); fill it in or delete the row", index=index, column=column)
    if not isinstance(value, (str, int, float)):
        advice = "use --kind multilabel for lists" if isinstance(value, (list, tuple)) else "give a string, number or true/false"
        raise table.error(f"expected one label, found {show(value)} ({type(value).__name__}); {advice}", index=index, column=column)
    if isinstance(value, str) and not is_unicode(value):
        raise table.error(f"expected Unicode text, found a broken character in {show(value)}; correct it", index=index, column=column)
    return value


def _members(table: Table, column: str, index: int, value: Any) -> tuple[Label, ...]:
    if isinstance(value, str):
        listed = _json_list(value)
        value = listed if listed is not None else [part.strip() for part in value.split("|") if part.strip()]
    if not isinstance(value, (list, tuple, set, frozenset)):
        found = "nothing" if is_missing(value) else show(value)
        raise table.error(f"expected a list of labels (or labels between '|'), found {found}", index=index, column=column)
    listing = sorted(value, key=str) if isinstance(value, (set, frozenset)) else value
    return tuple(_single(table, column, index, member) for member in listing)


def _as_known(groups: list[tuple[Any, ...]], known: Sequence[Any]) -> list[tuple[Any, ...]]:
    """A format that knows only strings writes the label 1 as "1" and True as "True" or "true"."""
    if isinstance(known[0], str):
        return groups
    spelled = {form: label for label in known for form in (str(label), str(label).lower())}
    return [tuple(spelled.get(member, member) for member in group) for group in groups]


def _one_type(table: Table, column: str, groups: list[tuple[Any, ...]]) -> None:
    first: dict[str, tuple[int, Any]] = {}
    for index, group in enumerate(groups):
        for member in group:
            first.setdefault(type(member).__name__, (index, member))
    if len(first) > 1:
        said = [f"{name} {show(member)} in row {table.rows[index]}" for name, (index, member) in first.items()]
        raise table.error(f"expected labels of one type, found {' and '.join(said)}; write them all alike", column=column)


def _only_known(table: Table, column: str, groups: list[tuple[Any, ...]], known: Sequence[Any], advice: str) -> None:
    keys = {label_key(label) for label in known}
    for index, group in enumerate(groups):
        for member in group:
            if label_key(member) not in keys:
                expected = f"one of {some([show(label, 30) for label in known], 8)}"
                mistyped = table.typed and type(member) is not type(known[0])
                kinds = f" ({type(member).__name__}, not {type(known[0]).__name__})" if mistyped else ""
                problem = f"expected {expected}, found the label {show(member, 40)}{kinds}, which the training data lacks"
                advised = "".join(f"; {said}" for said in ("correct it or add training rows", advice) if said)
                raise table.error(problem + advised, index=index, column=column)


def _json_list(value: str) -> list[Any] | None:
    if not value.strip().startswith("["):
        return None
    try:
        parsed = json.loads(value)
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, list) else None


def _number(value: str) -> float | None:
    try:
        return float(value) if "_" not in value else None
    except ValueError:
        return None
