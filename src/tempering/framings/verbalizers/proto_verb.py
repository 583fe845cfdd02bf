"""Class prototypes on the states at the mask, learned by contrast."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import ConfigDict, Field, field_validator
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from tempering.contracts import Example, Slab
from tempering.errors import RecipeError
from tempering.framings.verbalizers.base import VerbalizerModule, Words, checked, mask_states, targets_of
from tempering.framings.verbalizers.manual import Manual
from tempering.framings.verbalizers.words import Table
from tempering.streams import torch_stream

if TYPE_CHECKING:
    import numpy as np

    from tempering.backbone import Backbone
    from tempering.learner import Learner

NUMBERS = 2**22  # cosines of rows with rows that are held at once
_ANEW: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class ProtoVerb:
    """Learns a prototype a class from the training rows' states at the mask, the model standing still, and predicts by nearness to them.

    While the model itself is trained, its loss is that of ``verbalizer``. ``when``: prototypes are learned "after" that, or "before".
    ``predict``: "proto" by the cosine alone, "multi" by the mean with the scores of ``verbalizer``, each row of both standardized; of
    two classes a standardized row says no more than which is larger, so that "multi" needs three or more.

    *Paper*: after Cui et al. 2022, as OpenPrompt has it. *Formula*: v = W h [rows, d], h [rows, dim] the body's last state at the mask,
    W [d, dim]; s = cosine; prototypes c [classes, d]. Loss = A + B + C, each -log of a share of exp(s): A: a row's own prototype among
    all (mean over rows); B: a prototype's own row among that row and all rows of other classes (mean over the pairs of a row and its
    prototype); C: another row of the same class among that row and the rows of other classes (mean over pairs). Adam at ``learning_rate``
    for ``epochs`` steps on all rows. multi: (z(manual) + z(cosine)) / 2, z = (s - mean) / sample deviation over the classes. *Needs*:
    training rows of every class. *Costs*: a pass over the training rows; d (dim + classes) numbers, learned on kept states.
    *Differs*: OpenPrompt stacks the classes, so that all need as many rows; it has no B, and in its C a row is also a pair with
    itself. Here each term is a mean over its pairs, whatever the counts.
    """

    verbalizer: Any = Field(default_factory=Manual)
    predict: Literal["proto", "multi"] = "proto"
    when: Literal["before", "after"] = "after"
    d: int = Field(default=64, ge=1)
    learning_rate: float = Field(default=1e-2, gt=0)
    epochs: int = Field(default=30, ge=1)

    @field_validator("verbalizer")
    @classmethod
    def _is_verbalizer(cls, given: Any) -> Any:
        return checked(given)

    @property
    def trains(self) -> bool:
        """The optimizer moves weights of the verbalizer inside, if any; prototypes are learned apart."""
        return bool(self.verbalizer.trains)

    @property
    def works_untrained(self) -> bool:
        """Where the verbalizer inside does."""
        return bool(getattr(self.verbalizer, "works_untrained", True))

    def build(self, task: Any, backbone: Backbone, words: Words) -> ProtoVerbModule:
        """The module, its map and prototypes drawn from torch's generator."""
        inner = self.verbalizer.build(task, backbone, words)
        if inner.walks or inner.masks != 1:
            raise RecipeError("proto_verb: its verbalizer must read one mask in one pass; take manual, soft or knowledgeable")
        if len(inner.labels) < 2 or task.kind not in ("classification", "text"):
            raise RecipeError(f"proto_verb: prototypes stand for classes, and this task is of kind {task.kind!r}; take verbalizer manual")
        if self.predict == "multi" and len(inner.labels) < 3:  # where the two disagree their mean is 0 but for rounding
            raise RecipeError(
                "proto_verb: predict: multi needs three classes or more, and this task has two: of two, standardized scores say no more"
                " than which is larger; set predict: proto"
            )
        return ProtoVerbModule(self, inner, backbone.hidden_size)


class ProtoVerbModule(VerbalizerModule):
    """`ProtoVerb` at run time: ``projection`` [d, dim], ``prototypes`` [classes, d], and whether they are ``learned``."""

    wants = "hidden"
    projection: Tensor
    prototypes: Tensor
    learned: Tensor

    def __init__(self, value: ProtoVerb, inner: VerbalizerModule, dim: int) -> None:
        super().__init__()
        self.value, self.inner, self.labels = value, inner, inner.labels
        self.register_buffer("projection", nn.init.kaiming_uniform_(torch.empty(value.d, dim), a=5**0.5))
        self.register_buffer("prototypes", nn.init.xavier_uniform_(torch.empty(len(self.labels), value.d)))
        self.register_buffer("learned", torch.zeros((), dtype=torch.bool))

    @property
    def reads_head(self) -> bool:
        """While the model trains, and under "multi", as the verbalizer inside does."""
        return self.inner.reads_head

    @property
    def table(self) -> Table | None:
        """The label words of the verbalizer inside."""
        return getattr(self.inner, "table", None)

    def forward(self, read: Tensor) -> Tensor:
        """Last states [rows, 1, dim] -> cosine to each prototype [rows, classes]."""
        return cosine(read[:, 0].float() @ self.projection.T, self.prototypes)

    def scores(self, backbone: Backbone, hidden: Tensor) -> Tensor:
        """While the model trains, and until prototypes are learned, the scores of the verbalizer inside; then by ``predict``."""
        if self.training or not bool(self.learned):
            return self.inner.scores(backbone, hidden)
        near: Tensor = self(hidden)
        return near if self.value.predict == "proto" else ensemble(self.inner.scores(backbone, hidden), near)

    def loss(self, slab: Slab) -> Tensor | None:
        """That of the verbalizer inside."""
        return self.inner.loss(slab)

    def prepare(self, learner: Learner, examples: Sequence[Example], rng: np.random.Generator) -> None:
        """The verbalizer inside chooses first; with ``when`` "before" the prototypes are learned on the model as it is."""
        self.inner.prepare(learner, examples, rng)
        if self.value.when == "before":
            self._learn(learner, examples, rng)

    def finish(self, learner: Learner, examples: Sequence[Example], rng: np.random.Generator) -> None:
        """The same for the trained model."""
        self.inner.finish(learner, examples, rng)
        if self.value.when == "after":
            self._learn(learner, examples, rng)

    def _learn(self, learner: Learner, examples: Sequence[Example], rng: np.random.Generator) -> None:
        found = targets_of(self.labels, examples, "proto_verb")
        absent = [str(label) for i, label in enumerate(self.labels) if i not in found.classes]
        if absent:
            raise RecipeError(f"proto_verb: class {absent[0]!r} has no training row to learn a prototype from; add one, or take manual")
        states = mask_states(learner, [examples[i] for i in found.rows], rng)[:, 0]
        device = self.prototypes.device
        with torch_stream(int(rng.integers(2**31)), "proto_verb"):
            projection, prototypes = learned(states.to(device), found.classes.to(device), self.projection, self.prototypes, self.value)
        self.projection.copy_(projection)
        self.prototypes.copy_(prototypes)
        self.learned.fill_(True)

    def keep(self) -> dict[str, Any]:
        """What the verbalizer inside keeps; the prototypes are in the state dict."""
        return self.inner.keep()

    def recall(self, kept: dict[str, Any]) -> None:
        """Hand it back."""
        self.inner.recall(kept)


def learned(states: Tensor, targets: Tensor, projection: Tensor, prototypes: Tensor, value: ProtoVerb) -> tuple[Tensor, Tensor]:
    """The map and prototypes after ``epochs`` steps of Adam from where they stand; ``states`` [rows, dim], ``targets`` [rows]."""
    weight, points = (part.detach().clone().requires_grad_() for part in (projection, prototypes))
    optimizer = torch.optim.Adam((weight, points), lr=value.learning_rate)
    with torch.enable_grad():
        for _ in range(value.epochs):
            optimizer.zero_grad()
            contrast(states @ weight.T, targets, points).backward()
            optimizer.step()
    return weight.detach(), points.detach()


def contrast(rows: Tensor, targets: Tensor, prototypes: Tensor) -> Tensor:
    """The loss of `ProtoVerb`: rows [rows, d] of classes ``targets`` [rows] against prototypes [classes, d]. A term without pairs is 0."""
    near = cosine(rows, prototypes)
    own = F.one_hot(targets, len(prototypes)).bool()
    of_rows = F.cross_entropy(near, targets)
    strange = near.masked_fill(own, -torch.inf).logsumexp(0)  # rows of other classes, seen from each prototype [classes]
    of_prototypes = share(near, strange.expand_as(near))[own]
    return of_rows + of_prototypes.mean() + of_pairs(F.normalize(rows, dim=-1), targets)


def of_pairs(units: Tensor, targets: Tensor) -> Tensor:
    """The mean over pairs of rows of one class, 0 without any: ``units`` [rows, d] of length one, some rows against all at a time.

    What a block holds is computed again for its gradient, so that never more than `NUMBERS` cosines are held at once.
    """
    pairs = int((targets.bincount() * (targets.bincount() - 1)).sum())
    if not pairs:
        return units.new_zeros(())
    size = max(1, NUMBERS // len(units))
    parts = [checkpoint(_pairs_of, units, targets, at, at + size, **_ANEW) for at in range(0, len(units), size)]
    return torch.stack(parts).sum() / pairs


def _pairs_of(units: Tensor, targets: Tensor, start: int, end: int) -> Tensor:
    """The sum over the pairs that rows ``start`` .. ``end`` stand first in."""
    among = units[start:end] @ units.T
    same = targets[start:end].unsqueeze(1) == targets
    others = among.masked_fill(same, -torch.inf).logsumexp(-1, keepdim=True)
    other = torch.arange(len(units), device=among.device) != torch.arange(start, start + len(among), device=among.device).unsqueeze(1)
    return share(among, others.expand_as(among))[same & other].sum()


def share(mine: Tensor, rest: Tensor) -> Tensor:
    """-log(exp(mine) / (exp(mine) + exp(rest)))."""
    return F.softplus(rest - mine)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """[a, b]."""
    return F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).T


def ensemble(*scores: Tensor) -> Tensor:
    """Mean over scores [rows, classes] of each row's z-scores, by the sample deviation. A row without spread counts as even."""
    return torch.stack([standardized(s) for s in scores]).mean(0)


def standardized(scores: Tensor) -> Tensor:
    """(s - mean) / sample standard deviation of each row."""
    spread = scores.std(-1, keepdim=True)
    centered = scores - scores.mean(-1, keepdim=True)
    return torch.where(spread > 0, centered / spread.clamp(min=torch.finfo(scores.dtype).tiny), torch.zeros_like(scores))
