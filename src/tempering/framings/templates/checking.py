"""What of a template is refused before anything is trained, and what is worth a note."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence
from itertools import pairwise

from tempering.errors import ModelError, RecipeError
from tempering.framings.templates.pieces import AnyTemplate, Field, Label, Mask, Piece, Special, Text


def check_fields(template: AnyTemplate, names: Sequence[str], asked: str = "fields") -> None:
    """Refuse a template that reads a field which the data does not have, or none at all."""
    found = template.fields()
    if not found:
        raise RecipeError(f"template {str(template)!r} reads no text; write {{{names[0]}}} where the text of an example goes")
    for name in found:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
            raise RecipeError(
                f"template {str(template)!r}: unknown field {name!r}; "
                + (f"did you mean {near[0]!r}? " if near else f"known: {', '.join(names)}; ")
                + f"write one of those, or say what the texts are called, in the order of the data: {asked}: [{', '.join(found)}]"
            )


def check_masks(template: AnyTemplate, needed: int) -> int:
    """Refuse a template without a mask, or with another number of them than the verbalizer needs. Tokens of a mask that does not say."""
    pieces = template.skeleton()
    masks = [p for p in pieces if isinstance(p, Mask)]
    if not masks:
        raise RecipeError(f"template {str(template)!r} has no mask; write {{mask}} (or its own word for it) where the label word goes")
    if len(masks) == 1 and masks[0].count is None:
        return needed
    found = sum(p.count or 1 for p in masks)
    if found != needed:
        raise RecipeError(
            f"template {str(template)!r} has {found} masks, and the verbalizer reads {needed}; write one {{mask}}, which takes as many as"
            " are needed, or take a verbalizer for several masks such as multi_mask"
        )
    return 1


def check_labels(template: AnyTemplate, classes: int) -> None:
    """Refuse label words of classes that are not there, and those of demonstrations outside of them."""
    for piece in (p for p in template.skeleton() if isinstance(p, Label)):
        if piece.demo:
            raise RecipeError(
                f"template {str(template)!r} names the label word of a demonstration; write the query alone, and let the framing"
                " demonstrations add the answered examples"
            )
        if piece.index >= classes:
            raise RecipeError(
                f"template {str(template)!r} names the label word of class {piece.index}; there are {classes}, counted from 0"
            )


def check_causal(template: AnyTemplate, method: str, source: str, family: str) -> None:
    """Refuse a template whose mask is not last for a model that reads from left to right."""
    pieces = [p for p in template.skeleton() if not isinstance(p, Special)]
    if sum(isinstance(p, Mask) for p in pieces) == 1 and isinstance(pieces[-1], Mask):
        return
    raise ModelError(
        f"{method} cannot serve {source} ({family}) with template {str(template)!r}: the model reads from left to right and so cannot see"
        " what follows the mask; give a template that ends with its one mask, or choose an encoder such as roberta-base"
    )


def unread(template: object, shown: Collection[str], names: Sequence[str], texts: int, what: str = "template") -> str:
    """A note where rows have ``texts`` texts, called ``names``, of which one is not among the fields ``shown``: nothing reads it."""
    missing = [i for i, name in enumerate(names[:texts]) if name not in shown]
    if texts < 2 or not missing:
        return ""
    which = ("first", "second")[missing[0]]
    return (
        f"the rows are pairs, and {what} {str(template)!r} never shows {{{names[missing[0]]}}}: the {which} text is not read; give a"
        f" {what} that shows both"
    )


def boundaries(pieces: Sequence[Piece]) -> str:
    """A note where words of the template touch a text without a space, so that their tokens may melt in running text and do not here."""
    for left, right in pairwise(pieces):
        if right.space if not isinstance(right, Special) else True:
            continue
        words = right.text[0] if isinstance(right, Text) and isinstance(left, Field) else None
        words = left.text[-1] if isinstance(left, Text) and isinstance(right, Field) else words
        if words is not None and words.isalnum():
            return f"the template has no space between {words!r} and a text; they are tokenized apart, not as one word"
    return ""
