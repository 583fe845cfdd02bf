"""Prototypical fine-tuning: classes told by the distance to prototypes, whose number follows the data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from tempering.contracts import Batch, Example, Hooks, Kind, Prediction, Prompt, Scores, Slab, Weights
from tempering.errors import RecipeError
from tempering.framings.clusters.growth import State, grow, place, sampled
from tempering.framings.clusters.mixture import Readout, crowding, log_chances, nearness, stray
from tempering.framings.initial import draw, first
from tempering.framings.losses import supervised_loss
from tempering.framings.module import FramingBase, Support
from tempering.framings.pooling import Pool, Pooling
from tempering.framings.text import TextEncoder, Truncation, pad, tensors

if TYPE_CHECKING:
    import numpy as np

    from tempering.backbone import Backbone
    from tempering.learner import Learner
    from tempering.passes import Passes

Share = Annotated[float, Field(ge=0, le=1)]
OWN = 0.9  # what a new soft label vector gives to the prototype's own class


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Prototypes:
    """Classifies a text by its distance to prototypes, several a class, which training moves, adds and drops as the data ask for it.

    *Paper*: after PFit (Jin et al. 2023) and its parent, Infinite Mixture Prototypes (Allen et al. 2019).
    *Formula*: h = g(pooled text) [rows, d], g the identity or (``proto_dim``) linear and norm; D_k = |h - p_k|^2 over the K prototypes
    p [classes, slots, d] in use; P(y | x) = sum_k softmax_k(-D_k / (2 sigma)) l_ky, l_k one-hot or (``soft_labels``) trained;
    loss = -mean log P(y_i | x_i) + diversity * 2 / (K (K - 1)) sum_{i<j} max(0, d_min - |p_i - p_j|)^2 + pull * mean_i min_k D_ik
    over prototypes of the row's own class. One prototype a class is the linear head w = p / sigma, b = -|p|^2 / (2 sigma).
    Before the first step and at the start of each epoch after the first (``refresh_steps``: every so many steps) all training rows are
    embedded anew: 1. mixture initialization (once; ``initial`` centers a class of 20 rows or more, by k-means; 1 switches it off);
    2. creation (``create``): a row farther than lambda = -2 sigma log alpha + d sigma log(1 + rho / sigma) from its class's
    prototypes becomes one, rho the variance across prototypes; 3. simplification (``simplify``): those with less than ``min_mass`` / K
    of the rows' weights go, those of a class closer than d_min are merged; 4. diversity (``diversity``; 0 switches it off), with
    d_min the ``quantile`` of distances between nearest rows of different classes, never falling.
    *Needs*: classes, not values or sets of labels. Rates: about 50 times the body's for prototypes (``head_learning_rate``).
    *Costs*: one pass; ``slots`` d weights a class, in use or not; an evaluation pass over the training rows at each refresh.
    *Differs*: the paper's text was not at hand: pooling, scale, initial count, quantile, thresholds and the time of each principle are
    reconstructions. The parent's code compares a row with the first prototype of its class only, here with all. The limit on
    prototypes is one a class. A class without training rows has none, and a probability of about 0.
    """

    initial: Annotated[int, Field(ge=1)] = 2
    create: bool = True
    alpha: Annotated[float, Field(gt=0)] = 0.1
    simplify: bool = True
    min_mass: Annotated[float, Field(ge=0)] = 1e-3
    diversity: Annotated[float, Field(ge=0)] = 0.01
    quantile: Share = 0.1
    pull: Annotated[float, Field(ge=0)] = 0.0
    slots: Annotated[int, Field(ge=1)] = 20
    d_eff: Annotated[float, Field(gt=0)] = 3.0
    sample: Annotated[int, Field(ge=1)] = 256
    refresh_steps: Annotated[int, Field(ge=0)] = 0
    pool: Pool = "auto"
    proto_dim: Annotated[int, Field(gt=0)] | None = None
    readout: Readout = "mixture"
    soft_labels: bool = False
    max_length: Annotated[int, Field(ge=1)] | None = None
    truncation: Truncation = "head"

    supervised: ClassVar[bool] = True
    touches: ClassVar[tuple[str, ...]] = ("term",)

    @property
    def students(self) -> int:
        """The training passes its terms read: one for the distances of ``pull``, none for what concerns prototypes alone."""
        return 1 if self.pull else 0

    @property
    def neutral(self) -> bool:
        """Nothing is added to the loss."""
        return self.diversity == 0.0 and self.pull == 0.0

    def build(self, task: Any, backbone: Backbone) -> PrototypesModule:
        """The module for a task of classes. Weights come from torch's generator; `PrototypesModule.refresh` places the prototypes."""
        if task.kind != "classification":
            raise RecipeError(
                f"prototypes cannot serve a task of kind {task.kind!r}: each prototype stands for one class; take framing head for it"
            )
        if self.soft_labels and self.readout == "nearest":
            raise RecipeError("prototypes: readout=nearest lets one prototype speak for its class; set soft_labels: false with it")
        return PrototypesModule(self, task, backbone)

    def start(self, learner: Learner, trained: Weights, seed: int) -> Hooks:
        """The terms of the loss that are no likelihood."""
        module: Any = learner.framing

        def term(passes: Passes) -> Tensor:
            cost: Tensor = self.diversity * crowding(module.prototypes, module.active, module.d_min)
            slab = passes.student(0).only if self.pull else None  # where FreeLB stands for the supervised loss, nobody else asks for it
            if slab is not None and slab.features is not None and slab.targets is not None:
                cost = cost + self.pull * stray(slab.features, slab.targets, module.prototypes, module.active).mean()
            return cost

        return Hooks(term=term)


class PrototypesModule(FramingBase):
    """`Prototypes` at run time.

    Weights: ``prototypes`` [classes, slots, dim], ``log_sigma`` (scalar), and where asked for ``projection`` and ``soft`` [classes,
    slots, classes], the logits of label vectors. State: ``active`` [classes, slots], the slots in use, and ``d_min`` (scalar).
    Until the first `refresh` there is one drawn prototype a class.
    """

    undecayed = frozenset({"prototypes", "soft"})
    smooths = True

    def __init__(self, value: Prototypes, task: Any, backbone: Backbone) -> None:
        super().__init__()
        self.value, self.kind = value, "classification"
        self.labels = tuple(task.labels)
        self.refresh_steps = value.refresh_steps
        self.pooling = Pooling.of(backbone, value.pool, (-1,), "concat", "prototypes")
        self.reads = self.pooling.how
        self.text = TextEncoder.of(backbone, value.max_length, value.truncation)
        self._target = task.target
        width = value.proto_dim or backbone.hidden_size
        self.projection: nn.Module | None = None
        if value.proto_dim:
            linear = nn.Linear(backbone.hidden_size, width)
            draw(linear, backbone.config)
            self.projection = nn.Sequential(linear, nn.LayerNorm(width))
        shape, std = (len(self.labels), value.slots), float(first(backbone.config, "initializer_range", default=0.02))
        self.prototypes = nn.Parameter(torch.zeros(*shape, width))
        nn.init.normal_(self.prototypes.data[:, 0], 0.0, std)
        self.log_sigma = nn.Parameter(torch.zeros(()))
        self.soft = nn.Parameter(own_labels(*shape)) if value.soft_labels else None
        self.active: Tensor
        self.d_min: Tensor
        self.register_buffer("active", torch.zeros(shape, dtype=torch.bool))
        self.active[:, 0] = True
        self.register_buffer("d_min", torch.zeros(()))
        self._changes: dict[str, float] = {}

    def render(self, examples: Sequence[Example], support: Sequence[Example], rng: np.random.Generator) -> list[list[Prompt]]:
        """One prompt an example: its text or pair, truncated, and its class if it has a label."""
        rows = zip(self.text.encode(examples), examples, strict=True)
        return [[Prompt(x.ids, x.types, None if e.label is None else self._target(e.label))] for x, e in rows]

    def collate(self, prompts: Sequence[Prompt], rng: np.random.Generator) -> Batch:
        """Inputs padded on the right; targets [rows] if every row has one; weights [rows] if any is not 1."""
        given = [p.target for p in prompts]
        targets = None if None in given else torch.tensor(given, dtype=torch.int64)
        weights = torch.tensor([p.weight for p in prompts]) if any(p.weight != 1.0 for p in prompts) else None
        return Batch(tensors(pad(prompts, int(self.text.tokenizer.pad_token_id or 0))), targets, weights)

    def trunk(self, backbone: Backbone, batch: Batch) -> Tensor:
        """The pooled vectors [rows, width of the body]."""
        return self.pooling.read(backbone, batch)

    def trunk_key(self) -> str:
        """Pooling, length and truncation: those of a head over the same vectors."""
        return self.pooling.key(self.text)

    def embed(self, pooled: Tensor) -> Tensor:
        """Pooled vectors -> what prototypes are compared with: [rows, dim]."""
        pooled = pooled.to(self.prototypes.dtype)
        found: Tensor = pooled if self.projection is None else self.projection(pooled)
        return found

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Pooled vectors -> log P(y | x) [1, rows, classes] and the embeddings [rows, dim]; never in half precision."""
        with torch.autocast(pooled.device.type, enabled=False):
            rows = self.embed(pooled)
            near = nearness(rows, self.prototypes, self.active, self.log_sigma)
            return log_chances(near, self.active, self.value.readout, self.soft).unsqueeze(0), rows

    def scores(self, backbone: Backbone, batch: Batch) -> Scores:
        """One slab. ``features`` in the batch's inputs stand for the trunk's output."""
        cached = batch.inputs.get("features")
        logits, rows = self(self.trunk(backbone, batch) if cached is None else cached)
        kind: Kind = "classification"
        return Scores((Slab(logits, batch.targets, batch.weights, rows, kind, batch.task),))

    def loss(self, scores: Scores, batch: Batch) -> Tensor:
        """-log P(y | x), mean over rows; with smoothing, cross entropy of P with the smoothed target, in training mode only."""
        return supervised_loss(scores.only, self.smoothing if self.training else 0.0)

    def decode(self, scores: Scores) -> list[Prediction]:
        """The likeliest class, and the probability of each."""
        chances = scores.only.logits.detach().float().mean(0).softmax(-1)
        best = chances.argmax(-1).tolist()
        return [Prediction(self.labels[i], dict(zip(self.labels, row, strict=True))) for i, row in zip(best, chances.tolist(), strict=True)]

    @torch.no_grad()
    def refresh(self, support: Support) -> Mapping[str, Tensor]:
        """Place the prototypes before the first step; later add, drop and merge them as the training rows ask for it."""
        if support.step and not (self.value.create or self.value.simplify or self.value.diversity):
            return {}
        targets = torch.tensor(support.targets)
        chosen = sampled(targets, self.value.sample, support.rng) if support.step == 0 else range(len(targets))
        pooled = support.trunk(chosen if len(chosen) < len(targets) else None)
        rows = self.embed(pooled.to(self.prototypes.device)).cpu()
        state = State.of(self.prototypes, self.active, float(self.log_sigma.exp()), float(self.d_min))
        change = grow if support.step else place
        change(state, rows, targets[list(chosen)], support.rng, self.value)
        return self._adopt(state, start=support.step == 0)

    def _adopt(self, state: State, start: bool) -> Mapping[str, Tensor]:
        """Take ``state`` over. Slots out of use count as placed anew: what is known of them is of no use to their next prototype."""
        device = self.prototypes.device
        points, active = state.points.to(device), state.active.to(device)
        born, moved = active & ~self.active, (points != self.prototypes).any(-1) | ~active
        renewed = {"prototypes": moved}
        if self.soft is not None:
            renewed["soft"] = fresh = born | ~active
            self.soft[fresh] = own_labels(*active.shape).to(self.soft)[fresh]
        if start:
            self.log_sigma.fill_(math.log(state.sigma))
            renewed["log_sigma"] = torch.ones_like(self.log_sigma, dtype=torch.bool)
        self.prototypes.copy_(points)
        self.active.copy_(active)
        self.d_min.fill_(state.d_min)
        self._changes = state.changes
        return renewed

    def facts(self) -> dict[str, float]:
        """The number of prototypes, in all and of each class, what the last refresh changed, the scale and the least distance."""
        each = {f"prototypes of {label}": float(count) for label, count in zip(self.labels, self.active.sum(-1).tolist(), strict=True)}
        now = {"sigma": float(self.log_sigma.detach().exp()), "d_min": float(self.d_min)}
        return {"prototypes": float(self.active.sum())} | self._changes | now | each


def own_labels(classes: int, slots: int) -> Tensor:
    """Logits [classes, slots, classes] of label vectors that give `OWN` to the slot's own class."""
    rest = (1 - OWN) / max(1, classes - 1)
    vectors = torch.full((classes, classes), rest).fill_diagonal_(OWN if classes > 1 else 1.0)
    return vectors.log().unsqueeze(1).repeat(1, slots, 1)
