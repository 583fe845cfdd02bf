"""Facts from files: a table with a subject and an object a row, and the templates of their relations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tempering.errors import DataError, RecipeError
from tempering.prompting.facts import Fact, Relation
from tempering.tasks.columns import require
from tempering.tasks.readers import read_table
from tempering.tasks.table import Table

USUAL = {  # LAMA's own names are sub_label, obj_label and predicate_id
    "subject": ("subject", "sub_label", "sub", "head", "x"),
    "object": ("object", "obj_label", "obj", "answer", "tail", "y"),
    "relation": ("relation", "predicate_id", "predicate", "rel"),
    "template": ("template", "pattern"),
}
ASK = "give --template '[X] was born in [Y].', a column template, or a file of templates by --relations"


def read_relations(
    path: str, templates: Sequence[str] = (), relations: str | None = None, columns: Mapping[str, str | None] | None = None
) -> list[Relation]:
    """The facts in ``path`` by relation and template, in the order of the file.

    ``templates`` are asked for every fact, each by itself; else ``relations`` is a file that names the template of each relation, or each
    row names its own. ``columns`` says which columns hold subject, object and relation, where they have unusual names.
    """
    if templates and relations:
        raise RecipeError("both --template and --relations say how facts are asked for; leave one out")
    table, given = read_table(path), columns or {}
    subjects, objects = (_texts(table, what, given.get(what)) for what in ("subject", "object"))
    named = _column(table, "relation", given.get("relation"))
    names = [str(value) for value in table.columns[named]] if named else [""] * len(table)
    asked = _asked(table, names, templates, relations)
    found: dict[tuple[str, str], list[Fact]] = {}
    for name, said, subject, answer in zip(names, asked, subjects, objects, strict=True):
        for template in said:
            found.setdefault((name, template), []).append(Fact(subject, answer))
    return [Relation(name, template, tuple(facts)) for (name, template), facts in found.items()]


def _asked(table: Table, names: Sequence[str], templates: Sequence[str], relations: str | None) -> list[tuple[str, ...]]:
    """The templates that each row is asked for under."""
    if templates:
        return [tuple(templates)] * len(table)
    if relations is not None:
        return _by_relation(table, names, read_table(relations))
    if _column(table, "template", None) is None:
        raise table.error(f"expected a template for the facts, found none; {ASK}")
    return [(one,) for one in _texts(table, "template", None)]


def _by_relation(table: Table, names: Sequence[str], others: Table) -> list[tuple[str, ...]]:
    """The templates that another file has for the relation of each row; several rows of one relation are several templates."""
    if not any(names):
        raise table.error("expected a column with the relation of each fact, to look its template up by; name it with --relation")
    known: dict[str, tuple[str, ...]] = {}
    for name, template in zip(_texts(others, "relation", None), _texts(others, "template", None), strict=True):
        known[name] = (*known.get(name, ()), template)
    for index, name in enumerate(names):
        if name not in known:
            there = ", ".join(list(known)[:5])
            raise table.error(f"relation {name!r} has no template in {others.source} (there: {there}); add it", index=index)
    return [known[name] for name in names]


def _column(table: Table, what: str, given: str | None) -> str | None:
    """The column of ``what``: the one named, which must be there, or the first of the usual names."""
    if given is not None:
        require(table, given, what)
        return given
    folded = {name.casefold().strip(): name for name in reversed(table.names)}
    return next((folded[name] for name in USUAL[what] if name in folded), None)


def _texts(table: Table, what: str, given: str | None) -> list[str]:
    """The column of ``what``, a text in every row."""
    column = _column(table, what, given)
    if column is None:
        there = ", ".join(map(repr, table.names[:8]))
        how = f"; name it with --{what}" if what in ("subject", "object") else ""
        raise table.error(f"expected a column of the {what}, called {' or '.join(USUAL[what][:2])}, found {there}{how}")
    return [_text(table, index, column, value) for index, value in enumerate(table.columns[column])]


def _text(table: Table, index: int, column: str, value: Any) -> str:
    if isinstance(value, str) and value.strip():
        return value.strip()
    problem: DataError = table.error(f"expected text, found {value!r}; fill it in or delete the row", index=index, column=column)
    raise problem
