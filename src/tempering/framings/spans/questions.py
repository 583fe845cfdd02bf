"""Questions beside windows of their contexts: the prompts of extractive question answering."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tempering.contracts import Example, Prompt
from tempering.errors import DataError, RecipeError
from tempering.framings.spans.windows import Offsets, Range, cut
from tempering.framings.text import reads_types

if TYPE_CHECKING:
    from tempering.backbone import Backbone

MAX_QUESTION = 64  # tokens, as in BERT's code for SQuAD
NOWHERE = 0  # the position that stands for "no answer": the first token


class Stretch(NamedTuple):
    """The part of the context that a prompt holds: its first token's place in the prompt, and the characters of each token [tokens, 2]."""

    shift: int
    offsets: NDArray[np.int32]


@dataclass(frozen=True)
class Pairs:
    """Lays a question and a window of its context out as the tokenizer does a pair.

    ``parts`` are the special tokens before, between and after; ``types`` the token type of each of the five stretches, None where the
    model reads none. A question longer than `MAX_QUESTION` tokens, or than half of the room, loses its end.
    """

    text: Offsets
    parts: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    types: tuple[int, ...] | None

    @classmethod
    def of(cls, backbone: Backbone, max_length: int | None, stride: int | None) -> Pairs:
        """For ``backbone``; a length with no room for both texts is a `RecipeError`."""
        text = Offsets.of(backbone, max_length, stride, "span_head")
        sample = backbone.tokenizer("a", "a", return_token_type_ids=True)
        ids, whose = sample["input_ids"], sample.sequence_ids(0)
        a, b = [whose.index(side) for side in (0, 1)]
        ends = [len(whose) - whose[::-1].index(side) for side in (0, 1)]
        parts = (tuple(ids[:a]), tuple(ids[ends[0] : b]), tuple(ids[ends[1] :]))
        kinds = sample.get("token_type_ids")
        types = tuple(kinds[i] for i in (0, a, ends[0], b, len(ids) - 1)) if kinds and reads_types(backbone) else None
        room = text.length - sum(map(len, parts))
        if room < 8:
            raise RecipeError(f"span_head: max_length={text.length} leaves no room for a question and its context; give at least 16")
        return cls(text, parts, types)

    @property
    def room(self) -> int:
        """Tokens for both texts."""
        return self.text.length - sum(map(len, self.parts))

    def render(self, examples: Sequence[Example]) -> list[list[Prompt]]:
        """The windows of each example; ``target`` is the (first, last) position of its first answer, `NOWHERE` twice without it."""
        for example in examples:
            if len(example.texts) != 2:
                raise DataError(f"row {example.row}: expected a question and its context, found {len(example.texts)} text(s)")
        asked = self.text.tokens([example.texts[0] for example in examples])
        given = self.text.tokens([example.texts[1] for example in examples])
        return [self._windows(e, question[0], *context) for e, question, context in zip(examples, asked, given, strict=True)]

    def _windows(self, example: Example, question: list[int], ids: list[int], offsets: list[Range]) -> list[Prompt]:
        question = question[: min(MAX_QUESTION, self.room // 2)]
        room = self.room - len(question)
        places = np.array(offsets, dtype=np.int32).reshape(-1, 2)
        shift = len(self.parts[0]) + len(question) + len(self.parts[1])
        answer = None if example.label is None else tokens_of(places, example.label)
        prompts = []
        for start, end in cut(len(ids), room, min(self.text.stride, room - 1)):
            stretches = (self.parts[0], question, self.parts[1], ids[start:end], self.parts[2])
            inputs = [token for stretch in stretches for token in stretch]
            types = None
            if self.types is not None:
                types = [kind for kind, stretch in zip(self.types, stretches, strict=True) for _ in stretch]
            target: tuple[int, int] | None = None
            if answer is not None:
                inside = bool(answer) and start <= answer[0] and answer[1] < end
                target = (answer[0] - start + shift, answer[1] - start + shift) if inside else (NOWHERE, NOWHERE)
            prompts.append(Prompt(inputs, types, target, 1.0, Stretch(shift, places[start:end])))
        return prompts


def tokens_of(places: NDArray[np.int32], answers: Sequence[tuple[int, str]]) -> tuple[int, ...]:
    """(first, last) token of the first answer, () where there is none or no token covers it."""
    if not answers or not len(places):
        return ()
    begin, text = answers[0]
    covered = np.flatnonzero((places[:, 1] > begin) & (places[:, 0] < begin + len(text)))
    return (int(covered[0]), int(covered[-1])) if len(covered) else ()


class Candidate(NamedTuple):
    """A stretch of the context, in characters, and its score: the sum of its start and end logits."""

    score: float
    start: int
    end: int


def candidates(logits: NDArray[Any], stretch: Stretch, longest: int, count: int) -> list[Candidate]:
    """The ``count`` best stretches of a window by logits [2, length], of at most ``longest`` tokens, end not before start.

    Where offsets are those of no character (white space, which some tokenizers have tokens for), none begins or ends.
    """
    tokens = len(stretch.offsets)
    if tokens == 0:
        return []
    seen = stretch.offsets[:, 0] < stretch.offsets[:, 1]
    first, last = (np.where(seen, row[stretch.shift : stretch.shift + tokens], -np.inf) for row in logits)
    spread = min(longest, tokens)
    scores = np.full((spread, tokens), -np.inf)
    for more in range(spread):
        scores[more, : tokens - more] = first[: tokens - more] + last[more:]
    flat = scores.ravel()
    best = np.argsort(-flat, kind="stable")[: min(count, int(np.isfinite(flat).sum()))]
    found = []
    for more, start in zip(*np.unravel_index(best, scores.shape), strict=True):
        found.append(Candidate(float(scores[more, start]), int(stretch.offsets[start, 0]), int(stretch.offsets[start + more, 1])))
    return found
