"""SetFit's pairs: texts of one class are drawn together, those of two classes apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor
from torch.nn import functional as F

from tempering.contracts import Batch, Example, Prompt, Scores, Slab
from tempering.errors import DataError, RecipeError
from tempering.framings.pooling import Pool
from tempering.framings.vectored.pair_numbers import PairWalk, Strategy
from tempering.framings.vectored.vectors import VectorModule, info_nce, reads_classes

if TYPE_CHECKING:
    import numpy as np

    from tempering.backbone import Backbone
    from tempering.learner import Learner


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Pairs:
    """Trains vectors of texts on pairs of labelled rows: like where the class is the same, unlike where not. A stage before `ClosedForm`.

    *Paper*: Tunstall et al. 2022 (SetFit). *Formula*: c = cosine of the two pooled texts, y = 1 for one class and 0 for two;
    ``cosine``: mean of (c - y)^2; ``contrastive`` (Hadsell et al. 2006), d = 1 - c: mean of (y d^2 + (1 - y) max(0, margin - d)^2) / 2;
    ``infonce``: over positive pairs, each against the second texts of the batch's other pairs (`info_nce`).
    An epoch walks through the pairs that ``sampling_strategy`` says: with P positive pairs (a row with itself included) and N negative
    ones, ``oversampling`` takes max(P, N) of both kinds, ``undersampling`` min(P, N), drawn anew each epoch, ``unique`` every pair
    once; ``num_iterations`` takes that many of both kinds for each row instead, and ``max_pairs`` no more than so many in all.
    *Needs*: one class a row, and two classes; a class of one row is its own positive pair. Dropout tells a text from its copy.
    *Costs*: one pass over both texts of a pair. Pairs are numbered and never listed: memory grows with the rows, however many pairs.
    *Differs*: setfit draws the order of its pairs once, here each epoch has its own; ``max_pairs`` bounds the pairs walked through and not
    those listed. With ``infonce`` only positive pairs are walked through, and the rows of a batch are coupled.
    """

    sampling_strategy: Strategy = "oversampling"
    num_iterations: Annotated[int, Field(ge=1)] | None = None
    max_pairs: Annotated[int, Field(ge=2)] | None = None
    loss: Literal["cosine", "contrastive", "infonce"] = "cosine"
    margin: Annotated[float, Field(gt=0, le=2)] = 0.5
    temperature: Annotated[float, Field(gt=0)] = 0.05
    pool: Pool = "mean"
    max_length: Annotated[int, Field(ge=1)] | None = None

    supervised: ClassVar[bool] = True
    predicts: ClassVar[bool] = False
    why_not_cached: ClassVar[str] = "nothing is trained but the vectors themselves"
    trains: ClassVar[bool] = False
    kinds: ClassVar[tuple[str, ...]] = ("classification",)

    @property
    def unshared(self) -> str:
        """Why processes cannot share a batch; empty where they can."""
        return "with loss infonce compares the rows of a batch" if self.loss == "infonce" else ""

    def build(self, task: Any, backbone: Backbone) -> PairsModule:
        """The module for ``task`` and ``backbone``; it has no weights of its own."""
        if not reads_classes(task):
            advice = "set-valued labels have no one class" if task.kind == "multilabel" else f"this task is of kind {task.kind!r}"
            raise RecipeError(
                f"pairs compares rows by their one class, and {advice}; use framing head, or contrastive on its unlabeled texts"
            )
        return PairsModule(self, task, backbone)


class PairsModule(VectorModule):
    """`Pairs` at run time. It has no weights."""

    method = "pairs"
    walks = True
    texts_a_row = 2

    def __init__(self, framing: Pairs, task: Any, backbone: Backbone) -> None:
        super().__init__(backbone, framing.pool, framing.max_length)
        self.given, self._target = framing, task.target
        self.kind, self.labels = task.kind, tuple(task.labels)
        self.couples_rows = framing.loss == "infonce"

    def render(self, examples: Sequence[Example], support: Sequence[Example], rng: np.random.Generator) -> list[list[Prompt]]:
        """One prompt an example, with its class; `walk` makes the pairs."""
        classes = [None if e.label is None else self._target(e.label) for e in examples]
        return [[Prompt(x.ids, x.types, c)] for x, c in zip(self.text.encode(examples), classes, strict=True)]

    def walk(self, prompts: Sequence[Prompt]) -> PairWalk:
        """The pairs of all rows, by number."""
        g = self.given
        return PairWalk(prompts, g.sampling_strategy, g.num_iterations, g.max_pairs, positives_only=g.loss == "infonce")

    def prepare(self, learner: Learner, examples: Sequence[Example], rng: np.random.Generator) -> None:
        """Refuse rows of one class alone: with nothing to be unlike, all vectors would become one."""
        found = {e.label for e in examples}
        if len(found) < 2:
            raise DataError(
                f"pairs: expected training rows of at least two classes, found {', '.join(map(repr, found)) or 'no rows'}; give rows of"
                " another class"
            )

    def collate(self, prompts: Sequence[Prompt], rng: np.random.Generator) -> Batch:
        """Pairs as all first texts, then all second ones; single texts stand for all pairs of them (evaluation).

        Targets [pairs]: 1 for one class, 0 for two; the class itself with ``infonce``.
        """
        if prompts[0].extra is None:
            first, second = torch.triu_indices(len(prompts), len(prompts), int(len(prompts) > 1))
            return self._batch(prompts, [p.target for p in prompts], first, second)
        texts = [*prompts, *(p.extra for p in prompts)]
        numbers = torch.arange(len(prompts))
        return self._batch(texts, [p.target for p in texts], numbers, numbers + len(prompts))

    def _batch(self, texts: Sequence[Prompt], classes: Sequence[int | None], first: Tensor, second: Tensor) -> Batch:
        targets = None
        if None not in classes:
            known = torch.tensor(classes, dtype=torch.int64)
            targets = (known[first] == known[second]).float()
            if self.couples_rows:  # only pairs of one class are contrasted; of single texts those there are
                keep = targets > 0
                first, second = first[keep], second[keep]
                targets = known[first]
        return Batch(self.padded(texts), targets, extra={"first": first, "second": second})

    def trunk(self, backbone: Backbone, batch: Batch) -> Tensor:
        """Pooled texts [texts, dim]."""
        return self.pooled(backbone, batch)

    def scores(self, backbone: Backbone, batch: Batch) -> Scores:
        """One slab: cosines as values [1, pairs, 1], or over temperature [1, pairs, pairs] as logits; first texts' vectors as features."""
        z = F.normalize(self.trunk(backbone, batch).float(), dim=-1)
        first, second = z[batch.extra["first"]], z[batch.extra["second"]]
        if self.couples_rows:
            logits = first @ second.T / self.given.temperature
            return Scores((Slab(logits[None], batch.targets, None, first, "classification", batch.task),))
        cosines = (first * second).sum(-1)
        return Scores((Slab(cosines[None, :, None], batch.targets, None, first, "regression", batch.task),))

    def loss(self, scores: Scores, batch: Batch) -> Tensor:
        """The chosen loss, a mean over pairs."""
        slab = scores.only
        assert slab.targets is not None  # rows that are trained on have a class
        if self.couples_rows:
            return info_nce(slab.logits[0], slab.targets) if len(slab.targets) else slab.logits.sum()
        cosines, like = slab.logits[0, :, 0], slab.targets.to(slab.logits.dtype)
        if self.given.loss == "cosine":
            return F.mse_loss(cosines, like)
        distances = 1 - cosines
        return (like * distances.square() + (1 - like) * F.relu(self.given.margin - distances).square()).mean() / 2
