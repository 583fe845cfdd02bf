"""The text that a model reads before it writes: a template with places for an example's texts, shortened where those are too long."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tempering.contracts import Example, Kind
from tempering.errors import DataError, RecipeError
from tempering.framings.wrapping import filler
from tempering.framings.writing.encoding import Encoder, Parts

NAMES = ("text", "text_pair")
_FIELD = re.compile(r"\\([\\{}])|\{(text|text_pair)\}|(\{+[^{}]*\}*|\})")  # an escape, a place, any other brace
_SINGLE, _PAIR = "{text}", "sentence1: {text} sentence2: {text_pair}"  # T5's names of the two sentences of a pair
_QUESTION = "question: {text} context: {text_pair}"  # as T5 writes SQuAD


def fields_of(template: str, what: str = "source") -> list[str]:
    """The places of ``template``, in order; none at all, or a brace that is of no place and not escaped, is a `RecipeError`."""
    found = places(template, what)
    if not found:
        raise _wrong(template, what, "it has no place for the text")
    return found


def places(template: str, what: str) -> list[str]:
    """As `fields_of`, of a text that needs no place."""
    found = list(_FIELD.finditer(template))
    if odd := [piece[3] for piece in found if piece[3]]:
        raise _wrong(template, what, f"unknown place {odd[0]}")
    return [piece[2] for piece in found if piece[2]]


def _wrong(template: str, what: str, why: str) -> RecipeError:
    return RecipeError(
        f"text_to_text.{what} {template!r}: {why}; write {{text}} where the text goes, {{text_pair}} for the second one, and \\{{ or \\}}"
        " for a brace of the text itself; other blocks ({mask}, {text:lower}) and Jinja are for the templates of cloze"
    )


def _filled(template: str, given: Mapping[str, str]) -> str:
    """``template`` with texts in its places, and its escapes as what they stand for."""
    return _FIELD.sub(lambda piece: piece[1] or given[piece[2]], template)


@dataclass(frozen=True)
class Source:
    """A tokenizer with a ``template`` ("": the usual one of the kind and the number of texts), the ``cue`` that ends every source of
    a causal model, and ``length`` in tokens, special ones counted.

    A source that is too long loses the ends of its longest text, token by token: never a word of the template.
    """

    tokenizer: Any
    template: str
    cue: str
    length: int
    kind: Kind

    def template_of(self, example: Example) -> str:
        """The template for one example; one that reads a second text where there is none is a `DataError`."""
        usual = _SINGLE if len(example.texts) == 1 else _QUESTION if self.kind == "question_answering" else _PAIR
        chosen = self.template or usual
        if len(example.texts) == 1 and "text_pair" in fields_of(chosen):
            raise DataError(
                f"row {example.row}: text_to_text.source {chosen!r} reads {{text_pair}}, and this row has one text; name the second column"
                " with --text-pair, or take {text_pair} out"
            )
        return chosen

    def fill(self, example: Example, texts: Sequence[str] | None = None) -> Parts:
        """The whole source of ``example``, or of other ``texts`` in their place."""
        given = dict(zip(NAMES, example.texts if texts is None else texts, strict=False))
        return self._cued([_filled(part, given) for part in self.encoder.parts(self.template_of(example))])

    def encode(self, examples: Sequence[Example]) -> list[list[int]]:
        """Token ids of every source, with the special tokens that the tokenizer adds, at most ``length`` of them."""
        return [ids for ids, _ in self.measured(examples)]

    def measured(self, examples: Sequence[Example]) -> list[tuple[list[int], int]]:
        """What `encode` says of every source, and how many tokens the whole of it takes."""
        rows = self._ids([self.fill(e) for e in examples])
        return [(row if len(row) <= self.length else self._shortened(e), len(row)) for e, row in zip(examples, rows, strict=True)]

    def blank(self, template: str | None) -> list[int]:
        """Token ids of a source that says nothing: ``template`` as it stands, or our own with empty texts (`Decoding.guidance`)."""
        usual = self.template or (_QUESTION if self.kind == "question_answering" else _SINGLE)
        text = _filled(usual if template is None else template, dict.fromkeys(NAMES, ""))
        return self._ids([self._cued(self.encoder.parts(text))])[0]

    def _cued(self, parts: Parts) -> Parts:
        """A source with the cue behind it, in which braces are plain text."""
        first, *rest = self.encoder.parts(self.cue)
        return [*parts[:-1], parts[-1] + first, *rest]

    def _ids(self, rows: list[Parts]) -> list[list[int]]:
        around = self.encoder.coder.wrapping
        return [[*around.before, *ids, *around.after] or [filler(self.tokenizer)] for ids in self.encoder.ids(rows)]

    @cached_property
    def encoder(self) -> Encoder:
        """How texts become tokens: the template may name special tokens, the texts in it hold none."""
        return Encoder(self.tokenizer)

    def _shortened(self, example: Example) -> list[int]:
        texts, shown = list(example.texts), fields_of(self.template_of(example))
        while len(row := self._ids([self.fill(example, texts)])[0]) > self.length:
            ends = [self._ends(text) if name in shown else [] for name, text in zip(NAMES, texts, strict=False)]
            if not any(ends):
                raise RecipeError(
                    f"text_to_text.source {self.template_of(example)!r} alone takes {len(row)} tokens of max_source_length={self.length};"
                    " shorten it, or give more"
                )
            kept = _levelled(ends, len(row) - self.length)
            texts = [t if n == len(e) else t[: e[n - 1] if n else 0] for t, e, n in zip(texts, ends, kept, strict=True)]
        return row

    def _ends(self, text: str) -> list[int]:
        """Where in ``text`` each of its tokens ends; every character counts as one where the tokenizer cannot tell."""
        if not self.tokenizer.is_fast:
            return list(range(1, len(text) + 1))
        options = {"add_special_tokens": False, "split_special_tokens": True, "verbose": False}
        found = self.tokenizer(text, return_offsets_mapping=True, **options)["offset_mapping"]
        return [end for _, end in found if end]


def _levelled(ends: Sequence[Sequence[int]], over: int) -> list[int]:
    """How many tokens, which end at ``ends``, each text keeps once ``over`` are gone: the longest text loses its last one, time after time.

    Of equals it is the first. A character that several tokens write goes whole. Reckoned from one reading of the texts: reading them anew
    after every token would take time that grows with the square of their length.
    """
    kept = [len(e) for e in ends]
    while over > 0 and any(kept):
        longest = max(range(len(kept)), key=kept.__getitem__)
        here, before = ends[longest], kept[longest]
        while kept[longest] and here[kept[longest] - 1] == here[before - 1]:
            kept[longest] -= 1
        over -= before - kept[longest]
    return kept
