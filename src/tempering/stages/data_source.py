"""A labelled data set that a stage names: where it is, and which of its columns hold what."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from tempering.codec import build, fields_of
from tempering.contracts import Kind
from tempering.errors import RecipeError

# How the reader names what it was not told: as the options of the command line, which are of the user's own data.
_OPTIONS = re.compile(r"--(text-pair|text|label|kind)\b(?: (classification|regression|multilabel|text|tagging|question_answering)\b)?")
_FILES = re.compile(r"give a file with --(dev|test)\b")


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class DataSource:
    """A data set by its ``path`` (a file, a folder, a hub id), with what is to be read of it.

    A stage takes one wherever it takes a path: ``data: {path: snli.jsonl, label: gold_label}``. ``text``, ``text_pair`` and ``label`` name
    columns (``label: "a,b,c"`` several 0/1 columns), and ``kind`` is the kind of task. What is not said is found as in your own data: by
    the usual names of columns, and from the labels.
    """

    path: str = ""  # a default, so that a recipe file holds only what is said; `named` refuses it
    text: str | None = Field(default=None, min_length=1)
    text_pair: str | None = Field(default=None, min_length=1)
    label: str | None = Field(default=None, min_length=1)
    kind: Kind | None = None

    @property
    def said(self) -> dict[str, Any]:
        """What is said beside the path."""
        return {name: value for name in fields_of(self) if name != "path" and (value := getattr(self, name)) is not None}

    def __str__(self) -> str:
        """As messages and records name it: by its path, and what else makes it another task than the same file read otherwise."""
        said = ", ".join(f"{name}: {value}" for name, value in self.said.items())
        return f"{self.path} ({said})" if said else self.path

    def advised(self, problem: str, setting: str = "") -> str:
        """The reader's ``problem`` in the names of these fields, with how to say them, or where else to look. ``setting`` names it."""
        problem = _FILES.sub(r"give a folder with train and \1", problem)
        where = f" in {setting}" if setting else ""
        if (missing := _OPTIONS.search(problem)) is None:
            return f"{problem}; give the path of a file or folder{where}"
        said = {"path": self.path} | self.said | {_field(missing): missing[2] or "COLUMN"}
        shown = "{" + ", ".join(f"{name}: {value}" for name, value in said.items()) + "}"
        advice = _OPTIONS.sub(lambda found: _field(found) + (f": {found[2]}" if found[2] else ""), problem)
        return f"{advice}; it is said beside the path, as in  {shown}{where}"


def _field(option: re.Match[str]) -> str:
    return option[1].replace("-", "_")


Named = Annotated[str, Field(min_length=1)] | DataSource


def named(node: Any) -> Any:
    """A data set as a recipe names it: its path alone where nothing else is said, so that equal recipes have equal keys."""
    if isinstance(node, Mapping):
        try:
            node = build(DataSource, {str(key): value for key, value in node.items()}, "DataSource")
        except RecipeError as error:
            raise ValueError(str(error)) from None
    path = node.path if isinstance(node, DataSource) else node
    if not isinstance(path, str) or not path:
        raise ValueError("expected the path of a data set, or a path with its columns as in  {path: snli.jsonl, label: gold_label}")
    return node if isinstance(node, DataSource) and node.said else path
