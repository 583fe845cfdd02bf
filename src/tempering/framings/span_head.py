"""Extractive question answering: where in the context an answer begins and ends, or that it is not there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from tempering.contracts import Batch, Example, Kind, Prediction, Prompt, Rendered, Scores, Slab, Span
from tempering.errors import RecipeError
from tempering.framings.losses import supervised_loss
from tempering.framings.spans.module import WindowsModule
from tempering.framings.spans.questions import NOWHERE, Candidate, Pairs, Stretch, candidates

if TYPE_CHECKING:
    from tempering.backbone import Backbone

MASKED = -1e4  # the logit of a token that is no part of the context: no chance, and finite


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class SpanHead:
    """Trains two new linear maps that say of every token of the context how likely an answer begins, and ends, there.

    *Paper*: Devlin et al. 2019, sections 4.2 and 4.3. *Formula*: start logits s = h w_s, end logits e = h w_e over the tokens h
    [length, d] of the context and the first token, which stands for "no answer"; loss = mean of the cross entropies of start and end. The
    answer is the stretch i <= j of at most ``max_answer_length`` tokens with the largest s_i + e_j; there is none where s_0 + e_0 exceeds
    that by more than a threshold, which is chosen on the development split for the highest F1.
    *Needs*: questions, contexts and answers with their places; a tokenizer that tells places. *Costs*: one pass; 2 d weights. A context
    that does not fit beside its question is read in windows that share ``stride`` tokens (default: a quarter of a window, at most 128);
    each is trained on, "no answer" where the answer is not whole in it; scores of windows are compared as they are, and "no answer"
    counts by the least of its scores, as in BERT's code.
    *Differs*: of several right answers the first is learned. Where every training question has an answer, one is always given.
    ``n_best`` answers get probabilities, a softmax over their scores.
    """

    heads: Annotated[int, Field(ge=1)] = 1
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    max_length: Annotated[int, Field(ge=1)] | None = None
    stride: Annotated[int, Field(ge=0)] | None = None
    max_answer_length: Annotated[int, Field(ge=1)] = 30
    n_best: Annotated[int, Field(ge=1)] = 5

    supervised: ClassVar[bool] = True
    shards: ClassVar[bool] = True
    kinds: ClassVar[tuple[Kind, ...]] = ("question_answering",)
    why_not_cached: ClassVar[str] = "a text has as many outputs as it has tokens, and only single vectors are kept"

    def build(self, task: Any, backbone: Backbone) -> SpanHeadModule:
        """The module for ``task``. Weights come from torch's generator."""
        if task.kind != "question_answering":
            raise RecipeError(f"span_head cannot serve a task of kind {task.kind!r}: it finds answers in contexts; take framing head")
        return SpanHeadModule(self, task, backbone)


class SpanHeadModule(WindowsModule):
    """`SpanHead` at run time. A row is a start or an end: two of them, in this order, for each prompt.

    Buffer: ``threshold`` (scalar) that "no answer" must exceed the best answer by; infinite where every training question has one.
    """

    method = "span_head"
    form = "spans"
    kind: Kind = "question_answering"

    def __init__(self, value: SpanHead, task: Any, backbone: Backbone) -> None:
        pairs = Pairs.of(backbone, value.max_length, value.stride)
        super().__init__(value, backbone, pairs.text, backbone.layout.spans, 2)
        self.value, self.pairs, self.length = value, pairs, pairs.text.length
        silent = any(example.label == () for example in task.train)
        self.register_buffer("threshold", torch.tensor(0.0 if silent else torch.inf))

    def render(self, examples: Sequence[Example], support: Sequence[Example], rng: np.random.Generator) -> list[list[Prompt]]:
        """A prompt for every window of the context; ``extra`` holds its `Stretch`, ``target`` two positions."""
        return self.pairs.render(examples)

    def collate(self, prompts: Sequence[Prompt], rng: np.random.Generator) -> Batch:
        """Inputs padded on the right; targets [2 prompts] if every prompt has them; ``allowed`` [prompts, length] tokens of an answer."""
        allowed = np.zeros((len(prompts), self.length), dtype=bool)
        for row, prompt in enumerate(prompts):
            stretch: Stretch = prompt.extra
            allowed[row, stretch.shift : stretch.shift + len(stretch.offsets)] = True
        allowed[:, NOWHERE] = True
        return self.padded(prompts, [prompt.target or () for prompt in prompts], [2] * len(prompts), {"allowed": torch.from_numpy(allowed)})

    def trunk(self, backbone: Backbone, batch: Batch) -> Tensor:
        """The hidden states of all tokens [prompts, length, dim]."""
        return backbone.encode(batch.inputs).last

    def scores(self, backbone: Backbone, batch: Batch) -> Scores:
        """One slab: logits [heads, 2 prompts, ``length``], `MASKED` where no answer can be; its "classes" are positions."""
        features = self.readout.features(self.trunk(backbone, batch))
        logits = self.readout.logits(features.flatten(0, 1)).unflatten(1, features.shape[:2])  # [heads, prompts, length, 2]
        laid = self._laid(logits.transpose(-1, -2), batch)
        return Scores((Slab(laid, batch.targets, batch.weights, None, "classification", batch.task, batch.extra["sizes"]),))

    def _laid(self, logits: Tensor, batch: Batch) -> Tensor:
        """[heads, prompts, 2, length of the batch] -> [heads, 2 prompts, ``length``]."""
        wide = torch.nn.functional.pad(logits, (0, self.length - logits.shape[-1]))
        return wide.masked_fill(~batch.extra["allowed"].unsqueeze(1), MASKED).flatten(1, 2)

    def loss(self, scores: Scores, batch: Batch) -> Tensor:
        """Cross entropy over positions, a mean over heads, starts and ends."""
        return supervised_loss(scores.only)

    def decode(self, scores: Scores) -> list[Prediction]:
        """The likeliest position of each row by itself."""
        return [Prediction(int(i)) for i in scores.only.logits.detach().mean(0).argmax(-1)]

    def combine(self, asked: Rendered, scores: Scores) -> list[Prediction]:
        """The best answer of each question over all windows of its context, its place, and the probabilities of the best few."""
        threshold = float(self.get_buffer("threshold"))
        return [self._prediction(example, nowhere, found, threshold) for example, nowhere, found in self._found(asked, scores)]

    def margins(self, asked: Rendered, scores: Scores) -> list[tuple[float, str]]:
        """For each question by how much "no answer" exceeds the best answer, and that answer: what a threshold is chosen from."""
        made = []
        for example, nowhere, found in self._found(asked, scores):
            best = found[0] if found else None
            made.append((np.inf, "") if best is None else (nowhere - best.score, example.texts[1][best.start : best.end]))
        return made

    def _found(self, asked: Rendered, scores: Scores) -> Iterator[tuple[Example, float, list[Candidate]]]:
        """Each example with the score of "no answer" and the best answers, best first."""
        logits = scores.only.logits.detach().double().mean(0).unflatten(0, (-1, 2)).numpy()
        longest, most = self.value.max_answer_length, self.value.n_best
        windows = zip(logits, asked.prompts, strict=True)
        for example, count in zip(asked.examples, asked.counts, strict=True):
            mine = list(islice(windows, count))
            nowhere = min(float(window[:, NOWHERE].sum()) for window, _ in mine)
            every = [c for window, prompt in mine for c in candidates(window, prompt.extra, longest, most)]
            unlike = {(c.start, c.end): c for c in sorted(every, key=lambda c: c.score)}  # of a stretch in two windows the better
            yield example, nowhere, sorted(unlike.values(), key=lambda c: (-c.score, c.start, c.end))[:most]

    def _prediction(self, example: Example, nowhere: float, found: list[Candidate], threshold: float) -> Prediction:
        context = example.texts[1]
        named = [(context[c.start : c.end], c.score) for c in found]
        named += [("", nowhere)] if threshold < np.inf or not found else []
        weights = np.exp(np.array([score for _, score in named]) - max(score for _, score in named))
        chances: dict[Any, float] = {}
        for (text, _), weight in zip(named, weights / weights.sum(), strict=True):
            chances[text] = chances.get(text, 0.0) + float(weight)
        if not found or nowhere - found[0].score > threshold:
            return Prediction("", chances)
        best = found[0]
        text = context[best.start : best.end]
        return Prediction(text, chances, (Span(best.start, best.end, "answer", chances[text]),))

    def beside(self, output: Any, scores: Scores, batch: Batch) -> tuple[Tensor, Tensor]:
        """Start and end logits of a class for question answering, and ours, where an answer can be."""
        theirs = torch.stack([output.start_logits, output.end_logits], 1).float()
        mine, allowed = scores.only.logits.mean(0), batch.extra["allowed"].repeat_interleave(2, 0)
        return self._laid(theirs.unsqueeze(0), batch)[0][allowed], mine[allowed]
