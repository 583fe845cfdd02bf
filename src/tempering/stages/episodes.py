"""Episodes: a few training rows of a source to adapt on, others of it to be judged on, and the weights that either loop moves."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from tempering.backbone import Backbone
from tempering.batching import close_batches, spare_on
from tempering.contracts import Batch, Prompt, Seeds, Weights
from tempering.dropout import WideAttention
from tempering.errors import DataError, RecipeError
from tempering.learner import Learner
from tempering.registry import name_of
from tempering.stages.kept import Kept, keep_head, keep_tuning
from tempering.stages.setup import assemble, positive_class
from tempering.stages.sources import distinct_names, pooled
from tempering.streams import key_of, numpy_stream, torch_stream
from tempering.tasks.task import Task
from tempering.train.feed import Feed, mass
from tempering.train.meta import Inner, Loss


class Judge(nn.Module):
    """The supervised loss of a learner as a module, so that other weights reach the framing's loss as well as its scores."""

    def __init__(self, learner: Learner) -> None:
        super().__init__()
        self.learner = learner

    def forward(self, batch: Batch) -> Tensor:
        """The loss of ``batch``."""
        loss: Tensor = self.learner.framing.loss(self.learner(batch), batch)
        return loss


@dataclass
class Nursery:
    """The sources of a stage `tempering.stages.prime.Prime`, each as a learner over one copy of the backbone with the tuning attached.

    ``phi`` names the weights of tuning and head, ``moved`` what the inner loop moves, ``outer`` what the outer loop trains. With heads that
    are kept each source has one of its own in ``heads``.
    """

    stage: Any
    tasks: Sequence[Task]
    names: Sequence[str]
    learners: Sequence[Learner]
    seeds: Seeds
    phi: tuple[str, ...]
    moved: tuple[str, ...]
    outer: tuple[str, ...]
    heads: list[Weights] = field(default_factory=list)
    _feeds: list[Feed] = field(default_factory=list)
    _drawn: dict[int, tuple[int, Sequence[Prompt]]] = field(default_factory=dict)

    @classmethod
    def of(cls, stage: Any, backbone: Backbone, tasks: Sequence[Task], seeds: Seeds) -> Nursery:
        """Copy the backbone, attach the tuning, and build a framing for every source."""
        names = distinct_names(tasks)
        whole = pooled(tasks, names, "a head") if stage.heads == "shared" else tasks[0]
        first = assemble(stage, copy.deepcopy(backbone), whole, seeds)
        learners = [first]
        for task in tasks[1:] if stage.heads != "shared" else ():
            with torch_stream(seeds.init, "init", "framing"):
                framing = stage.framing.build(task, first.backbone)
            learners.append(Learner(first.backbone, framing, stage.tuning, {}))
        learners += [first] * (len(tasks) - len(learners))
        phi = tuple(first.trained())
        own = [name for name, _ in first.named_parameters() if _own(first, name)]
        body = tuple(own if stage.inner == "all" else (name for name in own if name not in phi))
        moved = tuple(dict.fromkeys((*body, *phi))) if stage.inner == "all" else phi
        start = (
            [n for n in phi if stage.heads == "shared" or not n.startswith("framing.")] if stage.outer_trains == "body_and_start" else []
        )
        outer = tuple(dict.fromkeys((*body, *start)))
        if not body:
            raise RecipeError(f"tuning {name_of(stage.tuning)[1]} trains all of the body, and nothing is left to prime; set inner: all")
        heads = [_head(learner) for learner in learners] if stage.heads == "kept" else []
        found = cls(stage, tasks, names, learners, seeds, phi, moved, outer, heads)
        found._mark()
        return found

    def _mark(self) -> None:
        """What the outer loop trains requires gradient, and nothing else."""
        for learner in {id(one): one for one in self.learners}.values():
            for name, weight in learner.named_parameters():
                weight.requires_grad_(name in self.outer and (learner is self.learner or name.startswith("backbone.")))

    @property
    def learner(self) -> Learner:
        """The first source's: its weights are those that the outer loop trains."""
        return self.learners[0]

    @property
    def inner(self) -> Inner:
        """The inner loop."""
        return Inner(self.stage.inner_steps, self.stage.inner_learning_rate, self.stage.second_order)

    @property
    def feeds(self) -> list[Feed]:
        """The training rows of every source, rendered once where rendering draws nothing."""
        if not self._feeds:
            for name, task, learner in zip(self.names, self.tasks, self.learners, strict=True):
                if len(task.train) < 2:
                    raise DataError(
                        f"source {name}: {len(task.train)} training row, and an episode needs one to adapt on and another to be judged on;"
                        " add rows, or leave this source out"
                    )
                mine = Seeds(self.seeds.sampling, self.seeds.init, key_of(self.seeds.order, "task", name), self.seeds.dropout)
                self._feeds.append(Feed(learner.framing, task.train.examples, self.stage.loop, mine))
        return self._feeds

    def chosen(self, step: int) -> list[int]:
        """The sources of outer step ``step``: none comes again before all have come."""
        rng, found = numpy_stream(self.seeds.order, "prime", "tasks", step), list[int]()
        while len(found) < self.stage.tasks_per_step:
            found += rng.permutation(len(self.tasks)).tolist()
        return found[: self.stage.tasks_per_step]

    def prompts(self, source: int, epoch: int = 0) -> Sequence[Prompt]:
        """The training prompts of ``source``; those of a framing that draws them are made anew in every epoch."""
        known = self._drawn.get(source)
        if known is None or (known[0] != epoch and self.learners[source].framing.renders_anew):
            known = self._drawn[source] = (epoch, self.feeds[source].prompts(epoch))
        return known[1]

    def epoch(self, step: int) -> int:
        """How often outer steps before ``step`` have gone through as many rows as there are."""
        return step * int(self.stage.per_device_train_batch_size) // sum(len(task.train) for task in self.tasks)

    def rows(self, source: int, count: int, *purpose: object) -> tuple[list[int], list[int]]:
        """(support, query): numbers among ``count`` rows for an episode, none in both. Few rows are shared out in the same proportion."""
        support, query = self.stage.support_rows, self.stage.query_rows
        if count < support + query:
            support = min(max(1, round(count * support / (support + query))), count - 1)
            query = count - support
        order = numpy_stream(self.seeds.order, "prime", "rows", self.names[source], *purpose).permutation(count)
        return order[:support].tolist(), order[support : support + query].tolist()

    def batches(self, source: int, epoch: int, *purpose: object) -> tuple[list[Batch], list[Batch]]:
        """The support and the query rows of an episode, on the device, each in parts of like length: next to no padding is computed."""
        prompts, learner = self.prompts(source, epoch), self.learners[source]
        found: tuple[list[Batch], list[Batch]] = ([], [])
        for part, rows in enumerate(self.rows(source, len(prompts), *purpose)):
            rng = numpy_stream(self.seeds.dropout, "prime", "collate", self.names[source], part, *purpose)
            for cut in self._cuts(learner, [prompts[row] for row in rows]):
                found[part].append(learner.framing.collate([prompts[rows[i]] for i in cut], rng).to(learner.device))
        return found

    def _cuts(self, learner: Learner, prompts: Sequence[Prompt]) -> Sequence[Any]:
        """The numbers of the rows that are computed together; all, where the framing draws for them or compares them."""
        if learner.framing.couples_rows or not learner.framing.deterministic:
            return [range(len(prompts))]
        return close_batches([len(p.input_ids) for p in prompts], len(prompts), spare_on(learner.device))

    def weights(self, source: int, *purpose: object) -> Weights:
        """Body and start of an episode of ``source``, by name: what is drawn anew or kept stands in the place of the common start."""
        body = {name: weight for name, weight in self.learner.named_parameters() if name in self.outer or name in self.moved}
        if self.stage.heads == "fresh":
            return body | self.drawn(source, *purpose)
        return body | (self.heads[source] if self.heads else {})

    def drawn(self, source: int, *purpose: object) -> Weights:
        """A head as it is drawn for one episode."""
        with torch_stream(self.seeds.init, "prime", "head", self.names[source], *purpose):
            module = self.stage.framing.build(self.tasks[source], self.learner.backbone)
        return {f"framing.{name}": w.detach().to(self.learner.device) for name, w in module.named_parameters()}

    def loss(self, source: int, batches: Sequence[Batch], autocast: Any) -> Loss:
        """The loss of ``batches``, the mean over all that is in them, as a function of weights, without dropout."""
        judge = Judge(self.learners[source].eval())
        known = {name for name, _ in judge.named_parameters()}
        whole = sum(mass(batch) for batch in batches)
        shares = [(batch, mass(batch) / whole) for batch in batches if mass(batch)] or [(batches[0], 1.0)]

        def of(weights: Weights) -> Tensor:
            named = {name: weight for n, weight in weights.items() if (name := f"learner.{n}") in known}
            with autocast(), self.kernels():
                losses: list[Tensor] = [functional_call(judge, named, (batch,)) for batch, _ in shares]
            exact = [loss.float() if loss.dtype.itemsize < 4 else loss for loss in losses]  # under autocast
            return torch.stack([share * loss for loss, (_, share) in zip(exact, shares, strict=True)]).sum()

        return of

    def kernels(self) -> Any:
        """Second order needs attention in plain products: the fused kernels have no second derivative."""
        return sdpa_kernel(SDPBackend.MATH) if self.stage.second_order else WideAttention()

    @contextmanager
    def holding(self, source: int, weights: Weights) -> Iterator[Learner]:
        """While open, the learner of ``source`` has ``weights`` in the place of its own."""
        learner = self.learners[source]
        mine = {name: weight for name, weight in learner.named_parameters() if name in weights}
        before = {name: weight.detach().clone() for name, weight in mine.items()}
        with torch.no_grad():
            for name, weight in mine.items():
                weight.copy_(weights[name])
        learner.record.setdefault("positive", positive_class(self.tasks[source]))
        try:
            yield learner
        finally:
            with torch.no_grad():
                for name, weight in mine.items():
                    weight.copy_(before[name])

    @torch.no_grad()
    def bring_back(self, backbone: Backbone) -> None:
        """The trained weights of the body itself, from the copy to ``backbone``."""
        mine = dict(self.learner.backbone.model.named_parameters())
        names = [name.removeprefix("backbone.model.") for name in self.outer if _own(self.learner, name)]
        theirs = dict(backbone.model.named_parameters())
        for name in names:
            theirs[name].copy_(mine[name])

    def kept_head(self) -> Kept:
        """The common start of the head."""
        return keep_head(self.learner, self.stage.framing, pooled(self.tasks, self.names, "a head"))

    def kept_tuning(self) -> Kept:
        """The common start of the tuning."""
        return keep_tuning(self.learner, self.phi, self.tasks[0])


def _own(learner: Learner, name: str) -> bool:
    """Whether ``name`` is a weight of the body itself and not one that the tuning added."""
    return name.startswith("backbone.model.") and name.removeprefix("backbone.model.") in learner.backbone.own


def _head(learner: Learner) -> Weights:
    """The framing's weights, copied."""
    return {f"framing.{name}": weight.detach().clone() for name, weight in learner.framing.named_parameters()}
