"""What a tuning learns of the task before training: right gradients, other weights, and no trace left behind."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from tempering.backbone import Backbone
from tempering.contracts import Hooks, Probe, Weights
from tempering.learner import Learner
from tempering.registry import METHODS
from tempering.stages.setup import Surroundings
from tempering.tunings.attach import Added, freeze
from tempering.tunings.full import Full
from tests.laws.bench import bits, differing, run, stage_of

SEEN: dict[str, Any] = {}


class Choice(Added):
    """State that a tuning chooses from the data: one number a run."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(1))
        self.register_buffer("chosen", torch.zeros(1))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))


@dataclass(frozen=True)
class Curious:
    """A tuning that looks before it trains: scales the embeddings by 1 + scale, and counts its steps."""

    trunk_eval: ClassVar[bool] = False
    trains_pretrained: ClassVar[bool] = False
    trains_backbone: ClassVar[bool] = True
    identity: ClassVar[Literal["exact", "near", "no"]] = "exact"
    merges: ClassVar[bool] = False
    neutral: ClassVar[bool] = False
    touches: ClassVar[tuple[str, ...]] = ("after_step",)

    def attach(self, backbone: Backbone) -> None:
        freeze(backbone)
        layer = backbone.embeddings
        layer.add_module("curious", Choice())
        layer.register_forward_hook(lambda m, _a, out: out * (1 + m.curious.scale + 0 * m.curious.chosen))

    def count(self, backbone: Backbone) -> int:
        return 1

    def prepare(self, learner: Learner, probe: Probe) -> None:
        SEEN["prepared"] = SEEN.get("prepared", 0) + 1
        SEEN["gradients"] = list(probe.gradients(rows=3))
        learner.backbone.embeddings.curious.chosen.fill_(7.0)

    def start(self, learner: Learner, trained: Weights, seed: int) -> Hooks:
        SEEN["steps"] = learner.steps

        def count(_: Weights) -> None:
            learner.backbone.embeddings.curious.steps.add_(1)

        return Hooks(after_step=count)


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS["tuning"], "curious", f"{__name__}:Curious")
    SEEN.clear()


def test_a_tuning_prepares_once_and_acts_on_every_step() -> None:
    learner = run(stage_of(Curious()))
    state = learner.backbone.embeddings.curious
    assert (SEEN["prepared"], SEEN["steps"]) == (1, 4)
    assert (float(state.chosen), int(state.steps)) == (7.0, 4)


def test_gradients_are_those_of_the_loss_by_the_whole_body() -> None:
    run(stage_of(Curious()))
    found: list[dict[str, Tensor]] = SEEN["gradients"]
    assert len(found) == 3
    names = set(found[0])
    assert all(n.startswith("backbone.model.") and "curious" not in n for n in names)
    assert any(n.endswith("query.weight") for n in names)
    table = "backbone.model.embeddings.word_embeddings.weight"
    assert not torch.equal(found[0][table], found[1][table])


def test_looking_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = bits(run(stage_of(Curious())))
    monkeypatch.setattr(Curious, "prepare", lambda self, learner, probe: learner.backbone.embeddings.curious.chosen.fill_(7.0))
    assert not differing(looked, bits(run(stage_of(Curious()))))


def test_fine_tuned_gives_other_weights_and_keeps_these(monkeypatch: pytest.MonkeyPatch) -> None:
    def prepare(self: Curious, learner: Learner, probe: Probe) -> None:
        before = bits(learner)
        SEEN["tuned"] = probe.fine_tuned(Full(), num_train_epochs=1)
        assert not differing(before, bits(learner))
        SEEN["start"] = before

    monkeypatch.setattr(Curious, "prepare", prepare)
    run(stage_of(Curious()))
    tuned: Weights = SEEN["tuned"]
    start: Weights = SEEN["start"]
    assert not [n for n in tuned if n.startswith("framing.")]
    assert all(not torch.equal(w, start[n]) for n, w in tuned.items() if n.endswith("query.weight"))
    plain = run(stage_of(Full()))
    assert set(tuned) == {n for n in plain.trained() if n.startswith("backbone.")}


def test_what_was_chosen_survives_a_resume(tmp_path: Path) -> None:
    def stop_at_two(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == 3:
            raise KeyboardInterrupt

    stage = dataclasses.replace(stage_of(Curious()), save_strategy="steps", save_steps=1)
    whole = bits(run(stage, around=Surroundings(folder=tmp_path / "a")))
    with pytest.raises(KeyboardInterrupt):
        run(stage, around=Surroundings(folder=tmp_path / "b", listener=stop_at_two))
    prepared = SEEN["prepared"]
    again = run(stage, around=Surroundings(folder=tmp_path / "b", resume=True))
    assert SEEN["prepared"] == prepared, "a resumed run must not choose again"
    assert not differing(whole, bits(again))
