"""Two models that write templates: an encoder-decoder that fills spans, and in its absence a masked language model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tempering.backbone import Backbone
from tempering.batching import Rows, close_batches, spare_on
from tempering.errors import ModelError
from tempering.framings.output_head import language_head
from tempering.framings.templates.coding import MARKS, PieceCoder
from tempering.framings.verbalizers.base import vocabulary_logits
from tempering.framings.verbalizers.words import RESERVED, WordCoder
from tempering.framings.writing.states import begin_id, end_id, output_head, rows_of, writes
from tempering.prompting.beam import Aggregate, aggregated, shared_beam
from tempering.prompting.sketches import Sketch

ROWS = 32  # examples in one pass
SENTINELS = ("<extra_id_0>", "<extra_id_1>", "<extra_id_2>")
SHAPES = ((1, 0), (2, 0), (3, 0), (1, 1), (2, 1), (3, 1), (0, 1), (1, 2), (2, 2))  # tokens in the first and the second gap


class Filling(NamedTuple):
    """Tokens for both gaps, and how likely the filler finds them: higher is better."""

    left: tuple[int, ...]
    right: tuple[int, ...]
    score: float


@dataclass(frozen=True)
class Filler(ABC):
    """A model that completes sketches. ``beam`` and ``aggregate`` as in `tempering.prompting.beam`."""

    backbone: Backbone
    beam: int = 100
    aggregate: Aggregate = "mean_logprob"

    @cached_property
    def coder(self) -> PieceCoder:
        """How texts become tokens of this model."""
        return PieceCoder(self.backbone.tokenizer)

    @cached_property
    def words(self) -> WordCoder:
        """How label words become tokens of this model."""
        return WordCoder.of(self.backbone)

    @abstractmethod
    def fill(self, sketches: Sequence[Sketch]) -> list[Filling]:
        """The likeliest fillings of both gaps, best first, the same for all ``sketches``."""

    @cached_property
    def banned(self) -> frozenset[int]:
        """Never written: special and reserved tokens, the lone space, runs of dots."""
        special = set(self.backbone.tokenizer.all_special_ids)
        return frozenset(i for i, t in enumerate(self.words.tokens) if i in special or not t or RESERVED.fullmatch(t) or _hollow(t))

    @cached_property
    def stops(self) -> frozenset[int]:
        """The full stop, in its spellings."""
        return frozenset(i for i, t in enumerate(self.words.tokens) if _bare(t) == ".")

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.backbone.embeddings.get_parameter("weight").device

    def batches(self, rows: Sequence[Sequence[int]]) -> list[Rows]:
        """Which rows go through the model together: those of like length. Their order does not matter, all examples speak as one."""
        return close_batches([len(row) for row in rows], ROWS, spare_on(self.device))


@dataclass(frozen=True)
class SpanFiller(Filler):
    """Fills spans with an encoder-decoder of the T5 kind, as LM-BFF does: at most ``steps`` tokens, a gap ends at the next sentinel."""

    steps: int = 18

    def __post_init__(self) -> None:
        known, spans = self.backbone.tokenizer.get_vocab(), self.backbone.layout.decoder is not None
        if spans:
            writes(self.backbone)
        if not spans or any(s not in known for s in SENTINELS):
            raise ModelError(
                f"{self.backbone.source} ({self.backbone.layout.family}) cannot fill spans: that takes an encoder-decoder with the"
                f" sentinels {SENTINELS[0]} ... such as t5-small; name one, or leave the filler out, and a masked language model fills"
            )

    @torch.no_grad()
    def fill(self, sketches: Sequence[Sketch]) -> list[Filling]:
        """From one beam that all examples share; sequences whose second gap has not ended are left out."""
        first, second, third = (int(i) for i in self.backbone.tokenizer.convert_tokens_to_ids(list(SENTINELS)))
        end = end_id(self.backbone)
        memories = list(self._memories([[*s.head, first, *s.word, second, *s.tail] for s in sketches]))
        ends = (frozenset((second, end)), frozenset((third, end)))
        found = shared_beam(lambda ids: self._next((first, *ids), memories), ends, self.banned, self.stops, self.beam, self.steps)
        return [self._split(h.ids, ends[0], h.score) for h in found if h.parts == len(ends)]

    def _split(self, ids: tuple[int, ...], ends: frozenset[int], score: float) -> Filling:
        at = next(i for i, token in enumerate(ids) if token in ends)
        return Filling(ids[:at], ids[at + 1 : -1], score)

    def _memories(self, rows: Sequence[Sequence[int]]) -> Iterator[tuple[Tensor, Tensor]]:
        """The encoder's states of the examples and their masks, some at a time; they are read once."""
        suffix = self.coder.wrapping.after
        self.backbone.eval()
        for batch in self.batches(rows):
            ids, real = rows_of([[*rows[i], *suffix] for i in batch], int(self.backbone.tokenizer.pad_token_id or 0))
            inputs = {"input_ids": ids.to(self.device), "attention_mask": real.long().to(self.device)}
            yield self.backbone.memory(inputs), inputs["attention_mask"]

    def _next(self, written: tuple[int, ...], memories: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """What all examples say of the token after ``written``."""
        head: Any = output_head(self.backbone)
        begun = torch.tensor([[begin_id(self.backbone), *written]], device=self.device)
        table = self.backbone.embeddings.get_parameter("weight")
        states = [self.backbone.decoded(begun.expand(len(memory), -1), memory, mask)[:, -1] for memory, mask in memories]
        return aggregated(head.logits(head.features(torch.cat(states)), table), self.aggregate).cpu()


@dataclass(frozen=True)
class MaskFiller(Filler):
    """Fills gaps of fixed ``shapes`` with masks, from left to right, each token given those before it and the masks after it.

    Fillings of different lengths are ranked by log-probability a token: a longer one is always less likely.
    """

    shapes: tuple[tuple[int, int], ...] = SHAPES

    def __post_init__(self) -> None:
        if self.backbone.layout.kind != "encoder" or self.backbone.tokenizer.mask_token_id is None:
            raise ModelError(
                f"{self.backbone.source} ({self.backbone.layout.family}) has no mask to fill; name an encoder-decoder such as t5-small as"
                " filler, or choose a masked language model such as roberta-base"
            )
        language_head(self.backbone)

    @torch.no_grad()
    def fill(self, sketches: Sequence[Sketch]) -> list[Filling]:
        """The fillings of all shapes."""
        self.backbone.eval()
        found = [filling for shape in self.shapes for filling in self._shaped(sketches, *shape)]
        return sorted(found, key=lambda f: -f.score)

    def _shaped(self, sketches: Sequence[Sketch], left: int, right: int) -> list[Filling]:
        def following(ids: tuple[int, ...]) -> Tensor:
            return self._next(ids, sketches, left, right)

        best = shared_beam(following, (frozenset(),), self.banned, self.stops, self.beam, left + right)
        return [Filling(h.ids[:left], h.ids[left:], h.score / (left + right)) for h in best if len(h.ids) == left + right]

    def _next(self, written: tuple[int, ...], sketches: Sequence[Sketch], left: int, right: int) -> Tensor:
        """What all examples say of the first gap that is still a mask."""
        mask = int(self.backbone.tokenizer.mask_token_id)
        filled = [*written, *[mask] * (left + right - len(written))]
        prefix, suffix = self.coder.wrapping.before, self.coder.wrapping.after
        rows, places = [], []
        for s in sketches:
            at = len(prefix) + len(s.head) + len(written)
            places.append(at if len(written) < left else at + len(s.word))
            rows.append([*prefix, *s.head, *filled[:left], *s.word, *filled[left:], *s.tail, *suffix])
        states = [self._at([rows[i] for i in batch], [places[i] for i in batch]) for batch in self.batches(rows)]
        return aggregated(vocabulary_logits(self.backbone, torch.cat(states)), self.aggregate).cpu()

    def _at(self, rows: Sequence[Sequence[int]], places: Sequence[int]) -> Tensor:
        ids, real = rows_of(rows, int(self.backbone.tokenizer.pad_token_id or 0))
        last = self.backbone.encode({"input_ids": ids.to(self.device), "attention_mask": real.long().to(self.device)}).last
        return last[torch.arange(len(rows)), torch.tensor(places)]


def _bare(token: str) -> str:
    """A token without the marks of its tokenizer."""
    for mark in MARKS:
        token = token.replace(mark, "")
    return token.removeprefix("##")


def _hollow(token: str) -> bool:
    """A lone space, or a run of dots."""
    said = _bare(token)
    return not said.strip() or (len(said) > 1 and not said.strip("."))
