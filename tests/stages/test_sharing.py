"""What several processes cannot share is refused before the first stage, and what is refused could not have been shared."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tempering.contracts import Seeds
from tempering.errors import RecipeError
from tempering.fitting import fit
from tempering.framings.pairs import Pairs
from tempering.recipe import Recipe
from tempering.stages.prime import Prime
from tempering.stages.setup import assemble
from tempering.stages.sharing import check_shared
from tempering.stages.train import Train
from tempering.train.feed import Feed
from tests.tiny import tiny_backbone, tiny_task

FIRST = Train(framing="masked_lm", text="unlabeled", max_steps=1, min_steps=0, warmup_steps=0)
UNSHARED: dict[str, tuple[Any, str]] = {
    "prime": (Prime(sources=("a.jsonl",)), "prime draws episodes"),
    "contrastive": (Train(framing="contrastive", text="unlabeled"), "contrastive compares the rows of a batch"),
    "infonce": (Train(framing=Pairs(loss="infonce")), "pairs with loss infonce compares the rows of a batch"),
    "supcon": (Train(stabilizers=["supcon"]), "supcon compares the rows of a batch"),
    "mmr": (Train(stabilizers=["mmr"]), "mmr compares the rows of a batch"),
}


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a launcher tells the processes that it starts."""
    monkeypatch.setenv("WORLD_SIZE", "2")


@pytest.mark.usefixtures("two")
@pytest.mark.parametrize("case", UNSHARED)
def test_what_processes_cannot_share_is_refused_at_once(case: str) -> None:
    stage, said = UNSHARED[case]
    with pytest.raises(RecipeError, match=rf"stages.1: {said}, so that processes cannot share it, and 2 were started"):
        check_shared((FIRST, stage, Train()))


@pytest.mark.usefixtures("two")
def test_it_is_refused_before_an_earlier_stage_has_trained() -> None:
    told: list[dict[str, Any]] = []
    with pytest.raises(RecipeError, match=r"stages.1: pairs with loss infonce"):
        fit(Recipe("r", (FIRST, Train(framing=Pairs(loss="infonce")), Train())), tiny_task(16), tiny_backbone(), listener=told.append)
    assert not [event for event in told if event["event"] == "step"]


def test_one_process_trains_everything_and_two_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    check_shared([stage for stage, _ in UNSHARED.values()])
    monkeypatch.setenv("WORLD_SIZE", "2")
    check_shared((FIRST, Train(framing=Pairs()), Train(framing="demonstrations")))
    check_shared((Train(framing="cloze", stabilizers=["r_drop", {"supcon": {"weight": 0.0}}]),))
    check_shared((*Recipe.load("multi-task").stages, *Recipe.load("setfit").stages))


@pytest.mark.parametrize("case", ["contrastive", "infonce"])
def test_what_is_refused_could_not_have_been_shared(case: str) -> None:
    stage, _ = UNSHARED[case]
    task, seeds = tiny_task(16), Seeds.of(0)
    learner = assemble(stage, tiny_backbone(), task, seeds)
    learner.framing.prepare(learner, task.train.examples, np.random.default_rng(0))
    with pytest.raises(RecipeError, match="run it in one process"):
        Feed(learner.framing, task.train.examples, stage, seeds, world=2).micro(0)
