"""The stage that solves for a head over frozen vectors instead of stepping toward it: logistic or ridge regression."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from tempering.backbone import Backbone
from tempering.cache import TrunkCache
from tempering.contracts import Prompt, Seeds
from tempering.errors import DataError, RecipeError
from tempering.framings.head import Head
from tempering.learner import Learner
from tempering.registry import name_of
from tempering.stages.setup import Surroundings, assemble, evaluator_of, metric_of, rows_of, tell_notes
from tempering.stages.stepless import Stepless
from tempering.train.device import place
from tempering.train.evaluate import fit_thresholds, telling
from tempering.train.feed import balanced_weights
from tempering.train.settings import Loop

Array = NDArray[np.float64]
_NO_STEPS = Loop()
ABSENT = 30.0  # how far below the lowest known logit that of a class without rows stands
MOST = 10_000  # iterations: the optimum is unique, and what stops short of it would hang on the solver
CLOSE = 1e-8  # the largest gradient left at it


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class ClosedForm(Stepless):
    """Fits the head's last linear map on the vectors of a frozen model exactly, in one go, as the second half of SetFit does.

    *Paper*: Tunstall et al. 2022 (SetFit). *Formula*: with x [rows, dim] what the head's last map reads, without dropout, ``logistic``
    minimizes |W|^2 / 2 + C sum of the cross entropies (two classes share one vector w; sets of labels have one problem a label);
    ``ridge`` minimizes |W|^2 + C sum of |y - W x - b|^2, where y is the standardized value, or one-hot over classes. b is free.
    *Needs*: framing head without layers of its own below the map (``pool: mean``, or a family whose head is the map alone).
    *Costs*: the model runs once over the rows. *Differs*: scikit-learn solves, to 1e-8 and not to its own 1e-4. A class without training
    rows gets no weights and a chance of nearly 0. What is fitted is the head's own weight, so that it is saved and exported like any other.
    """

    framing: Any = Field(default_factory=lambda: Head(pool="mean"))
    head: Literal["logistic", "ridge"] = "logistic"
    C: Annotated[float, Field(gt=0)] = 1.0
    class_weights: Literal["none", "balanced"] = "none"
    per_device_eval_batch_size: Annotated[int, Field(gt=0)] = 64

    cached: ClassVar[bool] = True
    why_not_cached: ClassVar[str] = ""

    def check(self, where: str, last: bool) -> list[str]:
        """Refuse another framing than a head, and a place where what is fitted would be left behind."""
        if not isinstance(self.framing, Head):
            raise RecipeError(
                f"{where}: closed_form fits the last linear map of framing head, found {name_of(self.framing)[1]}; use framing head, or a"
                " stage train"
            )
        if not last:
            raise RecipeError(f"{where}: closed_form changes nothing but its head, which stays behind here; make it the last stage")
        return []

    def run(self, backbone: Backbone, task: Any, seeds: Seeds, **context: Any) -> Learner:
        """The learner with its head fitted on the training rows. ``context`` holds a `Surroundings`."""
        around: Surroundings = context.get("around") or Surroundings()
        metric_of(self, task, around.metrics)
        examples, held_out = rows_of(self, task, seeds)
        self._refuse(task)
        learner = assemble(self, backbone, task, seeds).to(place(_NO_STEPS).device)
        _refuse_layers(learner)
        tell_notes(learner, around)
        prompts = [found[0] for found in learner.framing.render(examples, (), np.random.default_rng(0))]
        if not prompts:
            raise DataError("closed_form: expected labelled training rows, found none; give some")
        facts = self._fit(learner, prompts, around)
        evaluator = evaluator_of(self, task, held_out, around)
        if evaluator is not None:
            fit_thresholds(learner, evaluator)
        learner.record["stage"] = self.account(len(examples), facts)
        return learner.eval()

    def _refuse(self, task: Any) -> None:
        """A sentence for kinds of task that the chosen regression cannot serve."""
        if task.kind not in ("classification", "multilabel", "regression"):
            raise RecipeError(f"closed_form cannot serve a task of kind {task.kind!r}: it fits one vector a text; use a stage train")
        if self.head == "logistic" and task.kind == "regression":
            raise RecipeError("closed_form.head=logistic fits classes, and this task has values; set head: ridge")
        if self.class_weights != "none" and task.kind != "classification":
            raise RecipeError(f"class_weights {self.class_weights!r} weighs a row by its one class, and these rows have none; leave it out")

    def _fit(self, learner: Learner, prompts: Sequence[Prompt], around: Surroundings) -> dict[str, float]:
        """Solve, and write the solution into the head; what is worth telling of it."""
        size = self.per_device_eval_batch_size
        with telling(learner, around.listener):
            trunk = (around.cache or TrunkCache()).features(learner, prompts, size)
            slab = learner.score(prompts, size, trunk).only
        assert slab.features is not None and slab.targets is not None  # a head has both of labelled rows
        x, y = slab.features.double().numpy(), slab.targets.double().numpy()
        final = learner.framing.final
        solve = _logistic if self.head == "logistic" else _ridge
        weight, bias = solve(x, y, learner.framing, self.C, final.bias is not None, self.class_weights == "balanced")
        _write(learner, weight, bias)
        return {
            "norm": float(np.linalg.norm(weight)),
            "training_loss": float(learner.framing.loss(learner.score(prompts, size, trunk), None)),
        }


def _refuse_layers(learner: Learner) -> None:
    """Refuse a head whose own random layer would stay as drawn below the fitted map."""
    if learner.framing.dense is not None:
        body = learner.backbone
        raise RecipeError(
            f"closed_form fits the last linear map alone, and the head of {body.source} ({body.layout.family}) has a dense layer below it"
            " that would stay as it was drawn; set framing.pool: mean"
        )


@torch.no_grad()
def _write(learner: Learner, weight: Array, bias: Array) -> None:
    """``weight`` [classes, dim] and ``bias`` [classes] into each of the heads."""
    final, heads = learner.framing.final, learner.framing.heads
    final.weight.copy_(_like(np.tile(weight, (heads, 1)), final.weight))
    if final.bias is not None:
        final.bias.copy_(_like(np.tile(bias, heads), final.bias))


def _like(values: Array, tensor: Tensor) -> Tensor:
    return torch.from_numpy(values).to(tensor)


def _logistic(x: Array, y: Array, framing: Any, c: float, intercept: bool, balanced: bool) -> tuple[Array, Array]:
    """(weight [classes, dim], bias [classes]) of logistic regression on ``y``: class numbers, or 0 and 1 for each label."""
    if framing.kind == "multilabel":
        parts = [_binary(x, column, c, intercept) for column in y.T]
        return np.stack([w for w, _ in parts]), np.array([b for _, b in parts])
    present = np.unique(y).astype(int)
    weight, bias = np.zeros((framing.classes, x.shape[1])), np.zeros(framing.classes)
    if len(present) > 1:
        found = _solved(x, y, c, intercept, balanced)
        w, b = found.coef_, np.broadcast_to(found.intercept_, len(found.coef_))
        if len(present) == 2:  # sigmoid(w x + b) is a softmax over -+ (w x + b) / 2
            w, b = np.concatenate([-w, w]) / 2, np.concatenate([-b, b]) / 2
        weight[present], bias[present] = w, b
    absent = np.setdiff1d(np.arange(framing.classes), present)
    bias[absent] = (x @ weight[present].T + bias[present]).min() - ABSENT
    return weight, bias


def _binary(x: Array, y: Array, c: float, intercept: bool) -> tuple[Array, float]:
    """(w, b) of one label; of one that all rows share, or none has, the certain answer."""
    if len(np.unique(y)) < 2:
        return np.zeros(x.shape[1]), ABSENT if y[0] else -ABSENT
    found = _solved(x, y, c, intercept, False)
    return found.coef_[0], float(np.ravel(found.intercept_)[0]) if intercept else 0.0


def _solved(x: Array, y: Array, c: float, intercept: bool, balanced: bool) -> Any:
    from sklearn.linear_model import LogisticRegression

    solver = LogisticRegression(C=c, fit_intercept=intercept, tol=CLOSE, max_iter=MOST, class_weight="balanced" if balanced else None)
    return solver.fit(x, y)


def _ridge(x: Array, y: Array, framing: Any, c: float, intercept: bool, balanced: bool) -> tuple[Array, Array]:
    """The same of least squares, by the normal equations of whichever is fewer, rows or dimensions."""
    targets = np.eye(framing.classes)[y.astype(int)] if framing.kind == "classification" else y.reshape(len(y), -1)
    rows: Array = np.ones(len(x))
    if balanced and framing.kind == "classification":
        rows = balanced_weights(y.astype(int).tolist())
    center, middle = (rows @ v / rows.sum() if intercept else np.zeros(v.shape[1]) for v in (x, targets))
    root = np.sqrt(rows)[:, None]
    a, b = (x - center) * root, (targets - middle) * root
    if len(a) < a.shape[1]:
        weight = np.linalg.solve(a @ a.T + np.eye(len(a)) / c, b).T @ a
    else:
        weight = np.linalg.solve(a.T @ a + np.eye(a.shape[1]) / c, a.T @ b).T
    return weight, middle - weight @ center
