"""`Demonstrations` at run time."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from tempering.contracts import Batch, Example, Kind, Prediction, Prompt, Rendered, Scores
from tempering.errors import DataError, RecipeError
from tempering.framings.around import Around
from tempering.framings.gaps.cloze_module import ClozeModule
from tempering.framings.gaps.draws import Pool, likenesses
from tempering.framings.gaps.room import check_room, losses
from tempering.framings.gaps.sentence_vectors import load, sentence_vectors
from tempering.framings.gaps.shown import Beside
from tempering.learner import Learner
from tempering.streams import numpy_stream

if TYPE_CHECKING:
    from tempering.backbone import Backbone
    from tempering.framings.demonstrations import Demonstrations


class DemonstrationsModule(Around):
    """All weights are those of the cloze, ``cloze``. What it needs to predict are the examples that may be shown (`keep`)."""

    deterministic = False
    renders_anew = True

    def __init__(self, value: Demonstrations, cloze: ClozeModule, task: Any, backbone: Backbone) -> None:
        super().__init__()
        self.value, self.cloze = value, cloze
        self.settled = replace(value, framing=cloze.settled)
        self.kind: Kind = cloze.kind
        self.labels, self.smooths, self.reads_lm_head, self.notes = cloze.labels, cloze.smooths, cloze.reads_lm_head, cloze.notes
        most = min(value.max_length or backbone.max_length, backbone.max_length)
        self._whole = [text.with_room(most) for text in cloze.texts]
        self._alone = [text.with_room(min(most, text.length)) for text in cloze.texts]
        for text in self._alone:
            text.check()
        self._task = task
        self._body: tuple[Backbone, ...] = (backbone,)  # in a tuple: it hangs in the learner, and only there
        self._first: tuple[Backbone, ...] = ()  # the model before training, while it is trained
        self._pool: Pool | None = None
        self._vectors: Tensor | None = None
        self._seed = 0

    def prepare(self, learner: Learner, examples: Sequence[Example], rng: np.random.Generator) -> None:
        """Take the rows that may be shown, and a copy of the model where training would change what is alike."""
        self._seed = int(rng.integers(2**31))
        self._show([e for e in examples if e.label is not None])
        body = learner.backbone
        if self.value.filter is not None and self.value.encoder is None and any(p.requires_grad for p in body.parameters()):
            self._first = (copy.deepcopy(body).requires_grad_(False),)
        self.cloze.prepare(learner, examples, rng)
        self.notes = (*self.cloze.notes, *self._checked_room(examples))

    def alone(self, learner: Learner) -> Learner:
        """The same model under the cloze alone: the words that examples show are chosen before there are any."""
        return Learner(learner.backbone, self.cloze, learner.tuning).train(learner.training)

    def _checked_room(self, examples: Sequence[Example]) -> tuple[str, ...]:
        """Refuse examples that could never be shown, and tell how many queries lose some."""
        pool, ways = self._pool, self._ways()
        if pool is None or not pool.examples:
            return ()
        for way in ways:
            self._encode(way, pool, [range(len(pool.examples))])
            check_room(self.value, way, pool, way.queries(examples))
        return losses(self.value, ways, pool, examples, numpy_stream(self._seed, "room"))

    def _ways(self) -> list[Beside]:
        """From a query and examples to a prompt, under each template."""
        return [Beside(whole, alone, self.value.place, self.value.floor) for whole, alone in zip(self._whole, self._alone, strict=True)]

    def finish(self, learner: Learner, examples: Sequence[Example], rng: np.random.Generator) -> None:
        """From here on the trained model says what is alike, unless an encoder does."""
        self._first = ()
        if self.value.encoder is None:
            self._vectors = None
        self.cloze.finish(learner, examples, rng)

    def _show(self, examples: Sequence[Example]) -> None:
        """Make these the examples that may be shown. A class with fewer than two is a `DataError`: a query cannot show itself."""
        classes = self._buckets(examples)
        names: tuple[Any, ...] = self.labels or ("low", "high")
        counts = Counter(classes)
        for i, name in enumerate(names):
            if self.value.shots is None and counts[i] < self.value.per_class + 1:
                raise DataError(
                    f"demonstrations: class {name!r} has {counts[i]} training rows, and each query shows {self.value.per_class} others;"
                    " give more rows of that class, a smaller per_class, or shots in place of it"
                )
        self._pool, self._vectors = Pool(examples, classes, len(names)), None

    def _buckets(self, examples: Sequence[Example]) -> list[int]:
        """The class of each example; of values 0 up to the split, 1 above it."""
        if self.kind != "regression":
            return [int(self._task.target(e.label)) for e in examples]
        values = [float(e.label) for e in examples]
        split = self.value.split if self.value.split is not None else float(np.median(values)) if values else 0.0
        if self.value.split is None and values and split == max(values):  # half of the values are the largest one
            split = max((v for v in values if v < split), default=split)
        return [int(v > split) for v in values]

    def render(self, examples: Sequence[Example], support: Sequence[Example], rng: np.random.Generator) -> list[list[Prompt]]:
        """With ``support`` (training) one context a query, drawn from ``rng``; else ``contexts``, the same for the same query."""
        if self._pool is None:
            if not support:
                raise RecipeError("demonstrations: there are no examples to show; prepare the framing on the training rows first")
            self._show([e for e in support if e.label is not None])
        pool = self._pool
        assert pool is not None
        ways = self._ways()
        queries = [way.queries(examples) for way in ways]
        found = []
        for i, (query, near) in enumerate(zip(examples, self._likeness(examples, pool), strict=True)):
            alike = pool.alike(query, near, self.value.filter)
            prompts = []
            for way, stream in self._streams(query, rng if support else None):
                rounds = pool.draw(alike, self.value.per_class, self.value.shots, stream)
                self._encode(ways[way], pool, rounds)
                prompts.append(self.cloze.prompt(ways[way].laid(queries[way][i], rounds), query))
            found.append(prompts)
        return found

    def part(self, batch: Batch, rows: slice) -> Batch:
        """Some of its rows: examples are drawn by `render`, and where the cloze finds its masks stands row by row."""
        return replace(super().part(replace(batch, extra={}), rows), extra={name: values[rows] for name, values in batch.extra.items()})

    def _streams(self, query: Example, rng: np.random.Generator | None) -> list[tuple[int, np.random.Generator]]:
        """(template, stream) of each context: one under any template in training, else all contexts under every template."""
        count = len(self._whole)
        if rng is not None:
            return [(int(rng.integers(count)) if count > 1 else 0, rng)]
        contexts = range(self.value.sets)
        return [(t, numpy_stream(self._seed, "context", c, t, *query.texts)) for t in range(count) for c in contexts]

    def _likeness(self, examples: Sequence[Example], pool: Pool) -> Iterator[Tensor | None]:
        """Of each query the cosine with all examples [examples], of some queries at a time; None without a filter."""
        if self.value.filter is None:
            yield from [None] * len(examples)
            return
        body = load(self.value.encoder) if self.value.encoder is not None else (self._first or self._body)[0]
        if self._vectors is None:
            self._vectors = sentence_vectors(body, pool.examples)
        known = {e.texts: i for i, e in enumerate(pool.examples)}
        rows = [known.get(e.texts) for e in examples]
        queries = torch.zeros(len(examples), self._vectors.shape[1])
        fresh = [i for i, row in enumerate(rows) if row is None]
        queries[fresh] = sentence_vectors(body, [examples[i] for i in fresh])
        inside = [i for i, row in enumerate(rows) if row is not None]
        queries[inside] = self._vectors[[row for row in rows if row is not None]]
        yield from likenesses(queries, self._vectors)

    def _encode(self, way: Beside, pool: Pool, rounds: Sequence[Sequence[int]]) -> None:
        """Give the examples that are shown for the first time to ``way``, each with the label word of its class."""
        if fresh := sorted({i for shown in rounds for i in shown} - way.known):
            words = self.answers()
            way.show(pool.examples, fresh, [words[pool.classes[i]] for i in fresh])

    def answers(self) -> list[tuple[int, ...]]:
        """The tokens of the label word of each class: the verbalizer's first, which it may have chosen itself."""
        table = getattr(self.cloze.verbalizer, "table", None)
        return [tuple(row[0]) for row in table] if table else list(self.cloze.text.words)

    def trunk_key(self) -> str:
        """The cloze's, and how many contexts there are: they are drawn anew, so that the trunk's output is never worth keeping."""
        return f"demonstrations contexts={self.value.sets} length={self._whole[0].length} {self.cloze.trunk_key()}"

    def combine(self, asked: Rendered, scores: Scores) -> list[Prediction]:
        """Class scores averaged over the contexts of a query; of values the mean of the predictions."""
        if self.kind != "regression":
            return super().combine(asked, scores)
        values = torch.tensor([float(p.label) for p in self.decode(scores)])
        return [Prediction(float(part.mean())) for part in values.split(list(asked.counts))]

    def keep(self) -> dict[str, Any]:
        """The examples that may be shown, what seeds their draws, and what the cloze keeps."""
        shown = self._pool.examples if self._pool is not None else ()
        return {"support": [[list(e.texts), e.label, e.row] for e in shown], "seed": self._seed, "cloze": self.cloze.keep()}

    def recall(self, kept: dict[str, Any]) -> None:
        """Take them back."""
        self.cloze.recall(kept["cloze"])
        self._seed = int(kept["seed"])
        self._show([Example(tuple(texts), label, row) for texts, label, row in kept["support"]])
