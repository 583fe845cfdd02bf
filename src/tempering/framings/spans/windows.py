"""Long texts in windows that overlap: where to cut, and which window answers for a stretch of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tempering.errors import ModelError, RecipeError
from tempering.framings.wrapping import Wrapping

if TYPE_CHECKING:
    from tempering.backbone import Backbone

Range = tuple[int, int]


def cut(count: int, room: int, stride: int) -> list[Range]:
    """``count`` tokens as windows of ``room``, neighbors sharing at least ``stride``: all as long as the room, the last at the end."""
    if count <= room:
        return [(0, count)]
    starts = [*range(0, count - room, room - stride), count - room]
    return [(start, start + room) for start in starts]


def best_window(windows: Sequence[Range], count: int, first: int, last: int) -> int:
    """Which window answers for the tokens ``first`` up to ``last`` of ``count``: of those that hold them all, the one whose nearer border
    lies farthest away (a border that is the text's own is none); else the one that holds most of them, the first token included.
    """

    def merit(window: Range) -> tuple[float, float]:
        start, end = window
        held = min(last, end) - max(first, start) if start <= first < end else 0
        left = np.inf if start == 0 else first - start
        right = np.inf if end == count else end - last
        return held, min(left, right)

    return max(range(len(windows)), key=lambda i: merit(windows[i]))


def ranges(offsets: Sequence[Range], words: Sequence[Range]) -> list[Range]:
    """The tokens (first, past the last) of every word, by the characters both cover.

    A token may belong to two words. A word that the tokenizer dropped (control characters) borrows the token before it.
    """
    if not offsets:
        return [(0, 0)] * len(words)
    starts = np.maximum.accumulate([start for start, _ in offsets])
    ends = np.maximum.accumulate([end for _, end in offsets])
    first = np.searchsorted(ends, [start for start, _ in words], side="right")
    last = np.searchsorted(starts, [end for _, end in words], side="left")
    found = [(int(a), int(b)) for a, b in zip(first, last, strict=True)]
    return [place if place[0] < place[1] else _borrowed(place[0], len(offsets)) for place in found]


def _borrowed(place: int, count: int) -> Range:
    token = min(max(place - 1, 0), count - 1)
    return token, token + 1


@dataclass(frozen=True)
class Offsets:
    """A tokenizer that tells where tokens stand, with the special tokens it puts around one text.

    ``length`` counts special tokens; ``stride`` tokens are shared by neighboring windows of a text that is longer.
    """

    tokenizer: Any
    length: int
    stride: int
    wrapping: Wrapping

    @classmethod
    def of(cls, backbone: Backbone, max_length: int | None, stride: int | None, name: str) -> Offsets:
        """For ``backbone``; what leaves no room for text, or a tokenizer that cannot tell places, is refused in the words of ``name``."""
        tokenizer = backbone.tokenizer
        if not tokenizer.is_fast:
            raise ModelError(
                f"{name} cannot serve {backbone.source} ({backbone.layout.family}): its tokenizer cannot tell where a token stands;"
                " take a model with a fast tokenizer (one with a tokenizer.json)"
            )
        length = min(max_length or backbone.max_length, backbone.max_length)
        wrapping = Wrapping.of(tokenizer)
        special = len(wrapping.before) + len(wrapping.after)
        room = length - special
        if room < 2:
            raise RecipeError(f"{name}: max_length={length} leaves no room for text beside the special tokens; give at least {special + 2}")
        shorter = backbone.max_length < (max_length or 0)  # than what the stride was meant for
        shared = min(room // 4, 128) if stride is None or (shorter and stride >= room) else stride
        if shared >= room:
            raise RecipeError(
                f"{name}: stride={shared} tokens shared by windows of {room} leave nothing new in each; give fewer than {room}"
            )
        return cls(tokenizer, length, shared, wrapping)

    @property
    def room(self) -> int:
        """Tokens of the text that fit."""
        return self.length - len(self.wrapping.before) - len(self.wrapping.after)

    def tokens(self, texts: Sequence[str]) -> list[tuple[list[int], list[Range]]]:
        """(ids, characters) of each text's tokens, uncut and without special tokens, in bulk. White space around a token's characters is
        none of them (many tokenizers count the blank before a word as its first); a token of white space alone has no characters.
        """
        if not texts:
            return []
        out = self.tokenizer(
            list(texts),
            add_special_tokens=False,
            return_offsets_mapping=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            truncation=False,
            verbose=False,
        )
        found = zip(texts, out["input_ids"], out["offset_mapping"], strict=True)
        return [(ids, [_bare(text, *place) for place in places]) for text, ids, places in found]


def _bare(text: str, start: int, end: int) -> Range:
    """The characters without white space at their ends."""
    end = start + len(text[start:end].rstrip())
    return end - len(text[start:end].lstrip()), end
