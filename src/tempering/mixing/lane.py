"""One task's own run inside mixed training: its feed, its optimizer, its schedule, its evaluations, its best weights."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tempering.contracts import Batch, Scores, Slab, Weights
from tempering.errors import CollapseError
from tempering.learner import Learner
from tempering.passes import Passes
from tempering.train import checkpoint, hooks, optimizer
from tempering.train.device import Place
from tempering.train.feed import Feed, mass
from tempering.train.fit import Plan, Run, assign, evaluate_and_keep, supervised
from tempering.train.refresh import Refresh
from tempering.train.schedule import factor


@dataclass
class Lane:
    """What `tempering.train.fit.fit` does for one learner, cut where the forward and the backward pass are made with other tasks'.

    A lane gives its next micro-batch (`take`), turns the scores into its share of the loss (`loss`), and after the backward pass
    (`settle`) steps its own optimizer if that was the last micro-batch of its step. While it has no rows in a batch, nothing of it
    moves: an optimizer over all tasks would move idle ones on their momentum.
    """

    name: str
    learner: Learner
    feed: Feed
    plan: Plan
    where: Place
    run: Run = field(default_factory=Run)
    _best: Weights = field(default_factory=dict)
    _waiting: list[Batch] = field(default_factory=list)
    _mass: float = 0.0  # of all rows of this step
    _micro: int = 0  # micro-batches of this step taken so far
    _loss: float = 0.0

    def __post_init__(self) -> None:
        settings = self.plan.settings
        self.trained, self.kept = self.learner.trained(), self.learner.kept()
        self.learner.steps = self.steps = settings.total_steps(self.feed.rows)
        self._folded = hooks.start(self.plan.stabilizers, self.learner, self.trained, self.plan.seed, self.plan.prepared)
        framing = self.learner.framing
        self._optimizer = optimizer.make(self.trained, settings, per_weight=self._folded.rates, undecayed=framing.undecayed)
        self._refresh = Refresh(self.learner, self.feed, self.plan, self._folded, self.trained, self._optimizer, self.steps)
        marks = settings.marks(settings.eval_strategy, settings.eval_steps, self.steps)
        self._evaluate_at = marks if self.plan.evaluator else frozenset()
        self._save_at = settings.marks(settings.save_strategy, settings.save_steps, self.steps)

    @property
    def done(self) -> bool:
        """All steps taken, or patience spent."""
        return self.run.step >= self.steps or self.run.stopped

    @property
    def micro_batches(self) -> int:
        """About how many micro-batches the whole run has."""
        return self.steps * self.plan.settings.gradient_accumulation_steps

    @property
    def share(self) -> float:
        """How much of the run is behind it, in [0, 1]."""
        inside = self._micro / max(1, self._micro + len(self._waiting))
        return (self.run.step + inside) / self.steps

    def peek(self) -> Batch:
        """The next micro-batch."""
        if not self._waiting:
            self._refresh(self.run)
            self._begin(0, 0.0)
        return self._waiting[0]

    def _begin(self, micro: int, loss: float) -> None:
        """Make the micro-batches of this step, of which the first ``micro`` have been seen already."""
        self._waiting = self.feed.micro(self.run.step)
        self._mass, self._micro, self._loss = sum(mass(b) for b in self._waiting), micro, loss
        del self._waiting[:micro]

    def take(self) -> Batch:
        """The next micro-batch, on the device; it counts as made."""
        batch = self.peek()
        self._waiting.pop(0)
        self._micro += 1
        if not self.learner.training:  # an evaluation came before
            self.learner.train()
        return batch.to(self.where.device) if self.where.device.type != "cpu" else batch

    def loss(self, slab: Slab, batch: Batch) -> Tensor:
        """This micro-batch's share of its step's loss. A term that asks for further passes gets passes of this task alone."""
        key = (self.plan.seed, self.run.step, self._micro - 1, self.where.rank)
        passes = Passes(self.learner, batch, self.trained, key, device=self.where.device, autocast=self.where.autocast, made=1)
        passes._students[0] = Scores((slab,))
        part = self._folded.loss(passes, supervised) * (mass(batch) / self._mass)
        self._loss += float(part.detach())
        self.run.passes += passes.made
        return part

    def settle(self) -> None:
        """After the backward pass: step if the step's micro-batches have all been seen, and evaluate where it is time to."""
        if self._waiting:
            return
        settings, step = self.plan.settings, self.run.step
        if not math.isfinite(self._loss):
            raise CollapseError(
                f"task {self.name}: the loss became {self._loss} in step {step + 1} of {self.steps};"
                f" lower learning_rate (now {settings.learning_rate:g})"
            )
        self._folded.scale_gradients(self.trained)
        scale = factor(settings.lr_scheduler_type, step, self.steps, settings.warmup(self.steps), settings.lr_scheduler_power)
        optimizer.set_rates(self._optimizer, self._folded, scale, step / self.steps)
        optimizer.clip(self.trained.values(), settings.max_grad_norm)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._folded.after_step(self.trained)
        self.run.step += 1
        self._micro = 0
        told = {"task": self.name, "step": self.run.step, "total": self.steps}
        self.plan.listener({"event": "step", **told, "loss": self._loss, "learning_rate": settings.learning_rate * scale})
        if self.run.step in self._evaluate_at:
            self._best = evaluate_and_keep(self.learner, self.plan, self._folded, self.kept, self.run, self._best, self.steps, self.where)

    @property
    def at_mark(self) -> bool:
        """Whether it stands where its settings ask for a checkpoint."""
        return not self._waiting and bool(self._save_at) and (self.run.step in self._save_at or self.run.stopped)

    def state(self) -> dict[str, Any]:
        """Where it stands, JSON-ready, also in the middle of a step: how many of its micro-batches were seen, and their loss."""
        return vars(self.run) | {"open": bool(self._waiting), "micro": self._micro, "loss": self._loss}

    def tensors(self) -> dict[str, Weights]:
        """What a single run's checkpoint holds of it, and the gradients that a step has gathered so far."""
        gathered = {name: weight.grad for name, weight in self.trained.items() if weight.grad is not None}
        optimized = checkpoint.optimizer_tensors(self._optimizer)
        return {
            "weights": self.kept,
            "optimizer": optimized,
            "stabilizers": self._folded.save(),
            "best": self._best,
            "gradients": gathered,
        }

    def restore(self, tensors: dict[str, Weights], state: dict[str, Any]) -> None:
        """Stand where `state` and `tensors` were taken. A step that had begun there was refreshed before, and is not again."""
        assign(self.kept, tensors["weights"])
        checkpoint.restore_optimizer(self._optimizer, tensors["optimizer"])
        self._folded.restore(tensors["stabilizers"])
        self._best = {name: value.to(self.kept[name].device) for name, value in tensors["best"].items()}
        self.run = Run(**{name: value for name, value in state.items() if name in Run.__dataclass_fields__})
        for name, value in tensors["gradients"].items():
            self.trained[name].grad = value.to(self.trained[name].device)
        self._micro = state["micro"]
        if state["open"]:
            self._begin(state["micro"], state["loss"])

    @torch.no_grad()
    def finish(self) -> None:
        """Put the best (or final) weights in place."""
        best = self._best if self.plan.settings.load_best_model_at_end else {}
        assign(self.kept, best or (self._folded.final() if self._folded.final else {}))
        self.learner.eval()


def leading(lanes: list[Lane]) -> Lane:
    """The longest run of ``lanes``: the others keep to its pace."""
    return max(lanes, key=lambda lane: lane.micro_batches)


def due(lanes: list[Lane], rows: int) -> list[Lane]:
    """The lanes that take part in the next batch of at most ``rows`` rows: those that are not ahead of the longest run.

    So all end together, and a task of a tenth of the rows has rows in every tenth batch. Those furthest behind come first.
    """
    pace = leading(lanes).share
    behind = sorted((lane for lane in lanes if lane.share <= pace), key=lambda lane: lane.share)
    chosen, count = behind[:1], len(behind[0].peek())
    for lane in behind[1:]:
        count += len(lane.peek())
        if count > rows:
            break
        chosen.append(lane)
    return chosen
