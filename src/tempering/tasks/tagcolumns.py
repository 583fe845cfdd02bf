"""Which columns hold words and tags, or texts and spans: as named, or by the names people use and by what they hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tempering.contracts import Example
from tempering.tags import detect
from tempering.tasks.columns import Columns, require
from tempering.tasks.marked import is_spans
from tempering.tasks.table import Table, show, some
from tempering.tasks.wordlists import is_words, words_of

TOKENS = ("tokens", "words", "token", "text", "sentence")
TAGS = ("tags", "ner_tags", "ner", "upos", "pos_tags", "pos", "chunk_tags", "labels", "label")
SPANS = ("spans", "entities", "ents", "annotations", "labels", "label")
TEXTS = ("text", "sentence", "content", "document")
OFFSETS = "words"  # a column of (start, end) beside a text: how examples in memory are carried


def choose(table: Table, text: str | None, label: str | None) -> Columns:
    """The columns of tokens (or text) and tags (or spans), as named or by their usual names and by what they hold."""
    for given, option in ((text, "text"), (label, "label")):
        if given is not None:
            require(table, given, option)
    folded = {name.casefold().strip(): name for name in reversed(table.columns)}
    label = label or _first(table, folded, TAGS, _holds_tags) or _first(table, folded, SPANS, is_spans)
    if label is None:
        raise table.error(f"expected a column of tags or spans, found {_listed(table)}; name it with --label")
    names = TEXTS if is_spans(table.columns[label]) else TOKENS
    chosen = text or next((folded[n] for n in names if n in folded and folded[n] != label and _holds_text(table.columns[folded[n]])), None)
    if chosen is None:
        raise table.error(f"expected a column of tokens or texts, found {_listed(table)}; name it with --text")
    taken = [f"{role} = {show(name)}" for role, name, given in (("text", chosen, text), ("label", label, None)) if given is None]
    return Columns(chosen, None, (label,), (f"columns taken by their names: {', '.join(taken)}",) if text is None else ())


def untagged(table: Table, text: str | None, trained: str | None) -> tuple[Example, ...]:
    """Rows to be tagged: those of the column ``text``, else of the training column, else of one with a usual name."""
    if text is not None:
        require(table, text, "text")
    folded = {name.casefold().strip(): name for name in reversed(table.columns)}
    usual = (folded[name] for name in (*TOKENS, *TEXTS) if name in folded and _holds_text(table.columns[folded[name]]))
    chosen = text or (trained if trained in table.columns else None) or next(usual, None)
    if chosen is None:
        raise table.error(f"expected a column of tokens or texts, found {_listed(table)}; name it with --text")
    found = zip(words_of(table, chosen), table.rows, strict=True)
    return tuple(Example((content,), None, row, words or ()) for (content, words), row in found)


def tagged(table: Table, text: str | None, label: str | None) -> str:
    """Why the table is one of tagging, in words; empty where it is not surely one."""
    texts = [text] if text is not None else [name for name in table.columns if name.casefold().strip() in TOKENS]
    tokens = [name for name in texts if name in table.columns and is_words(table.columns[name])]
    folded = {name.casefold().strip(): name for name in reversed(table.columns)}
    if label is not None and label not in table.columns:
        return ""
    tags = label if label is not None else _first(table, folded, TAGS, is_words)
    if tokens and tags is not None and tags not in tokens and is_words(table.columns[tags]):
        return "the rows hold tokens and tags: tagging"
    spans = label if label is not None else _first(table, folded, SPANS, is_spans)
    if spans is not None and is_spans(table.columns[spans]):
        return "the rows hold spans of characters: tagging"
    return "the rows hold words: tagging" if OFFSETS in table.columns and "text" in table.columns and not tokens and tags else ""


def tags_of(table: Table, labels: Sequence[Any]) -> str | None:
    """The column of a table of words that surely holds their tags: those of a scheme, or among ``labels`` all of them."""
    if "upos" in table.columns:  # CoNLL-U
        return "upos"
    known = set(labels)
    columns = {name: values for name, values in table.columns.items() if name != "tokens"}
    return next((n for n, rows in columns.items() if detect(rows) != "plain" or all(tag in known for row in rows for tag in row)), None)


def _first(table: Table, folded: dict[str, str], names: Sequence[str], holds: Any) -> str | None:
    return next((folded[name] for name in names if name in folded and holds(table.columns[folded[name]])), None)


def _holds_tags(values: Sequence[Any]) -> bool:
    return not is_spans(values) and any(isinstance(v, (list, tuple, str)) for v in values)


def _holds_text(values: Sequence[Any]) -> bool:
    return any(isinstance(v, str) for v in values) or is_words(values)


def _listed(table: Table) -> str:
    return some([show(name) for name in table.columns])
