"""Contrastive learning of text vectors: SimCSE, without labels, from entailment, or from classes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn import functional as F

from tempering.contracts import Batch, Example, Prompt, Scores, Slab
from tempering.dropout import dropout_stream
from tempering.errors import DataError, ModelError, RecipeError
from tempering.framings.initial import draw
from tempering.framings.pooling import Pool
from tempering.framings.vectored.vectors import VectorModule, info_nce, reads_classes

if TYPE_CHECKING:
    import numpy as np

    from tempering.backbone import Backbone
    from tempering.learner import Learner


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Contrastive:
    """Draws the vectors of texts that belong together toward each other and pushes all others in the batch away: a stage before the task.

    *Paper*: Gao, Yao, Chen 2021 (SimCSE); with classes after Khosla et al. 2020. *Formula*: z = h / |h| with h [rows, dim] the pooled
    text; loss = - mean over i of log(exp(z_i z'_i / temperature) / sum_j exp(z_i z'_j / temperature)). ``unsupervised``: z' is the same
    text once more, with other dropout, in the same pass; labels are not read. ``supervised`` on pairs of texts: z'_i is the second text
    of a row labelled ``positive``, the first text is z_i, and the sum runs also over the second texts of the same first texts' rows
    labelled ``negative``. ``supervised`` on single texts: the mean of the log over all z' of i's class, z' as without labels.
    *Needs*: batches of many rows; without labels a model with dropout, since without it a text and its copy are the same and nothing
    draws the vectors together. *Costs*: one pass over twice the rows (three times with negatives); rows x rows products. The rows of a
    batch are coupled: it cannot be cut when memory runs out, nor shared by processes.
    *Differs*: ``pool: auto`` is the first token (of decoders the last, of models in two halves the mean). ``head: mlp`` (dense, tanh)
    stands between vector and loss while training only, in supervised mode too, where SimCSE keeps it. A first text without a negative
    takes part without one, where SimCSE drops it. What is worth measuring is its loss on held-out texts; a prediction is a vector.
    """

    mode: Literal["unsupervised", "supervised"] = "unsupervised"
    temperature: Annotated[float, Field(gt=0)] = 0.05
    head: Literal["mlp", "none"] = "mlp"
    pool: Pool = "auto"
    max_length: Annotated[int, Field(ge=1)] | None = None
    positive: str = "entailment"
    negative: str = "contradiction"

    predicts: ClassVar[bool] = False
    unshared: ClassVar[str] = "compares the rows of a batch"
    why_not_cached: ClassVar[str] = "a text and its copy are told apart by dropout"
    trains: ClassVar[bool] = False  # its own weights stay behind: over a frozen model nothing would be left of the stage

    @property
    def supervised(self) -> bool:
        """Whether labels are read."""
        return self.mode == "supervised"

    def build(self, task: Any, backbone: Backbone) -> ContrastiveModule:
        """The module for ``task`` and ``backbone``. A task whose labels it cannot read is a `RecipeError`."""
        if self.supervised and not reads_classes(task):
            raise RecipeError(
                f"contrastive.mode=supervised reads classes, and this task is of kind {task.kind!r}; use mode: unsupervised with text:"
                " unlabeled"
            )
        return ContrastiveModule(self, task, backbone)


class ContrastiveModule(VectorModule):
    """`Contrastive` at run time. Weights: ``mlp`` [dim, dim], if there is one."""

    method = "contrastive"
    couples_rows = True
    texts_a_row = 2

    def __init__(self, framing: Contrastive, task: Any, backbone: Backbone) -> None:
        super().__init__(backbone, _pool(framing.pool, backbone), framing.max_length)
        self.given, self._target = framing, task.target
        if framing.supervised:  # what its labels mean comes back with a saved model
            self.kind, self.labels = task.kind, tuple(task.labels)
        self.windows = framing.supervised  # of pairs only those labelled positive are rows
        width = backbone.hidden_size
        self.mlp = nn.Linear(width, width) if framing.head == "mlp" else None
        if self.mlp is not None:
            draw(self.mlp, backbone.config)

    def render(self, examples: Sequence[Example], support: Sequence[Example], rng: np.random.Generator) -> list[list[Prompt]]:
        """Each example as one prompt; labelled pairs as (first, second, negative) where the label is positive, else none."""
        labelled = self.given.supervised and all(e.label is not None for e in examples)
        if labelled and any(len(e.texts) == 2 for e in examples):
            return self._triplets(examples)
        targets = [self._target(e.label) if labelled else None for e in examples]
        return [[Prompt(x.ids, x.types, target)] for x, target in zip(self.text.encode(examples), targets, strict=True)]

    def _triplets(self, examples: Sequence[Example]) -> list[list[Prompt]]:
        """``extra`` of a prompt is (the positive's ids, the negative's ids or None); the k-th positive of a text has its k-th negative."""
        wrong: dict[str, list[str]] = defaultdict(list)
        for e in examples:
            if str(e.label) == self.given.negative:
                wrong[e.texts[0]].append(e.texts[1])
        right = [i for i, e in enumerate(examples) if str(e.label) == self.given.positive]
        met: Counter[str] = Counter()
        texts: list[tuple[str, str, str | None]] = []
        for i in right:
            first, second = examples[i].texts
            known = wrong.get(first, [])
            texts.append((first, second, known[met[first] % len(known)] if known else None))
            met[first] += 1
        names = [text for row in texts for text in row if text is not None]
        ids = dict(zip(names, (x.ids for x in self.text.encode([Example((t,)) for t in names])), strict=True))
        made: list[list[Prompt]] = [[] for _ in examples]
        for i, (a, b, c) in zip(right, texts, strict=True):
            made[i] = [Prompt(ids[a], extra=(ids[b], None if c is None else ids[c]))]
        return made

    def collate(self, prompts: Sequence[Prompt], rng: np.random.Generator) -> Batch:
        """Rows with their classes, or numbers where they have none; triplets stand as all firsts, then all seconds, then the negatives."""
        numbers = torch.arange(len(prompts))
        if prompts[0].extra is None:
            classes = [p.target for p in prompts]
            return Batch(self.padded(prompts), numbers if None in classes else torch.tensor(classes, dtype=torch.int64))
        seconds = [p.extra[0] for p in prompts] + [p.extra[1] for p in prompts if p.extra[1] is not None]
        return Batch(self.padded([*prompts, *map(Prompt, seconds)]), numbers, extra={"firsts": len(prompts)})

    def trunk(self, backbone: Backbone, batch: Batch) -> Tensor:
        """Pooled texts [texts, dim], the partners of the first rows after those; in evaluation mode a text's copy is itself."""
        if "firsts" in batch.extra:
            return self.pooled(backbone, batch)
        if not self.training:
            return self.pooled(backbone, batch).repeat(2, 1)
        twice = {name: torch.cat([x, x]) for name, x in batch.inputs.items()}
        return self.pooled(backbone, Batch(twice))

    def scores(self, backbone: Backbone, batch: Batch) -> Scores:
        """One slab: logits [1, rows, partners] of similarity over temperature, and the rows' vectors as features."""
        h = self.trunk(backbone, batch)
        if self.mlp is not None and self.training:
            h = torch.tanh(self.mlp(h))
        z = F.normalize(h.float(), dim=-1)
        rows = int(batch.extra.get("firsts", len(batch)))
        logits = z[:rows] @ z[rows:].T / self.given.temperature
        return Scores((Slab(logits[None], batch.targets, None, z[:rows], "classification", batch.task),))

    def loss(self, scores: Scores, batch: Batch) -> Tensor:
        """`info_nce`."""
        slab = scores.only
        assert slab.targets is not None  # `collate` always makes them
        return info_nce(slab.logits[0], slab.targets, slab.weights)

    def prepare(self, learner: Learner, examples: Sequence[Example], rng: np.random.Generator) -> None:
        """Refuse rows and models from which there is nothing to learn."""
        rendered = [p for found in self.render(examples, (), rng) for p in found]
        if len(rendered) < 2:
            known = ", ".join(sorted({str(e.label) for e in examples}))
            what = f"rows labelled {self.given.positive!r} (labels found: {known or 'none'})" if self.windows else "texts"
            raise DataError(
                f"contrastive: expected at least two {what}, found {len(rendered)}; give more rows"
                + (", or name the label in framing.positive" if self.windows else "")
            )
        if not self.given.supervised and not _alive(learner, self, rendered[:1]):
            body = learner.backbone
            raise ModelError(
                f"contrastive cannot serve {body.source} ({body.layout.family}) without labels: it runs without dropout, so that a text and"
                " its copy come out equal; choose a model whose configuration has dropout, or use mode: supervised"
            )


def _pool(given: Pool, backbone: Backbone) -> Pool:
    """``auto`` by what a model reads: a decoder's first token knows nothing of what follows."""
    if given != "auto":
        return given
    choices: dict[str, Pool] = {"encoder": "first", "decoder": "last"}
    return choices.get(backbone.layout.kind, "mean")


@torch.no_grad()
def _alive(learner: Learner, module: ContrastiveModule, prompts: Sequence[Prompt]) -> bool:
    """Whether a text and its copy differ while training, or some dropout is at work that weights of zero hide for now."""
    modes = [(part, part.training) for part in learner.modules()]
    learner.train()
    active = any(isinstance(part, nn.Dropout) and part.training and part.p > 0 for part in learner.backbone.modules())
    if not active:  # rates may stand in the configuration alone: attention has them as numbers
        batch = Batch(module.padded(prompts)).to(learner.device)
        with dropout_stream(0, "contrastive", device=learner.device):
            first, second = module.trunk(learner.backbone, batch)
        active = not torch.equal(first, second)
    for part, mode in modes:
        part.training = mode
    return active
