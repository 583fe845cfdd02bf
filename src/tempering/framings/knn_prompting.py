"""kNN-prompting: labelled rows that do not fit the context vote through what the model would say after them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import ConfigDict, Field, field_validator
from pydantic.dataclasses import dataclass
from torch import Tensor

from tempering.contracts import Batch, Example, Scores, Slab
from tempering.errors import RecipeError
from tempering.framings.asked.drawing import prompt_length
from tempering.framings.asked.first_token import first_states
from tempering.framings.asked.left_to_right import log_probabilities
from tempering.framings.asked.prompt_text import paired
from tempering.framings.asked.prompted import PromptedModule
from tempering.framings.gaps.label_words import labels_of
from tempering.framings.losses import supervised_loss

if TYPE_CHECKING:
    from tempering.backbone import Backbone
    from tempering.learner import Learner

FLOOR = 1e-4  # the share of the votes of a class without any
FAR = 1e4  # nats: an anchor so far away has no vote
ALL_BUT = 1 - 1e-6  # the most that a few tokens may add up to: rounding to halves can push them over 1


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class KNNPrompting:
    """Compares what the model would say after a query with what it would say after labelled rows, and takes the nearest ones' label.

    *Paper*: Xu et al. 2023. *Formula*: some rows are demonstrations, the others anchors; a_i [vocabulary] is the distribution of the
    first answer token after demonstrations + anchor i, p the same after the query; distance D_i = KL(a_i || p); the label is that of the
    majority of the k smallest, the nearest deciding ties. Class probabilities are shares of the votes.
    *Needs*: a causal language model, or one with a mask token; no label words beyond those shown in the demonstrations.
    *Costs*: one forward pass a row, anchors included; anchors x ``top_tokens`` (or the vocabulary) halves in memory and on disk.
    *Differs*: distances are sums and not means over the vocabulary (the same order); in log space, where the reference's log of zero is
    not a number. With ``top_tokens`` only each anchor's likeliest tokens are kept and all others count as one event. In a training stage
    the vote is soft (log sum of exp(-D_i) over a class), since a majority has no gradient, and a row that is an anchor has no vote on
    itself; anchors are measured before and after.
    """

    template: str | None = None
    words: Any = ()
    shots: Annotated[int, Field(ge=0)] = 1
    per_class: bool = True
    anchors: Annotated[int, Field(ge=1)] | None = 1024
    k: Annotated[int, Field(ge=1)] = 3
    vote: Literal["majority", "soft"] = "majority"
    top_tokens: Annotated[int, Field(ge=1)] | None = None
    instruction: str | None = None
    separator: str = "\n\n"
    max_length: Annotated[int, Field(ge=4)] | None = None
    cache: bool = True

    supervised: ClassVar[bool] = True
    works_untrained: ClassVar[bool] = True

    @field_validator("words", mode="before")
    @classmethod
    def _hashable(cls, given: Any) -> Any:
        """Label words as pairs, since a mapping does not hash."""
        return paired(given)

    @property
    def named(self) -> tuple[Any, ...]:
        """The labels it names words for: they stand for those of the data where there is none. Empty where it names none."""
        return labels_of(self.words, None)

    def build(self, task: Any, backbone: Backbone) -> KNNPromptingModule:
        """The module for this task and backbone."""
        return KNNPromptingModule(self, task, backbone)


class KNNPromptingModule(PromptedModule):
    """`KNNPrompting` at run time. Buffers: ``anchor_logp`` [anchors, tokens] in half precision, ``anchor_ids`` of the same shape where
    only the likeliest tokens are kept, and ``anchor_labels`` [anchors].
    """

    method: ClassVar[str] = "knn_prompting"
    smooths = True

    def __init__(self, value: KNNPrompting, task: Any, backbone: Backbone) -> None:
        super().__init__(value, task, backbone)
        self.given = value
        self.anchors: tuple[Example, ...] = ()  # while there are training rows
        self._numbers: dict[tuple[int, ...], list[int]] = {}  # of the anchors, by what is read of them
        self._make_room(0, 0)

    def _make_room(self, anchors: int, tokens: int) -> None:
        device = self.bias.device
        self.register_buffer("anchor_logp", torch.zeros(anchors, tokens, dtype=torch.float16, device=device))
        self.register_buffer("anchor_labels", torch.zeros(anchors, dtype=torch.int64, device=device))
        if self.given.top_tokens is not None:
            self.register_buffer("anchor_ids", torch.zeros(anchors, tokens, dtype=torch.int32, device=device))

    def _choose(self, learner: Learner, examples: Sequence[Example], rng: np.random.Generator) -> None:
        chosen = self.draw(examples, rng) if self.given.shots else ()
        rest = [i for i in rng.permutation(len(examples)) if int(i) not in set(chosen)]
        self.pool = tuple(examples[i] for i in chosen)
        self.contexts = [tuple(range(len(chosen)))]
        kept = [examples[int(i)] for i in sorted(rest[: self.given.anchors])]
        if len(kept) < self.given.k:
            raise RecipeError(
                f"knn_prompting: k={self.given.k} neighbors of {len(kept)} anchors ({len(examples)} training rows, {len(chosen)} of them"
                " shown); give a smaller k, fewer shots, or more rows"
            )
        self._measure(learner, kept)

    def finish(self, learner: Learner, examples: Sequence[Example], rng: np.random.Generator) -> None:
        """Measure the anchors again where a stage has changed the model."""
        if any(w.requires_grad for w in learner.backbone.parameters()):
            self._measure(learner, self.anchors)

    def _measure(self, learner: Learner, anchors: Sequence[Example]) -> None:
        """The distributions after the anchors, in their order."""
        self.anchors = tuple(anchors)
        prompts = [found[0] for found in self.render(anchors, (), np.random.default_rng(0))]
        self._numbers = {}
        for i, prompt in enumerate(prompts):
            self._numbers.setdefault(tuple(prompt.input_ids), []).append(i)
        parts = learner.evaluated(prompts, 64, lambda batch, _: self._kept(self._logp(learner.backbone, batch.to(learner.device))))
        order = torch.from_numpy(np.argsort(np.concatenate([rows for rows, _ in parts])))
        logp, ids = (torch.cat(found)[order] for found in zip(*(part for _, part in parts), strict=True))
        self._make_room(*logp.shape)
        self.get_buffer("anchor_logp").copy_(logp)
        self.get_buffer("anchor_labels").copy_(torch.tensor([self._target(e.label) for e in anchors]))
        if self.given.top_tokens is not None:
            self.get_buffer("anchor_ids").copy_(ids)

    def _kept(self, logp: Tensor) -> tuple[Tensor, Tensor]:
        top = self.given.top_tokens
        if top is None:
            return logp.half().cpu(), torch.zeros(len(logp), 0)
        values, ids = logp.topk(min(top, logp.shape[-1]), -1)
        return values.half().cpu(), ids.int().cpu()

    def _logp(self, backbone: Backbone, batch: Batch) -> Tensor:
        cached = batch.inputs.get("features")
        return log_probabilities(backbone, self.trunk(backbone, batch) if cached is None else cached)

    def trunk(self, backbone: Backbone, batch: Batch) -> Tensor:
        """The last states [rows, dim] that predict the first token of the answer."""
        return first_states(self, backbone, batch)

    def length_hint(self, lengths: Sequence[int], limit: int) -> int:
        """Tokens of the longest prompt for rows of ``lengths`` (none known: ``limit`` each), all its demonstrations counted."""
        return prompt_length(self, lengths or (limit,))

    def trunk_key(self) -> str:
        """Everything that prompts depend on."""
        return f"knn_prompting {self.state_text()}"

    def scores(self, backbone: Backbone, batch: Batch) -> Scores:
        """One slab: log shares of the votes [1, rows, classes]; distances to the anchors as features."""
        ids = self.get_buffer("anchor_ids") if self.given.top_tokens is not None else None
        distances = divergences(self.get_buffer("anchor_logp"), self._logp(backbone, batch), ids)
        labels = self.get_buffer("anchor_labels")
        soft = distances if not self.training else distances.masked_fill(self._themselves(batch, distances), FAR)
        if torch.is_grad_enabled() or self.given.vote == "soft":
            columns = [(-soft[:, labels == c]).logsumexp(-1) for c in range(len(self.labels))]
            logits = torch.stack(columns, -1).clamp_min(np.log(FLOOR) + columns_max(columns))
        else:
            logits = votes(distances, labels, self.given.k, len(self.labels))
        logits = logits + self.bias
        return Scores((Slab(logits[None], batch.targets, batch.weights, distances, self.kind, batch.task),))

    def _themselves(self, batch: Batch, distances: Tensor) -> Tensor:
        """Which of the ``distances`` [rows, anchors] are a row's to itself."""
        found = torch.zeros_like(distances, dtype=torch.bool)
        for row, asked in enumerate(batch.extra["asked"]):
            found[row, self._numbers.get(tuple(asked.ids), [])] = True
        return found

    def loss(self, scores: Scores, batch: Batch) -> Tensor:
        """Cross entropy of the shares."""
        return supervised_loss(scores.only, self.smoothing if self.training else 0.0)

    def keep(self) -> dict[str, Any]:
        """What all such framings keep, and the shape of the anchors."""
        return super().keep() | {"anchors": list(self.get_buffer("anchor_logp").shape)}

    def recall(self, kept: dict[str, Any]) -> None:
        """Take them back; the anchors themselves come with the weights."""
        super().recall(kept)
        self._make_room(*kept["anchors"])


def divergences(anchors: Tensor, logp: Tensor, ids: Tensor | None = None) -> Tensor:
    """KL(anchor || row) in nats: [rows, anchors], from log-probabilities [anchors, tokens] and [rows, vocabulary].

    With ``ids`` [anchors, tokens] the anchors are known at those tokens only, and all others are one event, of both.
    """
    a = anchors.float()
    p = a.exp()
    if ids is None:
        return (p * a).sum(-1) - logp @ p.T
    rest = torch.log1p(-p.sum(-1).clamp(max=ALL_BUT))
    found = []
    for row in logp:  # one at a time: [anchors, tokens] is as large as the anchors themselves
        theirs = row[ids.long()]
        other = torch.log1p(-theirs.exp().sum(-1).clamp(max=ALL_BUT))
        found.append((p * (a - theirs)).sum(-1) + rest.exp() * (rest - other))
    return torch.stack(found)


def votes(distances: Tensor, labels: Tensor, k: int, classes: int) -> Tensor:
    """log of the share of the k nearest anchors in each class [rows, classes]; among equals the class of the nearer ones leads."""
    near, which = distances.topk(min(k, distances.shape[1]), -1, largest=False)
    cast = torch.nn.functional.one_hot(labels[which], classes).float()
    rank = torch.arange(1, cast.shape[1] + 1, device=cast.device)[:, None]
    ahead = (cast * 0.5**rank).sum(1) * FLOOR  # less than a vote, whatever k
    return ((cast.sum(1) + ahead) / near.shape[1] + FLOOR).log().log_softmax(-1)


def columns_max(columns: Sequence[Tensor]) -> Tensor:
    """The largest of the classes' scores [rows, 1]: what a class without anchors is measured by."""
    return torch.stack(list(columns), -1).amax(-1, keepdim=True)
