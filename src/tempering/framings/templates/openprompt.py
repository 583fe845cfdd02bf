"""The way OpenPrompt writes templates: text with blocks that hold a Python dict literal.

``{"placeholder": "text_a"} It was {"mask"}.`` Keys: placeholder (text_a, text_b), meta (a field by name), mask, soft (None, or the words
its vectors begin as), soft_id (equal numbers share their vectors), duplicate (so many copies) with same (all one vector), special, text,
shortenable, and of a placeholder or meta post_processing (one of the functions in `LAMBDAS`).

Source: thunlp/OpenPrompt, ``openprompt/prompts/mixed_template.py`` and ``prompt_base.py``. Differs: blocks are read as literals and never
evaluated; a mistake is an error and ends no process.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from typing import Any

from tempering.errors import RecipeError
from tempering.framings.templates.pieces import Field, Label, Mask, Piece, Soft, Special, Template, Text, spaced, special

PLACEHOLDERS = {"text_a": "text", "text_b": "text_pair"}
KEYS = ("placeholder", "meta", "mask", "soft", "soft_id", "duplicate", "same", "special", "text", "shortenable", "post_processing")
KINDS = ("placeholder", "meta", "mask", "soft", "special", "text")
FIELDS = ("placeholder", "meta")  # the kinds that post_processing acts on
LAMBDAS = {
    "lambda x: x[:-1]": "strip_last",
    "lambda x: x.rstrip(string.punctuation)": "strip_punct",
    "lambda x: x.lower()": "lower",
    "lambda x: x.upper()": "upper",
    "lambda x: x.strip()": "strip",
    "lambda x: x[:1].lower() + x[1:]": "lower_first",
    "lambda x: x[0].lower() + x[1:]": "lower_first",
    "lambda x: x[:1].upper() + x[1:]": "upper_first",
    "lambda x: x[0].upper() + x[1:]": "upper_first",
    "lambda x: x + '.'": "add_stop",
}


def parse(source: str) -> Template:
    """The template that ``source`` writes; a mistake is a `RecipeError`."""
    return Template(spaced(list(_parts(source))), "openprompt")


def _parts(source: str) -> Iterator[Piece | str]:
    at = anonymous = 0
    while at < len(source):
        if source[at] != "{":
            end = source.find("{", at)
            end = len(source) if end < 0 else end
            if "}" in source[at:end]:
                raise RecipeError(f"template {source!r}: the brace at character {source.index('}', at) + 1} closes none")
            yield source[at:end]
            at = end
            continue
        end = _end_of(source, at)
        block = source[at : end + 1]
        fields = _literal(block, f"template {source!r}, block {block}")
        yield from _pieces(fields, f"template {source!r}, block {block}", f"same{anonymous}")
        anonymous, at = anonymous + 1, end + 1


def _end_of(source: str, start: int) -> int:
    """Where the block that begins at ``start`` ends; braces inside it, and in strings, are skipped."""
    depth, quote = 0, ""
    for at in range(start, len(source)):
        char = source[at]
        if quote:
            quote = "" if char == quote and source[at - 1] != "\\" else quote
        elif char in "'\"":
            quote = char
        elif char in "{}":
            depth += 1 if char == "{" else -1
            if depth == 0:
                return at
    raise RecipeError(f"template {source!r}: the brace at character {start + 1} is not closed")


def _literal(block: str, where: str) -> dict[str, Any]:
    """The dict in a block; a set stands for keys without values. Functions are returned as their source."""
    try:
        node: Any = ast.parse(block, mode="eval").body
        if isinstance(node, ast.Set):
            return _known({str(ast.literal_eval(key)): None for key in node.elts}, where)
        if not isinstance(node, ast.Dict) or None in node.keys:
            raise ValueError
        pairs = {ast.literal_eval(key): _value(value) for key, value in zip(node.keys, node.values, strict=True) if key is not None}
        return _known({str(key): value for key, value in pairs.items()}, where)
    except (SyntaxError, ValueError, TypeError):
        raise RecipeError(f"{where}: expected a dict of plain values, as in  {{'placeholder': 'text_a'}}  or  {{'mask'}}") from None


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Lambda) and len(node.args.args) == 1:
        given = node.args.args[0].arg
        for inner in ast.walk(node):
            if isinstance(inner, ast.Name) and inner.id == given:
                inner.id = "x"
        node.args.args[0].arg = "x"
        return ast.unparse(node)
    return ast.literal_eval(node)


def _known(fields: dict[str, Any], where: str) -> dict[str, Any]:
    unknown = [key for key in fields if key not in KEYS and key != "add_prefix_space"]
    if unknown:
        raise RecipeError(f"{where}: unknown key {unknown[0]!r}; known: {', '.join(KEYS)}")
    kinds = [kind for kind in KINDS if kind in fields]
    if "soft_id" in fields and not kinds:
        fields, kinds = fields | {"soft": None}, ["soft"]
    if len(kinds) != 1:
        raise RecipeError(f"{where}: expected one of {', '.join(KINDS)}, found {' and '.join(kinds) or 'none'}")
    if fields.get("post_processing") is not None and kinds[0] not in FIELDS:
        raise RecipeError(
            f"{where}: post_processing changes what a text of the example says, and {kinds[0]} is none; drop it, or name a"
            f" {' or '.join(FIELDS)}"
        )
    return fields


def _pieces(fields: dict[str, Any], where: str, anonymous: str) -> Iterator[Piece | str]:
    copies = _copies(fields, where)
    if "soft" in fields:
        yield from _soft(fields, copies, anonymous)
    elif "text" in fields:
        yield from [str(fields["text"])] * copies
    elif "mask" in fields:
        yield Mask(copies if "duplicate" in fields else None)
    elif "special" in fields:
        yield from [special(str(fields["special"]), where)] * copies
    else:
        yield from [_field(fields, where)] * copies


def _soft(fields: dict[str, Any], copies: int, anonymous: str) -> list[Soft]:
    """Vectors that begin as words, copies that are one vector, or so many vectors."""
    identity, init = fields.get("soft_id"), fields["soft"]
    key = "" if identity is None else str(identity)
    if init:
        return [Soft(0, str(init), key)] * copies
    if copies > 1 and fields.get("same"):
        return [Soft(1, "", key or anonymous)] * copies
    return [Soft(copies, "", key)]


def _copies(fields: dict[str, Any], where: str) -> int:
    given = fields.get("duplicate", 1)
    if not isinstance(given, int) or given < 1:
        raise RecipeError(f"{where}: duplicate is how many copies there are, a whole number of at least 1, found {given!r}")
    return given


def _field(fields: dict[str, Any], where: str) -> Field:
    meta = "meta" in fields
    name = fields["meta" if meta else "placeholder"]
    if not meta and name not in PLACEHOLDERS:
        raise RecipeError(f"{where}: unknown placeholder {name!r}; known: {', '.join(PLACEHOLDERS)}; name another field by meta")
    function = fields.get("post_processing")
    if function is not None and function not in LAMBDAS:
        raise RecipeError(f"{where}: post_processing {function!r} is not one of the functions known here: {'; '.join(LAMBDAS)}")
    transforms = () if function is None else (LAMBDAS[function],)
    return Field(str(name) if meta else PLACEHOLDERS[name], transforms, False, bool(fields.get("shortenable", not meta)))


def write(template: Template) -> str:
    """``template`` in this form; what it has no word for is a `RecipeError`."""
    return "".join(" " * piece.space + _write(piece, template) for piece in template.pieces)


def _write(piece: Piece, template: Template) -> str:
    if isinstance(piece, Text):
        return piece.text if not set("{}") & set(piece.text) else f"{{{json.dumps('text')}: {json.dumps(piece.text, ensure_ascii=False)}}}"
    if isinstance(piece, Field) and len(piece.transforms) < 2 and piece.limit is None:
        return _write_field(piece)
    if isinstance(piece, Mask):
        return '{"mask"}' if piece.count is None else f'{{"mask": None, "duplicate": {piece.count}}}'
    if isinstance(piece, Special):
        return f'{{"special": "<{piece.name}>"}}'
    if isinstance(piece, Soft):
        return _write_soft(piece)
    what = "label words" if isinstance(piece, Label) else repr(piece)
    raise RecipeError(f"template {template.pieces}: the OpenPrompt form has no word for {what}; write it in the plain form")


def _write_field(piece: Field) -> str:
    known = {ours: theirs for theirs, ours in PLACEHOLDERS.items()}
    name, meta = known.get(piece.name, piece.name), piece.name not in known
    parts = [f'"{"meta" if meta else "placeholder"}": {json.dumps(name)}']
    if piece.shortenable == meta:  # placeholders are by default, other fields are not
        parts.append(f'"shortenable": {piece.shortenable}')
    if piece.transforms:
        parts.append(f'"post_processing": {next(source for source, name in LAMBDAS.items() if name == piece.transforms[0])}')
    return f"{{{', '.join(parts)}}}"


def _write_soft(piece: Soft) -> str:
    parts = [f'"soft": {json.dumps(piece.init, ensure_ascii=False) if piece.init else None}']
    if piece.key:
        parts.append(f'"soft_id": {json.dumps(int(piece.key) if piece.key.isdigit() else piece.key)}')
    if piece.count > 1:
        parts.append(f'"duplicate": {piece.count}')
    return f"{{{', '.join(parts)}}}"
