"""From examples to prompts: a template with a tokenizer, a length and a way to shorten."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tempering.contracts import Example
from tempering.errors import DataError, RecipeError
from tempering.framings.templates.coding import PieceCoder
from tempering.framings.templates.laying import Laid, Part, cut_to, lay, size
from tempering.framings.templates.marks import Everywhere, Marks, read_marks
from tempering.framings.templates.pieces import AnyTemplate, Field, Filled, Label, Mask, Piece, Soft, Special, Text
from tempering.framings.templates.truncation import Shorten
from tempering.framings.text import reads_types

if TYPE_CHECKING:
    from tempering.backbone import Backbone

NAMES = ("text", "text_pair")
FRONT, BACK = ("cls", "bos"), ("sep", "sep+", "eos")  # at the ends of a template they are what the tokenizer puts there anyway
_IN_JINJA = " (in Jinja: print them as they are, cut with [a:b], joined with ~, or after lower, upper, title, trim, replace or the like)"


@dataclass(frozen=True)
class TemplateEncoder:
    """A template for one tokenizer. ``names`` are the fields of an example's texts, in order; ``limits`` their own most tokens.

    ``marks``: further fields, by what stands around them in the texts; ``masks``: the tokens of a mask that does not say; ``words``: the
    ids of the label word of each class; ``vectors``: of each soft piece its rows in the table of trained vectors; ``segments``: how many
    segment ids the model knows; ``length`` counts all tokens.
    """

    template: AnyTemplate
    coder: PieceCoder
    length: int
    names: tuple[str, ...] = NAMES
    how: Shorten = "longest"
    limits: tuple[int, ...] = ()
    marks: Marks = ()
    masks: int = 1
    words: tuple[tuple[int, ...], ...] = ()
    vectors: tuple[tuple[int, ...], ...] = ()
    segments: int = 1
    causal: bool = False
    _known: dict[tuple[str, bool | None], list[int]] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, template: AnyTemplate, backbone: Backbone, length: int | None, **options: Any) -> TemplateEncoder:
        """The encoder for ``backbone``, whose own limit holds where ``length`` is None or larger."""
        segments = int(backbone.config.type_vocab_size) if reads_types(backbone) else 1
        most = min(length or backbone.max_length, backbone.max_length)
        causal = backbone.layout.kind == "decoder"
        return cls(template, PieceCoder(backbone.tokenizer), most, segments=segments, causal=causal, **options)

    @cached_property
    def room(self) -> int:
        """Tokens between the special ones at both ends."""
        wrapping = self.coder.wrapping
        return self.length - len(wrapping.before) - (0 if self.causal else len(wrapping.after))

    def check(self) -> None:
        """Refuse a template whose own tokens leave no room for texts in ``length``."""
        blank: list[Filled] = [(p, p.text if isinstance(p, Text) else "") for p in self.template.skeleton()]
        fixed = size(self._parts([blank])[0])
        if fixed + any(isinstance(p, Field) for p, _ in blank) > self.room:
            raise RecipeError(
                f"template {str(self.template)!r}: its own tokens are {fixed}, and {self.room} fit beside special ones in {self.length};"
                " shorten the template, or give a larger max_length where the model can read it"
            )

    def encode(self, examples: Sequence[Example]) -> list[Laid]:
        """The prompt of each example, shortened where it is too long. One whose uncut parts do not fit is a `DataError`."""
        found = []
        for example, parts in zip(examples, self.parts(examples), strict=True):
            self.check_fixed(parts, example)
            cut = cut_to(parts, self.room, self.how)
            found.append(lay([parts], self.coder.wrapping, self.segments, self.causal, cut))
        return found

    def check_fixed(self, parts: Sequence[Part], example: Example) -> None:
        """Refuse an example whose parts that are never cut are too long."""
        fixed = sum(len(p.ids) for p in parts if not p.shortenable)
        if fixed > self.room:
            source = str(self.template)
            row, hint = f"row {example.row}: " if example.row >= 0 else "", _IN_JINJA if "{{" in source else ""
            raise DataError(
                f"{row}template {source!r} holds {fixed} tokens that may not be cut, and {self.room} fit; let its fields be shortened"
                f"{hint}, or give a larger max_length where the model can read it"
            )

    def parts(self, examples: Sequence[Example], answers: Sequence[tuple[int, ...]] | None = None) -> list[list[Part]]:
        """Parts of each example between the special tokens at the ends; with ``answers`` those ids stand where the masks were.

        Each mask takes as many of them as it has tokens, the last one all that are left.
        """
        made = self._parts([self.template.fill(self._values(example)) for example in examples])
        for parts, answer in zip(made, answers or [], strict=answers is not None):
            masks, left = [p for p in parts if p.role == "mask"], list(answer)
            for i, part in enumerate(masks):
                taken = len(left) if i + 1 == len(masks) else len(part.ids)
                part.ids, part.role, left = left[:taken], "label", left[taken:]
        return made

    def _values(self, example: Example) -> dict[str, str]:
        """The texts by field, without white space at their ends, and what is marked in them."""
        if isinstance(example, Everywhere):
            texts, marked = example.texts, {name: example.texts[0] for name, _ in self.marks}
        else:
            texts, marked = read_marks(example.texts, self.marks, example.row) if self.marks else (example.texts, {})
        values = {name: text.strip() for name, text in zip(self.names, texts, strict=False)} | marked
        absent = [name for name in self.template.fields() if name not in values]
        if absent:
            raise DataError(
                f"row {example.row}: template {str(self.template)!r} reads {absent[0]!r}, and the row has {len(example.texts)} text(s):"
                f" {', '.join(values)}; name the columns of the data, or take another template"
            )
        return values

    def _parts(self, filled: Sequence[Sequence[Filled]]) -> list[list[Part]]:
        """All texts of all examples are encoded at once, as tokenizers are fast in bulk."""
        bodies = [_inner(list(pieces)) for pieces in filled]
        wanted = [(said, _space(pieces, i)) for pieces in bodies for i, (p, said) in enumerate(pieces) if isinstance(p, Field)]
        fixed = {(said, _space(pieces, i)) for pieces in bodies for i, (p, said) in enumerate(pieces) if isinstance(p, Text)}
        fixed -= self._known.keys()
        self._known.update(zip(fixed, self._encoded(list(fixed)), strict=True))
        once = list(dict.fromkeys(wanted))  # many prompts may be made of one text
        found = dict(zip(once, self._encoded(once), strict=True))
        ids = iter([found[one] for one in wanted])
        return [self._body(pieces, ids) for pieces in bodies]

    def _encoded(self, wanted: Sequence[tuple[str, bool | None]]) -> list[list[int]]:
        return self.coder.encode([said for said, _ in wanted], [space for _, space in wanted])

    def _body(self, pieces: Sequence[Filled], ids: Any) -> list[Part]:
        vectors = iter(self.vectors)
        made = []
        for i, (piece, said) in enumerate(pieces):
            if isinstance(piece, Field):
                made.append(self._field(piece, next(ids)))
            elif isinstance(piece, Text):
                made.append(Part(list(self._known[said, _space(pieces, i)])))
            else:
                made.append(self._other(piece, vectors))
        return made

    def _field(self, piece: Field, ids: list[int]) -> Part:
        limits = [n for n in (piece.limit, self._limit(piece.name)) if n is not None]
        return Part(ids[: min(limits)] if limits else ids, "field", piece.shortenable)

    def _limit(self, name: str) -> int | None:
        """The limit of a text by its place: the last one given holds for all that follow."""
        if not self.limits or name not in self.names:
            return None
        return self.limits[min(self.names.index(name), len(self.limits) - 1)]

    def _other(self, piece: Piece, vectors: Any) -> Part:
        if isinstance(piece, Mask):
            return Part([self._mask_id] * (piece.count or self.masks), "mask")
        if isinstance(piece, Soft):
            rows = next(vectors)
            return Part([self.filler] * len(rows), "soft", vectors=rows)
        if isinstance(piece, Label):
            return Part(list(self.words[piece.index]), "label")
        assert isinstance(piece, Special)
        return Part(self.coder.special(piece.name), raises=piece.name == "sep+")

    @property
    def _mask_id(self) -> int:
        """The mask; for a model without masks anything, since its prompt ends before it."""
        found = self.coder.tokenizer.mask_token_id
        return self.filler if found is None else int(found)

    @property
    def filler(self) -> int:
        """What stands where a trained vector will: the model never sees it."""
        t = self.coder.tokenizer  # not the padding token: some bodies count positions by it
        return next((int(i) for i in (t.mask_token_id, t.eos_token_id, t.bos_token_id, t.unk_token_id) if i is not None), 0)

    def with_room(self, length: int) -> TemplateEncoder:
        """The same for prompts of another length."""
        return replace(self, length=length, _known=self._known)


def _inner(pieces: list[Filled]) -> list[Filled]:
    """Without the special tokens at the ends, which are put there anyway."""
    start = int(bool(pieces) and isinstance(pieces[0][0], Special) and pieces[0][0].name in FRONT)
    end = len(pieces) - int(len(pieces) > start and isinstance(pieces[-1][0], Special) and pieces[-1][0].name in BACK)
    return pieces[start:end]


def _space(pieces: Sequence[Filled], i: int) -> bool | None:
    """Whether a space stands before a piece; None where it begins the prompt or what follows a special token."""
    piece: Any = pieces[i][0]
    begins = i == 0 or isinstance(pieces[i - 1][0], Special)
    return None if begins and not piece.space else bool(piece.space)
