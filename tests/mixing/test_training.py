"""Mixed training is separate training: same steps, same scores, nothing moves without rows; refusals; records and folders."""

from __future__ import annotations

import copy
import dataclasses
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import tempering
from tempering.contracts import Seeds
from tempering.errors import CollapseError, MemoryShort, RecipeError
from tempering.fitting import evaluator_of, fit
from tempering.framings.cloze import Cloze
from tempering.framings.head import Head
from tempering.framings.verbalizers.proto_verb import ProtoVerb
from tempering.learner import Learner
from tempering.mixing import training
from tempering.mixing.lane import Lane, due
from tempering.mixing.learner import MixedLearner
from tempering.mixing.training import fit_many
from tempering.recipe import Recipe
from tempering.stabilizers.layer_decay import LayerDecay
from tempering.stabilizers.mixout import Mixout
from tempering.stabilizers.r_drop import RDrop
from tempering.stages.train import Train
from tempering.tunings.bitfit import BitFit
from tempering.tunings.frozen import Frozen
from tempering.tunings.full import Full
from tempering.tunings.houlsby import Houlsby
from tempering.tunings.ia3 import IA3
from tempering.tunings.lora import LoRA
from tempering.tunings.parallel import Parallel
from tempering.tunings.pfeiffer import Pfeiffer
from tempering.tunings.prefix_tuning import PrefixTuning
from tempering.tunings.prompt_tuning import PromptTuning
from tests.laws.bench import dev, logits
from tests.tiny import save_tiny, tiny_backbone, tiny_task

QUICK = Train(max_steps=5, per_device_train_batch_size=6, learning_rate=1e-2, head_learning_rate=3e-3, weight_decay=0.1, eval_steps=2)


def recipe(tuning: Any, **given: Any) -> Recipe:
    return Recipe("test", (dataclasses.replace(QUICK, tuning=tuning, **({"framing": Head(dropout=0.0)} | given)),))


def still(family: str = "bert") -> Any:
    """A backbone without dropout: what is trained in one batch can then be compared with what is trained alone."""
    backbone = tiny_backbone(family)
    for module in backbone.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return backbone


RECIPES = {
    "lora-4": recipe(LoRA(r=4)),
    "lora-8": recipe(LoRA(r=8, loraplus_lr_ratio=4.0), max_steps=9, gradient_accumulation_steps=3, per_device_train_batch_size=2),
    "houlsby": recipe(Houlsby(m=4), lr_scheduler_type="cosine", max_grad_norm=0.05),
    "bitfit": recipe(BitFit(), max_steps=2, class_weights="balanced", stabilizers=(LayerDecay(0.8),)),
    "ia3": recipe(IA3(), eval_strategy="steps", early_stopping_patience=1, max_steps=8),
    "prefix": recipe(PrefixTuning(p=2, m=4)),
    "prompt": recipe(PromptTuning(p=2, init="labels")),
    "frozen": recipe(Frozen()),
    "full": recipe(Full(), learning_rate=1e-4, max_steps=3),
    "drop": recipe(LoRA(r=2), stabilizers=(RDrop(0.7),)),
    "pfeiffer": recipe(Pfeiffer(reduction=4)),
    "parallel": recipe(Parallel(m=4, s="learned")),
    "several": recipe((LoRA(r=2), Houlsby(m=4), IA3())),
    "cloze": recipe(LoRA(r=3), framing=Cloze("{text} it was {mask} .", words=("bad", "good"))),
    "cloze-adapter": recipe(Pfeiffer(reduction=8), framing=Cloze("it is {mask} : {text}", words=("poor", "fine"))),
}
TASKS = {name: tiny_task(18 + 3 * i, "regression" if name == "lora-8" else "classification", seed=i) for i, name in enumerate(RECIPES)}


FAST = {"bert": set(RECIPES) - {"pfeiffer", "parallel", "several", "cloze-adapter"}, "roberta": {"lora-4", "several"}}
PAIRS = [pytest.param(f, name, marks=() if name in fast else pytest.mark.slow) for f, fast in FAST.items() for name in RECIPES]


@cache
def trained(family: str) -> MixedLearner:
    """All tasks trained in one batch, some of them under a prompt. BERT's head is one map, RoBERTa's a dense layer and another map."""
    return fit_many(TASKS, RECIPES, still(family), seed=3, rows_per_batch=40)


@pytest.fixture(scope="module")
def together() -> MixedLearner:
    return trained("bert")


@pytest.mark.parametrize(("family", "name"), PAIRS)
def test_mixed_training_scores_as_separate_training(family: str, name: str) -> None:
    together, alone = trained(family), fit(RECIPES[name], TASKS[name], still(family), seed=3)
    rows = dev(TASKS[name].kind)
    torch.testing.assert_close(logits(together[name], rows), logits(alone, rows), rtol=1e-5, atol=1e-5)
    mine, theirs = together[name].record, alone.record
    assert mine["stage"]["steps"] == theirs["stage"]["steps"] and mine["stage"]["best_step"] == theirs["stage"]["best_step"]
    assert set(mine) == set(theirs) and set(mine["stage"]) == set(theirs["stage"])
    assert mine["trained_parameters"] == theirs["trained_parameters"] and mine["total_parameters"] == theirs["total_parameters"]
    assert mine["metrics"]["dev"] == pytest.approx(theirs["metrics"]["dev"], abs=1e-4)


@pytest.mark.parametrize("family", FAST)
def test_only_a_body_of_its_own_runs_apart(family: str) -> None:
    together = trained(family)
    assert list(together.apart) == ["full"] and not together.training
    heads = [framing for framing in (learner.framing for learner in together.learners) if hasattr(framing, "dense")]
    assert len(heads) == len(RECIPES) - 2 and all((head.dense is not None) == (family == "roberta") for head in heads)


def test_a_separate_run_of_other_seeds_scores_otherwise(together: MixedLearner) -> None:
    other = fit(RECIPES["lora-4"], TASKS["lora-4"], still(), seed=4)
    assert float((logits(together["lora-4"], dev()) - logits(other, dev())).abs().max()) > 1e-3


def _lane(mixed: MixedLearner, name: str, recipe: Recipe, rows: int = 12) -> Lane:
    task = tiny_task(rows)
    job = training.Job(task, recipe, ())
    lane, _ = training._lane(mixed, name, job, Seeds.of(0), training.Surroundings(), training.place(job.stage))
    return lane


def _step(mixed: MixedLearner, lanes: list[Lane]) -> None:
    batches = {lane.name: lane.take() for lane in lanes}
    slabs = mixed(batches).slabs
    torch.stack([lane.loss(slab, batches[lane.name]) for lane, slab in zip(lanes, slabs, strict=True)]).sum().backward()


def _moved(before: dict[str, torch.Tensor], learner: Learner) -> float:
    return max(float((before[n] - w.detach()).abs().max()) for n, w in learner.trained().items())


def _copied(learner: Learner) -> dict[str, torch.Tensor]:
    return {n: w.detach().clone() for n, w in learner.trained().items()}


def _two() -> tuple[MixedLearner, list[Lane]]:
    mixed = MixedLearner(still())
    return mixed, [_lane(mixed, name, recipe(LoRA(r=2), warmup_steps=0)) for name in "ab"]


def test_a_task_without_rows_does_not_move_at_all() -> None:
    mixed, (a, b) = _two()
    for lanes in ([a, b], [a]):
        before = {lane.name: _copied(lane.learner) for lane in (a, b)}
        _step(mixed, lanes)
        for lane in lanes:
            lane.settle()
        assert _moved(before["a"], a.learner) > 1e-4
        assert (_moved(before["b"], b.learner) == 0.0) == (b not in lanes)


def test_one_optimizer_over_all_tasks_would_move_it() -> None:
    mixed, (a, b) = _two()
    weights = [w for lane in (a, b) for w in lane.trained.values()]
    naive = torch.optim.AdamW(weights, lr=1e-2)
    _step(mixed, [a, b])
    naive.step()
    naive.zero_grad(set_to_none=False)
    before = _copied(b.learner)
    _step(mixed, [a])
    naive.step()
    assert _moved(before, b.learner) > 1e-3


def test_gradients_wait_for_all_micro_batches_of_their_step() -> None:
    mixed = MixedLearner(still())
    lanes = [_lane(mixed, "a", recipe(LoRA(r=2), warmup_steps=0, gradient_accumulation_steps=2, per_device_train_batch_size=3))]
    before = _copied(lanes[0].learner)
    for moved, step in ((False, 0), (True, 1)):
        _step(mixed, lanes)
        lanes[0].settle()
        assert (_moved(before, lanes[0].learner) > 0) == moved and lanes[0].run.step == step


class _Standing(Lane):
    """A lane that only counts."""

    def __init__(self, name: str, steps: int, rows: int) -> None:
        self.name, self.steps, self.rows, self.taken = name, steps, rows, 0

    done = property(lambda self: self.taken >= self.steps)
    share = property(lambda self: self.taken / self.steps)
    micro_batches = property(lambda self: self.steps)

    def peek(self) -> Any:
        return range(self.rows)


@pytest.mark.parametrize("limit", [1000, 40, 8])
def test_all_tasks_end_together_and_batches_keep_to_their_size(limit: int) -> None:
    lanes: list[Any] = [_Standing(str(i), steps, 8) for i, steps in enumerate((40, 20, 20, 10, 4))]
    sizes, spread = [], 0.0
    while live := [lane for lane in lanes if not lane.done]:
        chosen = due(live, limit)
        for lane in chosen:
            lane.taken += 1
        sizes.append(8 * len(chosen))
        spread = max(spread, max(lane.share for lane in lanes) - min(lane.share for lane in lanes))
    assert max(sizes) <= max(8, limit) and [lane.taken for lane in lanes] == [40, 20, 20, 10, 4]
    assert spread <= 0.26  # a step of the shortest run is a quarter of it
    assert len(sizes) == (40 if limit > 16 else 94)


def test_every_task_is_saved_as_its_own_ordinary_folder(tmp_path: Path) -> None:
    base = save_tiny("bert", tmp_path / "base")
    chosen = {"lora": recipe(LoRA(r=2)), "adapter": recipe(Houlsby(m=2)), "biases": recipe(BitFit())}
    mixed = fit_many({name: tiny_task(12) for name in chosen}, chosen, str(base))
    paths = mixed.save_pretrained(tmp_path / "many")
    for name, path in paths.items():
        fit(chosen[name], tiny_task(12), str(base)).save_pretrained(tmp_path / "one" / name)
        assert {p.name for p in path.iterdir()} == {p.name for p in (tmp_path / "one" / name).iterdir()}
        assert torch.equal(logits(tempering.load(path), dev()), logits(mixed[name], dev()))
    assert (paths["lora"] / "adapter_model.safetensors").exists() and (paths["adapter"] / "delta.safetensors").exists()


def test_the_given_backbone_is_not_changed() -> None:
    backbone = tiny_backbone()
    before = copy.deepcopy(backbone.state_dict())
    fit_many({"a": tiny_task(12)}, recipe(BitFit()), backbone)
    assert all(torch.equal(before[n], t) for n, t in backbone.state_dict().items())
    assert all(w.requires_grad for w in backbone.parameters())


@pytest.mark.parametrize(
    ("recipes", "message"),
    [
        ({"b": recipe(LoRA())}, "task a: no recipe is given for it"),
        (recipe(Full(), stabilizers=(Mixout(0.3),)), "task a: mixout needs forward passes of this task alone"),
        (recipe(LoRA(), gradient_checkpointing=True), "gradient_checkpointing needs forward passes"),
        ("tapt-lora", "task a: tapt.lora has 2 stages"),
    ],
)
def test_what_cannot_be_mixed_is_refused_before_training(recipes: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        fit_many({"a": tiny_task(12)}, recipes, tiny_backbone())


def test_unlike_precisions_and_no_tasks_are_refused() -> None:
    with pytest.raises(RecipeError, match="bf16 differs between the tasks"):
        fit_many({n: tiny_task(12) for n in "ab"}, {"a": recipe(LoRA(), bf16=True), "b": recipe(LoRA())}, tiny_backbone())
    with pytest.raises(RecipeError, match="there is no task to train"):
        fit_many({}, recipe(LoRA()), tiny_backbone())


def test_a_task_that_collapses_is_named() -> None:
    _, (a, _) = _two()
    a._loss, a._waiting = float("nan"), []
    with pytest.raises(CollapseError, match=r"task a: the loss became nan in step 1 of 5"):
        a.settle()


def test_listeners_hear_of_every_task_and_of_those_apart() -> None:
    heard: list[dict[str, Any]] = []
    chosen = {"a": recipe(LoRA(r=2), max_steps=2), "b": recipe(Full(), max_steps=1)}
    fit_many({n: tiny_task(12) for n in "ab"}, chosen, tiny_backbone(), listener=heard.append)
    assert [(e["task"], e["step"], e["total"]) for e in heard if e["event"] == "step"] == [("a", 1, 2), ("b", 1, 1), ("a", 2, 2)]
    assert any("b runs in passes of its own" in e["text"] for e in heard if e["event"] == "note")


def test_too_little_memory_is_said_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def short(*_: Any) -> None:
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(MixedLearner, "forward", short)
    with pytest.raises(MemoryShort, match=r"in a batch of a, b; lower rows_per_batch \(now 99\)"):
        fit_many({n: tiny_task(12) for n in "ab"}, recipe(LoRA(r=2)), tiny_backbone(), rows_per_batch=99)


def test_dev_metrics_are_those_of_the_learner_that_is_returned() -> None:
    late = Cloze("{text} it was {mask}", words={"bad": "awful", "good": "great"}, verbalizer=ProtoVerb(d=8))
    task = tiny_task(24)
    found = fit_many({"late": task}, recipe(LoRA(r=2), framing=late), tiny_backbone())
    learner = found["late"]
    assert learner.record["stage"]["best_kept"] and learner.record["stage"]["finished"]
    assert learner.record["metrics"]["dev"] == evaluator_of(learner, task, task.dev)(learner)[0]
