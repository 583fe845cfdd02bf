"""The way LM-BFF writes templates: a string cut at every star, literals and variables in turn, an underscore for a space.

``*cls**sent_0*_It_was*mask*.*sep+*`` is [CLS] S0 " It was" [MASK] "." [SEP]. Variables: cls, sep, mask; ``sep+`` (the next segment
begins after it); ``sent_i`` (sentence i), ``sent-_i`` (without its last character), ``sentl_i`` and ``sentu_i`` (first letter lowered or
raised), ``sentl-_i``; with ``+`` in front a space comes first; ``label_i`` (the label word of class i), ``labelx_i`` (that of
demonstration i).

Source: princeton-nlp/LM-BFF, ``src/dataset.py``. Differs: numbers are read as numbers, so that ``_0`` in a literal and sentences of two
digits are safe; a star or underscore cannot be written, as there.
"""

from __future__ import annotations

import re

from tempering.errors import RecipeError
from tempering.framings.templates.pieces import Field, Label, Mask, Piece, Soft, Special, Template, Text, spaced

_SENTENCE = re.compile(r"(?P<space>\+?)sent(?P<case>[lu]?)(?P<cut>-?)_(?P<index>\d+)")
_LABEL = re.compile(r"label(?P<demo>x?)_(?P<index>\d+)")
_CASES = {"": (), "l": ("lower_first",), "u": ("upper_first",)}
FIELDS = ("text", "text_pair")


def name_of(index: int) -> str:
    """The field that is sentence ``index``: text, text_pair, and for demonstrations text_2 and so on."""
    return FIELDS[index] if index < len(FIELDS) else f"text_{index}"


def index_of(name: str) -> int | None:
    """The sentence that field ``name`` is; None where it is none."""
    if name in FIELDS:
        return FIELDS.index(name)
    found = re.fullmatch(r"text_(\d+)", name)
    return int(found[1]) if found else None


def parse(source: str) -> Template:
    """The template that ``source`` writes; a mistake is a `RecipeError`."""
    parts = source.split("*")
    if len(parts) % 2 == 0:
        raise RecipeError(f"template {source!r}: the stars do not come in pairs; write each variable between two, as in  *mask*")
    pieces: list[Piece | str] = []
    for i, part in enumerate(parts):
        pieces.append(_variable(part, source) if i % 2 else part.replace("_", " "))
    return Template(spaced(pieces), "lm-bff")


def _variable(name: str, source: str) -> Piece:
    if name == "mask":
        return Mask()
    if name in ("cls", "sep", "sep+"):
        return Special(name)  # type: ignore[arg-type]
    if found := _SENTENCE.fullmatch(name):
        transforms = (*(("strip_last",) if found["cut"] else ()), *_CASES[found["case"]])
        return Field(name_of(int(found["index"])), transforms, bool(found["space"]))
    if found := _LABEL.fullmatch(name):
        return Label(int(found["index"]), bool(found["demo"]))
    raise RecipeError(
        f"template {source!r}: unknown variable *{name}*; known: *cls* *sep* *sep+* *mask* *sent_0* *sent-_0* *sentl_0* *sentl-_0*"
        " *sentu_0* *label_0* *labelx_0*, and + before a sentence"
    )


def write(template: Template) -> str:
    """``template`` in this form; what it has no word for is a `RecipeError`."""
    return "".join(_write(piece, template) for piece in template.pieces)


def _write(piece: Piece, template: Template) -> str:
    space = "_" if piece.space else ""
    if isinstance(piece, Text) and not set("*_") & set(piece.text):
        return space + piece.text.replace(" ", "_")
    if isinstance(piece, Field) and (name := _sentence(piece)):
        return f"*{'+' if piece.space else ''}{name}*"
    if isinstance(piece, Mask) and piece.count is None:
        return f"{space}*mask*"
    if isinstance(piece, Special) and piece.name in ("cls", "sep", "sep+"):
        return f"{space}*{piece.name}*"
    if isinstance(piece, Label):
        return f"{space}*label{'x' if piece.demo else ''}_{piece.index}*"
    what = "trained vectors" if isinstance(piece, Soft) else repr(piece)
    raise RecipeError(f"template {template.pieces}: the LM-BFF form has no word for {what}; write it in the plain form")


def _sentence(piece: Field) -> str:
    """sentl-_0 and such; empty where there is no word for it."""
    known = {((*(("strip_last",) if cut else ()), *steps)): case + cut for case, steps in _CASES.items() for cut in ("", "-")}
    index = index_of(piece.name)
    if index is None or piece.transforms not in known or not piece.shortenable or piece.limit is not None:
        return ""
    return f"sent{known[piece.transforms]}_{index}"
