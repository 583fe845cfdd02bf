"""What the laws measure with: one short run of a stage on a tiny model, and everything that may differ between two of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from tempering.contracts import Example, Seeds
from tempering.errors import ModelError, RecipeError
from tempering.learner import Learner
from tempering.recipe import Recipe
from tempering.stages.setup import Surroundings, assemble
from tempering.stages.train import Train
from tempering.tunings.full import Full
from tests.laws.settings import family_of
from tests.tiny import tiny_backbone, tiny_task

ROWS, STEPS, SEEDS = 24, 4, Seeds.of(0)
STAGE = Train(
    max_steps=STEPS,
    num_train_epochs=1,
    per_device_train_batch_size=8,
    learning_rate=1e-2,
    warmup_steps=0,
    weight_decay=0.1,
    load_best_model_at_end=False,
)
NOWHERE = Surroundings()


def stage_of(tuning: Any = Full(), stabilizers: Sequence[Any] = (), framing: Any = None, stage: Train = STAGE) -> Train:  # noqa: B008
    """``stage`` with other methods."""
    chosen = {"tuning": tuning, "stabilizers": tuple(stabilizers)} | ({} if framing is None else {"framing": framing})
    return dataclasses.replace(stage, **chosen)


def kind_of(framing: Any) -> str:
    """The kind of task that the laws put a framing to: the first it serves."""
    return str(getattr(framing, "kinds", ("classification",))[0])


def run(stage: Train, family: str = "", kind: str | None = None, around: Surroundings = NOWHERE, seeds: Seeds = SEEDS) -> Learner:
    """The learner that ``stage`` makes of a tiny model and task."""
    backbone, task = tiny_backbone(family or family_of(stage.framing)), tiny_task(ROWS, kind or kind_of(stage.framing))
    return stage.run(backbone, task, seeds, around=around)


def untrained(stage: Train, family: str = "bert", kind: str = "classification") -> Learner:
    """The learner as it stands before the first step."""
    return assemble(stage, tiny_backbone(family), tiny_task(ROWS, kind), SEEDS)


def tier(names: Sequence[str], core: Sequence[str]) -> Any:
    """The marker of a combination: with more than one name outside ``core`` it is left to the slow tests, which walk the whole product."""
    return pytest.mark.slow if len([n for n in names if n not in core]) > 1 else ()


def serves(tuning: Any, family: str) -> bool:
    """Whether ``tuning`` can serve ``family``; what it cannot it refuses, which the law of families holds it to."""
    try:
        tuning.count(tiny_backbone(family))
    except ModelError:
        return False
    return True


def losses(stage: Train) -> list[float]:
    """The training loss of every step."""
    told: list[dict[str, Any]] = []
    run(stage, around=Surroundings(listener=told.append))
    return [event["loss"] for event in told if event["event"] == "step"]


def bits(learner: Learner) -> dict[str, torch.Tensor]:
    """Every weight and buffer, copied."""
    return {name: tensor.detach().clone() for name, tensor in learner.state_dict().items()}


def differing(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> list[str]:
    """Names of tensors that are not bitwise equal, or are in one only."""
    return sorted(n for n in a.keys() | b.keys() if n not in a or n not in b or not torch.equal(a[n], b[n]))


def dev(kind: str = "classification") -> tuple[Example, ...]:
    """The development rows of the tiny task."""
    return tuple(tiny_task(ROWS, kind).dev.examples)


def logits(learner: Learner, examples: Sequence[Example]) -> torch.Tensor:
    """Evaluation-mode logits [heads, rows, classes] of ``examples``."""
    import numpy as np

    prompts = [found[0] for found in learner.framing.render(examples, (), np.random.default_rng(0))]
    return learner.score(prompts).only.logits


def refusal(stage: Train) -> str:
    """Why the recipe check refuses ``stage``; empty if it does not."""
    try:
        Recipe("law", (stage,)).check()
    except RecipeError as error:
        return str(error)
    return ""
