"""SURT, re-training on the task's own texts (S6 of the specification): what it reads and changes, and what crosses to the next stage."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from tempering.backbone import Backbone
from tempering.fitting import fit
from tempering.recipe import Recipe
from tempering.stages.setup import Surroundings
from tempering.tasks import Task
from tests.laws.bench import SEEDS, bits, differing
from tests.tiny import save_tiny, tiny_backbone, tiny_task

BODY = "backbone.model."


def first_stage(**settings: Any) -> Any:
    """The re-training of the shipped recipe, short."""
    return dataclasses.replace(Recipe.load("surt").stages[0], **{"min_steps": 0, "max_steps": 4, "learning_rate": 1e-3} | settings)


def body_after(task: Task, **settings: Any) -> dict[str, torch.Tensor]:
    learner = first_stage(**settings).run(tiny_backbone(), task, SEEDS, around=Surroundings())
    return {n: w for n, w in bits(learner).items() if n.startswith(BODY)}


def relabelled(task: Task) -> Task:
    """The same texts with every label another one."""

    def split(found: Any) -> Any:
        other = {label: task.labels[i - 1] for i, label in enumerate(task.labels)}
        return dataclasses.replace(found, examples=tuple(dataclasses.replace(e, label=other[e.label]) for e in found.examples))

    assert task.dev is not None
    return dataclasses.replace(task, train=split(task.train), dev=split(task.dev))


def test_labels_and_development_texts_are_never_read() -> None:
    task = tiny_task(24)
    found = body_after(task)
    assert differing(found, body_after(relabelled(task))) == []
    assert differing(found, body_after(dataclasses.replace(task, dev=None))) == []


def test_nothing_but_its_steps_changes_the_body() -> None:
    """With a rate of next to nothing the body stays as it came, to the last digit that is not zero; with a real one it moves."""
    before = {f"{BODY}{n}": w for n, w in tiny_backbone().model.state_dict().items()}
    still, moved = body_after(tiny_task(24), learning_rate=1e-30), body_after(tiny_task(24))
    assert set(still) == set(before)
    assert all(torch.allclose(still[n], before[n], rtol=0, atol=1e-20) for n in before)
    assert any("layer.0." in n for n in differing(before, moved)) and any("layer.1." in n for n in differing(before, moved))


def test_the_loss_of_held_out_texts_falls() -> None:
    stage = first_stage(max_steps=80, num_train_epochs=4, learning_rate=3e-3, early_stopping_patience=None)
    record = stage.run(tiny_backbone(), tiny_task(80), SEEDS, around=Surroundings()).record["stage"]
    assert record["rows"] == 76  # one text in twenty is held out
    assert record["history"][-1]["loss"] < 0.8 * record["before"]["loss"]


def test_the_head_of_the_task_starts_from_the_re_trained_body(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, met = str(save_tiny("bert", tmp_path / "model")), []
    import tempering.stages.train as module

    real = module.assemble

    def watched(stage: Any, backbone: Backbone, *rest: Any) -> Any:
        met.append({n: w.detach().clone() for n, w in backbone.model.state_dict().items()})
        return real(stage, backbone, *rest)

    monkeypatch.setattr(module, "assemble", watched)
    short = {"stages.0.max_steps": 4, "stages.0.min_steps": 0, "stages.0.learning_rate": 1e-3, "max_steps": 1, "learning_rate": 1e-30}
    learner = fit(Recipe.load("surt").override(short), tiny_task(24), model)
    raw, re_trained = met
    final = {n: w.detach() for n, w in learner.backbone.model.state_dict().items()}
    assert differing(raw, re_trained)
    assert all(torch.allclose(final[n], w, rtol=0, atol=1e-20) for n, w in re_trained.items())
    assert not [n for n in learner.trained() if "lm_head" in n]  # the masked-LM head is trained no more
