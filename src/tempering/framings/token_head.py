"""Token classification: a tag for every word of a text, however long the text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from tempering.contracts import Batch, Example, Kind, Prediction, Prompt, Rendered, Scores, Slab
from tempering.errors import DataError, RecipeError
from tempering.framings.losses import supervised_loss
from tempering.framings.spans.decoding import Decoding, Steps
from tempering.framings.spans.module import WindowsModule
from tempering.framings.spans.windows import Offsets, best_window, cut, ranges
from tempering.tags import spans, split_words

if TYPE_CHECKING:
    from tempering.backbone import Backbone

Align = Literal["first", "all", "mean"]


class Pieces(NamedTuple):
    """The words of the text that a window answers for, and the places in the prompt of each word's tokens: ``starts`` up to ``ends``."""

    words: tuple[int, ...]
    starts: tuple[int, ...]
    ends: tuple[int, ...]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class TokenHead:
    """Trains a new linear map from every word's hidden state to its tag.

    *Paper*: Devlin et al. 2019, section 5.3 (the first sub-token stands for a word). *Formula*: logits_m = h W_m^T + b_m, h [words, d] the
    states of each word's first token, or their mean over its tokens (``mean``), or one row a token (``all``); loss = mean over heads and
    rows of the cross entropy; a prediction averages logits over heads, and over a word's tokens with ``all``.
    *Needs*: words with tags; a tokenizer that tells places. *Costs*: one pass; H d tags weights. A text longer than ``max_length`` is read
    in windows that share ``stride`` tokens (default: a quarter of the window, at most 128); each word is trained on and answered in one
    window only, where its nearer border is farthest.
    *Differs*: words without a token of their own borrow the one before. ``decoding`` keeps entity tags legal when predicting: the best
    legal sequence (``viterbi``), the best tag of each word put right as conlleval reads it (``repair``), or left as it is (``free``).
    Words of raw text are runs of letters and digits, and every other character alone (`tempering.tags.split_words`).
    """

    align: Align = "first"
    heads: Annotated[int, Field(ge=1)] = 1
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    max_length: Annotated[int, Field(ge=1)] | None = None
    stride: Annotated[int, Field(ge=0)] | None = None
    decoding: Decoding = "viterbi"

    supervised: ClassVar[bool] = True
    shards: ClassVar[bool] = True
    kinds: ClassVar[tuple[Kind, ...]] = ("tagging",)
    why_not_cached: ClassVar[str] = "a text has as many outputs as it has words, and only single vectors are kept"

    def build(self, task: Any, backbone: Backbone) -> TokenHeadModule:
        """The module for ``task`` (its tags). Weights come from torch's generator."""
        if task.kind != "tagging":
            raise RecipeError(f"token_head cannot serve a task of kind {task.kind!r}: it predicts a tag for every word; take framing head")
        return TokenHeadModule(self, task, backbone)


class TokenHeadModule(WindowsModule):
    """`TokenHead` at run time. A row is a word (a token with ``align="all"``)."""

    method = "token_head"
    smooths = True
    form = "tokens"
    kind: Kind = "tagging"

    def __init__(self, value: TokenHead, task: Any, backbone: Backbone) -> None:
        text = Offsets.of(backbone, value.max_length, value.stride, self.method)
        super().__init__(value, backbone, text, backbone.layout.tokens, len(task.labels))
        self.value, self.labels = value, tuple(task.labels)
        self.steps = Steps(self.labels)
        self._target = task.target

    def render(self, examples: Sequence[Example], support: Sequence[Example], rng: np.random.Generator) -> list[list[Prompt]]:
        """A prompt for every window that answers for a word; ``extra`` holds its `Pieces`, ``target`` the tags of its words."""
        for example in examples:
            if len(example.texts) != 1:
                raise DataError(f"row {example.row}: expected one text to tag, found {len(example.texts)}")
        found = self.text.tokens([example.texts[0] for example in examples])
        return [self._prompts(example, *tokens) for example, tokens in zip(examples, found, strict=True)]

    def _prompts(self, example: Example, ids: Sequence[int], offsets: Sequence[tuple[int, int]]) -> list[Prompt]:
        text, wrapping = self.text, self.text.wrapping
        shift = len(wrapping.before)
        places = ranges(offsets, words_of(example))
        windows = cut(len(ids), text.room, text.stride)
        target = None if example.label is None else self._target(example.label)
        mine: list[list[int]] = [[] for _ in windows]
        for word, (first, last) in enumerate(places):
            mine[best_window(windows, len(ids), first, last) if len(windows) > 1 else 0].append(word)
        prompts = []
        for (start, end), words in zip(windows, mine, strict=True):
            if words or len(windows) == 1:
                inputs = [*wrapping.before, *ids[start:end], *wrapping.after] or [self._pad]
                starts = tuple(min(places[w][0] - start + shift, len(inputs) - 1) for w in words)
                ends = tuple(max(a + 1, min(places[w][1], end) - start + shift) for w, a in zip(words, starts, strict=True))
                tags = None if target is None else tuple(target[w] for w in words)
                prompts.append(Prompt(inputs, None, tags, float(bool(words)), Pieces(tuple(words), starts, ends)))
        return prompts

    def collate(self, prompts: Sequence[Prompt], rng: np.random.Generator) -> Batch:
        """Inputs padded on the right; targets [rows] if every prompt has them.

        ``positions`` [slots] of the tokens read in the flattened batch, ``sizes`` [prompts], and for ``align="mean"`` the word [slots]
        that each of them belongs to.
        """
        length = max(len(prompt.input_ids) for prompt in prompts)
        slots: list[int] = []
        groups: list[int] = []
        sizes, targets, words = [], [], 0
        for row, prompt in enumerate(prompts):
            pieces: Pieces = prompt.extra
            counts = [b - a if self.value.align != "first" else 1 for a, b in zip(pieces.starts, pieces.ends, strict=True)]
            for start, count in zip(pieces.starts, counts, strict=True):
                slots += range(row * length + start, row * length + start + count)
                groups += [words] * count
                words += 1
            repeats = counts if self.value.align == "all" else [1] * len(counts)
            sizes.append(sum(repeats))
            targets.append(np.repeat(prompt.target, repeats).tolist() if prompt.target else [])
        extra = {"positions": torch.tensor(slots, dtype=torch.int64)}
        if self.value.align == "mean":
            extra["groups"] = torch.tensor(groups, dtype=torch.int64)
        return self.padded(prompts, targets, sizes, extra)

    def trunk(self, backbone: Backbone, batch: Batch) -> Tensor:
        """The hidden states of the tokens that are read, [slots, dim]."""
        return backbone.encode(batch.inputs).last.flatten(0, 1)[batch.extra["positions"]]

    def trunk_key(self) -> str:
        """Length, windows and alignment."""
        return f"{super().trunk_key()} align={self.value.align}"

    def scores(self, backbone: Backbone, batch: Batch) -> Scores:
        """One slab with a row for every word (token) and its ``sizes``."""
        features = self._grouped(self.readout.features(self.trunk(backbone, batch)), batch)
        logits = self.readout.logits(features)
        return Scores((Slab(logits, batch.targets, batch.weights, features, "classification", batch.task, batch.extra["sizes"]),))

    def _grouped(self, slots: Tensor, batch: Batch) -> Tensor:
        """[slots, dim] -> [rows, dim]: the mean over each word's tokens, where that is asked for."""
        groups = batch.extra.get("groups")
        if groups is None:
            return slots
        count = int(batch.extra["sizes"].sum())
        sums = slots.new_zeros(count, slots.shape[1]).index_add(0, groups, slots)
        return sums / torch.bincount(groups, minlength=count).unsqueeze(-1).to(slots.dtype)

    def loss(self, scores: Scores, batch: Batch) -> Tensor:
        """Cross entropy, a mean over heads and words; targets are smoothed in training mode only."""
        return supervised_loss(scores.only, self.smoothing if self.training else 0.0)

    def decode(self, scores: Scores) -> list[Prediction]:
        """The likeliest tag of each row by itself."""
        chances = scores.only.logits.detach().float().mean(0).softmax(-1)
        rows = zip(chances.argmax(-1).tolist(), chances.tolist(), strict=True)
        return [Prediction(self.labels[i], dict(zip(self.labels, row, strict=True))) for i, row in rows]

    def combine(self, asked: Rendered, scores: Scores) -> list[Prediction]:
        """Tags, entities in characters, and chances of every word, put together from the windows of each text."""
        assert scores.only.sizes is not None  # `scores` says them
        parts = iter(scores.only.logits.detach().double().mean(0).split(scores.only.sizes.tolist()))
        queue, made = iter(asked.prompts), []
        for example, count in zip(asked.examples, asked.counts, strict=True):
            words = words_of(example)
            logits = np.zeros((len(words), len(self.labels)))
            for _ in range(count):
                pieces: Pieces = next(queue).extra
                logits[list(pieces.words)] = self._by_word(next(parts).numpy(), pieces)
            made.append(self._prediction(words, logits))
        return made

    def _by_word(self, rows: np.ndarray, pieces: Pieces) -> np.ndarray:
        """Rows of a window [rows, tags] -> [words, tags]: the mean over each word's tokens, where they are rows."""
        if self.value.align != "all" or not pieces.words:
            return rows
        counts = np.subtract(pieces.ends, pieces.starts)
        sums: np.ndarray = np.add.reduceat(rows, np.cumsum(counts) - counts)
        return sums / counts[:, None]

    def _prediction(self, words: Sequence[tuple[int, int]], logits: np.ndarray) -> Prediction:
        logs = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
        chosen = self.steps.best(logs, self.value.decoding)
        chances = np.exp(logs).tolist()
        tags = tuple(self.labels[i] for i in chosen)
        found = () if self.steps.scheme == "plain" else spans(words, tags, [row[i] for row, i in zip(chances, chosen, strict=True)])
        return Prediction(tags, {}, found, tuple(dict(zip(self.labels, row, strict=True)) for row in chances))

    def beside(self, output: Any, scores: Scores, batch: Batch) -> tuple[Tensor, Tensor]:
        """A token classifier's logits [prompts, length, tags] as rows, and ours."""
        return self._grouped(output.logits.float().flatten(0, 1)[batch.extra["positions"]], batch), scores.only.logits.mean(0)


def words_of(example: Example) -> tuple[tuple[int, int], ...]:
    """The words of an example: as given, else those of its raw text."""
    return example.words or split_words(example.texts[0])
