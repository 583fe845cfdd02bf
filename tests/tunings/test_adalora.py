"""AdaLoRA: PEFT's budget, scores and penalty as the oracle, step for step; the published count."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import peft
import pytest
import torch
from peft.tuners.adalora.layer import RankAllocator
from pydantic import ValidationError

from tempering.contracts import Hooks
from tempering.errors import ModelError, RecipeError
from tempering.tunings.adalora import AdaLoRA
from tempering.tunings.budget import Schedule, keep
from tests.laws.bench import run, stage_of, untrained
from tests.tiny import tiny_backbone
from tests.tunings.oracle import attached, check_against_peft, check_count, stir

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
TARGETS = ["query", "value"]


def test_the_published_count() -> None:
    check_count(AdaLoRA(), "bert-base", 442_656)
    check_count(AdaLoRA(), "roberta-base", 442_656)


def test_the_formula() -> None:
    backbone = attached(AdaLoRA(target_r=2, init_r=4, lora_alpha=6))
    stir(backbone)
    layer = backbone.model.encoder.layer[0].attention.self.query
    x, t = torch.randn(3, 32, generator=torch.Generator().manual_seed(0)), layer.adalora
    expected = x @ layer.weight.T + layer.bias + 6 / 4.00001 * x @ t.A.T @ torch.diag(t.E[:, 0]) @ t.B.T
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_peft_is_the_oracle_of_scores_and_files(family: str, tmp_path: Path) -> None:
    check_against_peft(AdaLoRA(target_r=2, init_r=4, target_modules=("query", "ffn_in")), family, tmp_path)


def _peer(steps: int, **fields: Any) -> Any:
    config = peft.AdaLoraConfig(init_r=4, target_r=2, total_step=steps, target_modules=TARGETS, **fields)
    return peft.get_peft_model(tiny_backbone().model, config)


@pytest.mark.parametrize(("tinit", "tfinal", "delta"), [(0, 0, 1), (3, 4, 1), (2, 5, 3)])
def test_the_budget_is_that_of_peft(tinit: int, tfinal: int, delta: int) -> None:
    steps, first, last = 20, 16, 8
    mine = Schedule.of(first, last, tinit, tfinal, delta, steps)
    fields = SimpleNamespace(tinit=tinit, tfinal=tfinal, deltaT=delta, total_step=steps)
    theirs = SimpleNamespace(peft_config=fields, init_bgt=first, target_bgt=last)
    for step in range(1, steps + 1):
        budget, masked = RankAllocator.budget_schedule(theirs, step)  # type: ignore[arg-type]
        cut = step == steps - tfinal or (masked and step < steps - tfinal)
        assert mine.budget(step) == (budget if cut else None)


def test_shares_of_the_run() -> None:
    assert Schedule.of(16, 8, 0.1, 0.5, 1, 40)[2:4] == (4, 20)
    with pytest.raises(RecipeError, match="tinit 3 and tfinal 7 leave none of the run's 10 steps"):
        Schedule.of(16, 8, 3, 7, 1, 10)


def _start(learner: Any, tuning: AdaLoRA, steps: int) -> Hooks:
    learner.steps = steps
    return tuning.start(learner, learner.trained(), 0)


@pytest.mark.parametrize(("tinit", "tfinal"), [(0, 0), (2, 3)])
def test_masks_are_those_of_peft_step_for_step(tinit: int, tfinal: int) -> None:
    """Both sides get the same weights and gradients at every step; what is cut must be the same."""
    steps, tuning = 10, AdaLoRA(target_r=2, init_r=4, tinit=tinit, tfinal=tfinal)
    learner, peer = untrained(stage_of(tuning)), _peer(steps, tinit=tinit, tfinal=tfinal)
    found = _start(learner, tuning, steps)
    mine = {n: w for n, w in learner.trained().items() if ".adalora." in n}
    theirs = {n: dict(peer.named_parameters())[_peft_name(n)] for n in mine}
    draw, cuts = torch.Generator().manual_seed(0), []
    assert found.gradient is not None and found.after_step is not None
    for step in range(1, steps + 1):
        for name, weight in mine.items():
            with torch.no_grad():
                weight.add_(0.1 * torch.randn(weight.shape, generator=draw))
                theirs[name].copy_(weight)
            theirs[name].grad = torch.randn(weight.shape, generator=draw)
            assert found.gradient(name, theirs[name].grad.clone()) == 1.0
        found.after_step(learner.trained())
        peer.base_model.update_and_allocate(step)
        assert all(torch.equal(weight, theirs[name]) for name, weight in mine.items())
        cuts.append(sum(int((weight == 0).sum()) for name, weight in mine.items() if name.endswith(".E")))
    assert cuts[-1] == 8 and cuts == sorted(cuts) and (tinit == 0 or cuts[1] == 0)


def _peft_name(name: str) -> str:
    path, _, weight = name.removeprefix("backbone.model.").rpartition(".adalora.")
    return f"base_model.model.{path}.lora_{weight}.default"


def test_the_penalty_is_that_of_peft() -> None:
    tuning = AdaLoRA(target_r=2, init_r=4, orth_reg_weight=0.3)
    learner = untrained(stage_of(tuning))
    stir(learner.backbone)
    grams = []
    for name, w in learner.trained().items():
        if name.endswith((".adalora.A", ".adalora.B")):
            gram = w @ w.T if name.endswith("A") else w.T @ w
            grams.append((gram - torch.eye(4)).square().sum().sqrt())
    found = _start(learner, tuning, 10)
    assert found.term is not None and len(grams) == 8
    torch.testing.assert_close(found.term(None), 0.3 * sum(grams) / 8)  # type: ignore[arg-type]
    assert _start(learner, AdaLoRA(target_r=2, init_r=4, orth_reg_weight=0.0), 10).term is None


def test_the_highest_scores_stay_over_all_maps() -> None:
    masks = keep({"a": torch.tensor([5.0, 1.0]), "b": torch.tensor([2.0, 4.0])}, 2)
    assert masks["a"].flatten().tolist() == [1, 0] and masks["b"].flatten().tolist() == [0, 1]
    assert keep({"a": torch.tensor([5.0, 1.0])}, 2)["a"].all()


def test_a_run_ends_at_the_budget_with_its_mask() -> None:
    learner = run(stage_of(AdaLoRA(target_r=1, init_r=3, tfinal=1)))
    modules = [m for m in learner.modules() if type(m).__name__ == "Triplets"]
    assert sum(int(m.mask.sum()) for m in modules) == len(modules) == 4
    assert all(bool((m.E[m.mask == 0] == 0).all()) for m in modules)


def test_bad_use_is_refused() -> None:
    with pytest.raises(ValidationError, match="target_r 9 is more than init_r 4"):
        AdaLoRA(target_r=9, init_r=4)
    with pytest.raises(ModelError, match="adalora: r = 33 is more than the 32"):
        AdaLoRA(init_r=33).attach(tiny_backbone())
    with pytest.raises(RecipeError, match="train longer"):
        run(stage_of(AdaLoRA(target_r=1, init_r=3, tinit=2, tfinal=2)))
