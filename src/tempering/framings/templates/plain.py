r"""Our own way to write a template: running text with blocks in braces.

=========================  ==========================================================================================
``{text}``                 the first text of the example; ``{text_pair}`` the second
``{text:strip_last}``      ... after transforms: strip, strip_last (drops the last character), strip_punct (drops final
                           punctuation), add_stop (adds a full stop), lower_first, upper_first, lower, upper; several in
                           turn: ``{text:strip_punct,lower}``
``{text:max=110}``         ... cut to 110 tokens of its own; ``{text:keep}``: never cut
``{mask}``                 what the model is to name, as many tokens as the verbalizer needs; ``{mask*2}``: two
``{soft}``                 a trained vector; ``{soft:3}`` three; ``{soft:It was}`` as many as the words have tokens, first drawn as
                           their embeddings; ``{soft:'3'}`` a word that is a number; ``{soft#a:3}`` used again as ``{soft#a:3}``
``{sep}`` ``{sep+}``       the separator of two texts; with ``+`` what follows is the next segment; also {cls}, {bos}, {eos}
``{label:0}``              the label word of class 0; ``{labelx:0}`` that of demonstration 0
``\{`` ``\}`` ``\\``       a brace or a backslash itself
=========================  ==========================================================================================

Special tokens at both ends come by themselves. A space before a block belongs to what the block says.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from tempering.errors import RecipeError
from tempering.framings.templates.pieces import (
    SPECIALS,
    Field,
    Label,
    Mask,
    Piece,
    Soft,
    Template,
    Text,
    check_transform,
    spaced,
    special,
)

_BLOCK = re.compile(r"(?P<name>[^:#*]*)(?:#(?P<key>[^:*]+))?(?:\*(?P<count>[^:]*))?(?::(?P<options>.*))?", re.DOTALL)


def parse(source: str) -> Template:
    """The template that ``source`` writes; a mistake is a `RecipeError` that shows the place."""
    return Template(spaced(list(_parts(source))), "plain")


def write(template: Template) -> str:
    """``template`` in this form: `parse` gives it back."""
    return "".join(" " * piece.space + _write(piece) for piece in template.pieces)


def _parts(source: str) -> Iterator[Piece | str]:
    """Literal stretches and pieces."""
    at, literal = 0, ""
    while at < len(source):
        char = source[at]
        if char == "\\" and source[at + 1 : at + 2] in ("{", "}", "\\"):
            literal, at = literal + source[at + 1], at + 2
        elif char == "{":
            end = _end_of(source, at)
            yield literal
            yield _piece(source[at + 1 : end], f"template {source!r}, block {source[at : end + 1]}")
            literal, at = "", end + 1
        elif char == "}":
            raise _unbalanced(source, at, "closes no brace")
        else:
            literal, at = literal + char, at + 1
    yield literal


def _end_of(source: str, start: int) -> int:
    """Where the block that begins at ``start`` ends."""
    end = start + 1
    while end < len(source) and source[end] != "}":
        if source[end] == "{":
            raise _unbalanced(source, start, "is not closed before the next one")
        end += 1
    if end == len(source):
        raise _unbalanced(source, start, "is not closed")
    return end


def _unbalanced(source: str, at: int, what: str) -> RecipeError:
    return RecipeError(f"template {source!r}: the brace at character {at + 1} {what}; write \\{source[at]} for a brace of the text itself")


def _piece(block: str, where: str) -> Piece:
    found = _BLOCK.fullmatch(block)
    assert found is not None  # the pattern takes anything
    name, key, count, options = (found[group] for group in ("name", "key", "count", "options"))
    name = name.strip()
    if not name:
        raise RecipeError(f"{where}: names nothing; write {{text}}, {{text_pair}} or {{mask}}")
    if name != "soft" and key is not None:
        raise RecipeError(f"{where}: only soft takes a #name")
    if name != "mask" and count is not None:
        raise RecipeError(f"{where}: only mask takes a *number; write {{soft:3}} for several vectors")
    if name in SPECIALS or name == "mask":
        if options is not None:
            raise RecipeError(f"{where}: {name} takes no options after a colon")
        return Mask(None if count is None else _number(count, where)) if name == "mask" else special(name, where)
    if name == "soft":
        return _soft(options, key or "", where)
    if name in ("label", "labelx"):
        return Label(_number(options or "", where, least=0), name == "labelx")
    return _field(name, options or "", where)


def _soft(options: str | None, key: str, where: str) -> Soft:
    if options is None:
        return Soft(key=key)
    words = options.strip()
    if words.isdigit():
        return Soft(_number(words, where), key=key)
    quoted = len(words) >= 2 and words[0] == words[-1] and words[0] in "'\""
    init = words[1:-1] if quoted else words
    if not init:
        raise RecipeError(f"{where}: names no words to begin with; write {{soft}} for one vector, {{soft:3}} for three")
    return Soft(0, init, key)


def _field(name: str, options: str, where: str) -> Field:
    transforms, shortenable, limit = [], True, None
    for option in (o.strip() for o in options.split(",") if o.strip()):
        if option == "keep":
            shortenable = False
        elif option.startswith("max="):
            limit = _number(option.removeprefix("max="), where)
        else:
            transforms.append(check_transform(option, where))
    return Field(name, tuple(transforms), False, shortenable, limit)


def _number(text: str, where: str, least: int = 1) -> int:
    if not text.strip().isdigit() or int(text) < least:
        raise RecipeError(f"{where}: expected a whole number of at least {least}, found {text!r}")
    return int(text)


def _write(piece: Piece) -> str:
    writers: dict[type, Callable[..., str]] = {
        Text: _write_text,
        Field: _write_field,
        Mask: _write_mask,
        Soft: _write_soft,
        Label: _write_label,
    }
    writer = writers.get(type(piece))
    return writer(piece) if writer else f"{{{piece.name}}}"  # type: ignore[union-attr]


def _write_text(piece: Text) -> str:
    return re.sub(r"([\\{}])", r"\\\1", piece.text)


def _write_field(piece: Field) -> str:
    options = [*piece.transforms, *([] if piece.limit is None else [f"max={piece.limit}"]), *([] if piece.shortenable else ["keep"])]
    return f"{{{piece.name}{':' + ','.join(options) if options else ''}}}"


def _write_mask(piece: Mask) -> str:
    return "{mask}" if piece.count is None else f"{{mask*{piece.count}}}"


def _write_soft(piece: Soft) -> str:
    key = f"#{piece.key}" if piece.key else ""
    plain = piece.init and not piece.init.isdigit() and piece.init[0] not in "'\"" and piece.init == piece.init.strip()
    words = (piece.init if plain else f"'{piece.init}'") if piece.init else ("" if piece.count == 1 else str(piece.count))
    return f"{{soft{key}{':' + words if words else ''}}}"


def _write_label(piece: Label) -> str:
    return f"{{{'labelx' if piece.demo else 'label'}:{piece.index}}}"
