"""Masked language modeling of the spans that matter: names and numbers, or what a text says more than once."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from tempering.contracts import Batch, Example, Prediction, Prompt, Scores
from tempering.errors import ModelError, RecipeError
from tempering.framings.masked_lm import MaskedLM, MaskedLMModule
from tempering.framings.module import FramingBase
from tempering.framings.text import pad, tensors

if TYPE_CHECKING:
    from tempering.backbone import Backbone

Which = Literal["names", "recurring", "both"]
Span = tuple[int, int]
_WORD = re.compile(r"[^\W_]+(?:[-'\u2019][^\W_]+)*")
_NUMBER = re.compile(r"[+-]?\d+(?:[.,:/-]\d+)*")
MOST_WORDS = 10  # of a recurring span
TELLING = 4  # letters: a recurring span needs a word of so many, which spares "of the"


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class SalientSpans:
    """Hides names and numbers, or spans that a text repeats, and trains to name their tokens. Labels are not read.

    *Paper*: Guu et al. 2020 (REALM, salient span masking); Ram et al. 2021 (Splinter, recurring spans).
    *Formula*: of the spans of a text, in random order, each is hidden whole while no more than ``probability`` of its tokens are, the
    first in any case; loss = mean over hidden tokens of the cross entropy, by the head of `tempering.framings.masked_lm.MaskedLM`.
    ``names``: runs of capitalized words, but for a single one that begins a sentence, and numbers and dates. ``recurring``: the longest
    runs of up to ten words that occur again in the text; one occurrence, drawn, stays readable, the others may be hidden.
    *Needs*: an encoder with a mask token, a fast tokenizer; for names a script with capitals. *Costs*: as masked_lm.
    *Differs*: REALM finds names with a tagger and Splinter learns to point; here names are found by their capitals, and spans are told
    token by token. A text without such a span has one word hidden.
    """

    which: Which = "both"
    probability: Annotated[float, Field(gt=0, le=1)] = 0.15
    max_length: Annotated[int, Field(ge=1)] | None = None

    supervised: ClassVar[bool] = False

    def build(self, task: Any, backbone: Backbone) -> SalientSpansModule:
        """The module for ``backbone``, whose language-model head is put in place."""
        if not backbone.tokenizer.is_fast:
            raise RecipeError("salient_spans needs a fast tokenizer (one with a tokenizer.json), which tells where its tokens lie")
        try:
            masked = MaskedLM(self.probability, self.max_length, mask_share=1.0, random_share=0.0).build(task, backbone)
        except ModelError as error:
            raise ModelError(f"salient_spans works as masked_lm does, and {error}") from None
        return SalientSpansModule(self, masked)


class SalientSpansModule(FramingBase):
    """`SalientSpans` at run time, around a masked LM, whose head is the backbone's. ``Prompt.extra`` holds the spans in tokens."""

    deterministic = False
    smooths = True
    reads_lm_head = True

    def __init__(self, framing: SalientSpans, masked: MaskedLMModule) -> None:
        super().__init__()
        self.which = framing.which
        self.probability = framing.probability
        self.masked = masked
        self.form, self.notes = masked.form, masked.notes

    def render(self, examples: Sequence[Example], support: Sequence[Example], rng: np.random.Generator) -> list[list[Prompt]]:
        """One prompt an example, with its spans, and its words for texts that have none."""
        encoder, found = self.masked.text, []
        for example in examples:
            texts = example.texts
            out = encoder.tokenizer(*texts, truncation="longest_first", max_length=encoder.length, return_offsets_mapping=True)
            parts, places = out.sequence_ids(), out["offset_mapping"]
            groups: list[list[Span]] = []
            words: list[Span] = []
            for number, text in enumerate(texts):
                tokens = [(i, *places[i]) for i, part in enumerate(parts) if part == number]
                groups += [kept for group in spans_of(text, self.which) if (kept := [s for g in group if (s := _tokens(tokens, g))])]
                words += [s for m in _WORD.finditer(text) if (s := _tokens(tokens, m.span()))]
            types = out["token_type_ids"] if encoder.types and len(texts) > 1 else None
            found.append([Prompt(out["input_ids"], types, extra=(groups, words))])
        return found

    def collate(self, prompts: Sequence[Prompt], rng: np.random.Generator) -> Batch:
        """A batch with spans hidden, drawn from ``rng``: targets [hidden], ``positions`` [hidden] in the flattened batch."""
        arrays = pad(prompts, self.masked.pad_id)
        ids = arrays["input_ids"]
        chosen = np.zeros(ids.shape, np.bool_)
        for row, prompt in enumerate(prompts):
            for start, stop in self._drawn(prompt, rng):
                chosen[row, start:stop] = True
        if not chosen.any():  # texts without a single word: the first token is asked for as it is, so that the loss exists
            positions = np.zeros(1, np.int64)
        else:
            positions = np.flatnonzero(chosen)
            arrays["input_ids"] = np.where(chosen, self.masked.masking.mask_id, ids)
        targets = torch.from_numpy(ids.reshape(-1)[positions])
        return Batch(tensors(arrays), targets, extra={"positions": torch.from_numpy(positions)})

    def part(self, batch: Batch, rows: slice) -> Batch:
        """Some of the rows, with the masks they have."""
        return self.masked.part(batch, rows)

    def _drawn(self, prompt: Prompt, rng: np.random.Generator) -> list[Span]:
        """The spans to hide: of each group that repeats itself all but one may be."""
        groups, words = prompt.extra
        spans: list[Span] = []
        for group in groups:
            spared = int(rng.integers(len(group))) if len(group) > 1 else -1
            spans += [span for i, span in enumerate(group) if i != spared]
        if not spans:
            spans = [words[int(rng.integers(len(words)))]] if words else []
        budget, taken, found = self.probability * len(prompt.input_ids), 0, list[Span]()
        for i in rng.permutation(len(spans)):
            start, stop = spans[i]
            if not found or taken + stop - start <= budget:
                found.append(spans[i])
                taken += stop - start
        return found

    def trunk(self, backbone: Backbone, batch: Batch) -> Tensor:
        """Hidden states at the hidden positions [hidden, dim]."""
        return self.masked.trunk(backbone, batch)

    def trunk_key(self) -> str:
        """Spans are drawn anew, so that the trunk's output is never worth keeping."""
        return f"salient_spans {self.which} {self.masked.trunk_key()}"

    def scores(self, backbone: Backbone, batch: Batch) -> Scores:
        """Logits [1, hidden, vocabulary]."""
        return self.masked.scores(backbone, batch)

    def loss(self, scores: Scores, batch: Batch) -> Tensor:
        """Cross entropy, mean over hidden tokens."""
        self.masked.smoothing = self.smoothing
        return self.masked.loss(scores, batch)

    def decode(self, scores: Scores) -> list[Prediction]:
        """For each hidden position the likeliest token."""
        return self.masked.decode(scores)


def spans_of(text: str, which: Which) -> list[list[Span]]:
    """Groups of spans (start, end) in characters: a name or number alone, all occurrences of what recurs together. None overlap."""
    found = recurring(text) if which != "names" else []
    taken = [span for group in found for span in group]
    free = [] if which == "recurring" else [[s] for s in names(text) if not any(a < s[1] and s[0] < b for a, b in taken)]
    return found + free


def names(text: str) -> list[Span]:
    """Runs of capitalized words, but for a single one that begins a sentence, and numbers."""
    found = [m.span() for m in _NUMBER.finditer(text)]
    run: list[Span] = []
    for match in [*_WORD.finditer(text), None]:
        gap = text[run[-1][1] : match.start()] if run and match else ""
        if run and (match is None or not match[0][0].isupper() or gap.strip() or "\n" in gap):
            if len(run) > 1 or not _begins(text, run[0][0]):
                found.append((run[0][0], run[-1][1]))
            run = []
        if match is not None and match[0][0].isupper():
            run.append(match.span())
    return sorted(found)


def _begins(text: str, at: int) -> bool:
    """Whether a sentence begins at ``at``."""
    before = text[:at].rstrip(" \t\"'([\u201c\u2018")
    return not before or before[-1] in ".!?:\n\u2026"


def recurring(text: str) -> list[list[Span]]:
    """All occurrences of each run of words that occurs twice or more, the longest runs first, none overlapping."""
    words = [(m[0].casefold(), m.start(), m.end()) for m in _WORD.finditer(text)]
    taken, groups = np.zeros(len(words), np.bool_), []
    for size in range(min(MOST_WORDS, len(words) // 2), 0, -1):
        places: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for at in range(len(words) - size + 1):
            places[tuple(word for word, _, _ in words[at : at + size])].append(at)
        for run, starts in places.items():
            free = _apart([at for at in starts if not taken[at : at + size].any()], size)
            if len(free) > 1 and any(len(word) >= TELLING for word in run):
                groups.append([(words[at][1], words[at + size - 1][2]) for at in free])
                for at in free:
                    taken[at : at + size] = True
    return groups


def _apart(starts: Sequence[int], size: int) -> list[int]:
    """Those that do not overlap the one before."""
    found: list[int] = []
    for at in starts:
        if not found or at >= found[-1] + size:
            found.append(at)
    return found


def _tokens(tokens: Sequence[tuple[int, int, int]], span: Span) -> Span | None:
    """(first, last + 1) of the ``tokens`` (number, start, end) that touch the characters ``span``; None where it was cut off."""
    inside = [i for i, start, end in tokens if start < span[1] and end > span[0]]
    whole = inside and max(end for i, _, end in tokens if i == inside[-1]) >= span[1]
    return (inside[0], inside[-1] + 1) if whole else None
