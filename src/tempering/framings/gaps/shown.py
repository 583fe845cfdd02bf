"""A query with its answered examples as one prompt, under one template."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from tempering.contracts import Example
from tempering.framings.templates.encoder import TemplateEncoder
from tempering.framings.templates.gathering import Parts, gathered, least, tail_of
from tempering.framings.templates.laying import Laid, cut_to, lay, size


@dataclass
class Beside:
    """Prompts as long as ``whole`` allows, of a query and examples that each keep to the length of ``alone``; both one template."""

    whole: TemplateEncoder
    alone: TemplateEncoder
    place: Literal["after", "before"]
    floor: int
    _demos: dict[int, Parts] = field(default_factory=dict)

    def queries(self, examples: Sequence[Example]) -> list[Parts]:
        """The parts of each query, within the length of one example; whether that cut them shows in their size."""
        made = self.whole.parts(examples)
        for parts, example in zip(made, examples, strict=True):
            self.alone.check_fixed(parts, example)
        return made

    def show(self, examples: Sequence[Example], wanted: Sequence[int], answers: Sequence[tuple[int, ...]]) -> None:
        """Encode those of ``examples`` that are ``wanted``, each with its answer, and remember them."""
        made = self.whole.parts([examples[i] for i in wanted], answers)
        for i, parts in zip(wanted, made, strict=True):
            cut_to(parts, self.alone.room, self.whole.how)
            self._demos[i] = parts

    @property
    def known(self) -> set[int]:
        """Which examples are encoded."""
        return set(self._demos)

    def least(self, example: int) -> int:
        """The fewest tokens that an example and what closes it come down to: it is shortened only after the query."""
        parts, closing = self._demos[example], len(self.whole.coder.wrapping.after)
        return closing + (size(parts) if self.place == "before" else least(parts, self.floor))

    def stay(self, parts: Parts, rounds: Sequence[Sequence[int]]) -> int:
        """How many examples of one context stay beside a query."""
        return len(self._placed(parts, rounds)[1])

    def laid(self, parts: Parts, rounds: Sequence[Sequence[int]]) -> Laid:
        """One context of a query."""
        query, stays, cut = self._placed(parts, rounds)
        groups = [*stays, query] if self.place == "before" else [query, *stays]
        return lay(groups, self.whole.coder.wrapping, self.whole.segments, cut=cut)

    def _placed(self, parts: Parts, rounds: Sequence[Sequence[int]]) -> tuple[Parts, list[Parts], bool]:
        """The query, the examples that stay beside it, and whether anything was cut."""
        query, how, closing = _copied(parts), self.whole.how, len(self.whole.coder.wrapping.after)
        cut = cut_to(query, self.alone.room, how)
        shown = [[_copied(self._demos[i]) for i in found] for found in rounds]
        if self.place == "before":
            stays, less = tail_of(query, [p for found in shown for p in found], self.whole.room, closing, how)
        else:
            stays, less = gathered(query, shown, self.whole.room, closing, self.floor, how)
        return query, stays, cut or less


def _copied(parts: Parts) -> Parts:
    """The same parts, to be shortened apart: their ids are replaced and never changed."""
    return [dataclasses.replace(part) for part in parts]
