"""Texts to token ids: special tokens that the recipe writes are placed by id, those that a user's text happens to spell are plain text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tempering.framings.templates.coding import PieceCoder

Parts = list[str]  # plain text and names of special tokens in turn, plain text first and last


@dataclass(frozen=True)
class Encoder:
    """A tokenizer whose special tokens are named by a recipe's template, cue and words, and by nothing else."""

    tokenizer: Any

    @cached_property
    def coder(self) -> PieceCoder:
        """How plain text is encoded."""
        return PieceCoder(self.tokenizer)

    @cached_property
    def _special(self) -> re.Pattern[str]:
        """What finds special tokens by their names, longer names first."""
        known = {str(token) for token in self.tokenizer.added_tokens_decoder.values() if token.special} | set(
            self.tokenizer.all_special_tokens
        )
        names = sorted(known, key=len, reverse=True)
        return re.compile(f"({'|'.join(map(re.escape, names)) or '(?!)'})")

    def parts(self, written: str) -> Parts:
        """What a recipe writes, cut around the special tokens that it names."""
        return self._special.split(written)

    def ids(self, rows: Sequence[Parts]) -> list[list[int]]:
        """Token ids of every row without what the tokenizer puts around a text."""
        always = self.coder.habit == "always"  # elsewhere a text shows itself whether a space stands before it
        plain = [(self._beside(row, i), row[i].startswith(" ") if always and i else None) for row in rows for i in range(0, len(row), 2)]
        encoded = iter(self.coder.encode([text for text, _ in plain], [space for _, space in plain]))
        return [[token for i in range(len(row)) for token in (self._named(row[i]) if i % 2 else next(encoded))] for row in rows]

    def _named(self, name: str) -> list[int]:
        return [int(self.tokenizer.convert_tokens_to_ids(name))]

    def _beside(self, row: Parts, i: int) -> str:
        """The ``i``-th part without the spaces that a special token beside it swallows (T5's sentinels swallow them)."""
        text, known = row[i], self.tokenizer.added_tokens_decoder
        if i > 0 and getattr(known.get(self._named(row[i - 1])[0]), "rstrip", False):
            text = text.lstrip()
        if i + 1 < len(row) and getattr(known.get(self._named(row[i + 1])[0]), "lstrip", False):
            text = text.rstrip()
        return text
