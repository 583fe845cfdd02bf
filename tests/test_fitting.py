"""A recipe of several stages, run and killed: each stage starts where the one before it ended, bit for bit."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tempering.backbone import Backbone
from tempering.commands.adapt import held_out
from tempering.contracts import Seeds
from tempering.errors import RecipeError, ResumeError
from tempering.fitting import evaluate, evaluator_of, fit
from tempering.framings.cloze import Cloze
from tempering.framings.demonstrations import Demonstrations
from tempering.framings.head import Head
from tempering.framings.masked_lm import MaskedLM
from tempering.framings.span_head import SpanHead
from tempering.framings.text_to_text import TextToText
from tempering.framings.verbalizers.calibrated import Calibrated
from tempering.framings.verbalizers.proto_verb import ProtoVerb
from tempering.learner import Learner
from tempering.recipe import Recipe
from tempering.stages.train import Train
from tempering.tasks import Task
from tempering.train.evaluate import Evaluator
from tempering.train.progress import Event
from tempering.tunings.lora import LoRA
from tempering.tunings.truncate import Truncate
from tests.framings.test_span_head import silent_task
from tests.laws.bench import bits, dev, differing
from tests.tiny import tiny_backbone, tiny_task

QUICK: dict[str, Any] = {"max_steps": 2, "num_train_epochs": 1, "per_device_train_batch_size": 8, "learning_rate": 1e-2, "warmup_steps": 0}
SAVING: dict[str, Any] = QUICK | {"save_strategy": "steps", "save_steps": 1}
PRETEXT = Train(framing=MaskedLM(), text="unlabeled", **SAVING)
RECIPES = {
    "tapt-lora": Recipe("a", (PRETEXT, Train(tuning=LoRA(r=2), **SAVING))),
    "dapt-tapt-full": Recipe("b", (PRETEXT, Train(framing=MaskedLM(0.3), text="unlabeled", **SAVING), Train(**SAVING))),
    "lora-lora": Recipe("c", (Train(tuning=LoRA(r=2), **SAVING), Train(tuning=LoRA(r=3), **SAVING))),
    "shorter": Recipe("d", (Train(tuning=Truncate(k=1, where="bottom"), **SAVING), Train(tuning=LoRA(r=2), **SAVING))),
}


class KilledError(Exception):
    """Stands for a kill."""


def _fit(recipe: Recipe, folder: Path | None = None, kill: int = 0, family: str = "bert", seed: int = 0, resume: bool = True) -> Learner:
    """A run that dies at its ``kill``-th step (0: never)."""
    steps = iter(range(1, 1000))

    def listener(event: Event) -> None:
        if event["event"] == "step" and next(steps) == kill:
            raise KilledError

    return fit(recipe, tiny_task(24), tiny_backbone(family), seed=seed, output_dir=folder, resume=resume, listener=listener)


@pytest.mark.parametrize("name", RECIPES)
def test_a_kill_in_any_stage_leaves_no_trace(name: str, tmp_path: Path) -> None:
    recipe = RECIPES[name]
    unbroken = _fit(recipe)
    for kill in (2, 3, 2 * len(recipe.stages)):  # the last step of the first stage, the first of the second, the last of all
        with pytest.raises(KilledError):
            _fit(recipe, tmp_path / f"at-{kill}", kill)
        resumed = _fit(recipe, tmp_path / f"at-{kill}")
        assert differing(bits(unbroken), bits(resumed)) == []
        assert resumed.predictions(dev()) == unbroken.predictions(dev())
        assert resumed.record["metrics"] == unbroken.record["metrics"]
        assert resumed.backbone.changed and resumed.backbone.base_fingerprint == unbroken.backbone.base_fingerprint


def test_embeddings_that_stand_in_two_places_cross_a_stage(tmp_path: Path) -> None:
    recipe = RECIPES["lora-lora"]
    with pytest.raises(KilledError):
        _fit(recipe, tmp_path, kill=3, family="t5")
    assert differing(bits(_fit(recipe, family="t5")), bits(_fit(recipe, tmp_path, family="t5"))) == []


@pytest.mark.parametrize("spoil", [lambda state: state.pop("model.pooler.dense.bias"), lambda state: state.update(odd=torch.zeros(1))])
def test_what_does_not_fit_the_model_is_not_gone_on_from(spoil: Callable[[dict[str, torch.Tensor]], Any], tmp_path: Path) -> None:
    with pytest.raises(KilledError):
        _fit(RECIPES["lora-lora"], tmp_path, kill=3)
    done = tmp_path / "checkpoints/stage-0/backbone.safetensors"
    with safe_open(done, framework="pt") as file:
        said = file.metadata()
    state = load_file(done)
    spoil(state)
    save_file(state, done, said)
    with pytest.raises(ResumeError, match=r"does not fit tiny-bert here \((model.pooler.dense.bias|odd)\); .* start it anew"):
        _fit(RECIPES["lora-lora"], tmp_path)


def test_what_another_run_left_in_the_folder_is_not_taken_for_ours(tmp_path: Path) -> None:
    recipe = RECIPES["tapt-lora"]
    _fit(recipe, tmp_path, seed=1)
    with pytest.raises(KilledError):
        _fit(recipe, tmp_path, kill=2, resume=False)  # starts anew and dies in its first stage
    assert differing(bits(_fit(recipe)), bits(_fit(recipe, tmp_path))) == []


def test_a_resume_of_another_run_is_refused_also_between_stages(tmp_path: Path) -> None:
    with pytest.raises(KilledError):
        _fit(RECIPES["tapt-lora"], tmp_path, kill=3, seed=1)  # its first stage is whole, its second left no checkpoint
    with pytest.raises(ResumeError, match="another seeds"):
        _fit(RECIPES["tapt-lora"], tmp_path)


def test_a_resume_on_other_weights_under_the_same_name_is_refused(tmp_path: Path) -> None:
    recipe = RECIPES["tapt-lora"]
    for kill, place in ((2, tmp_path / "first"), (3, tmp_path / "second")):  # a checkpoint of the first stage; the first stage whole
        with pytest.raises(KilledError):
            _fit(recipe, place, kill)
        other = tiny_backbone(seed=1)
        assert other.source == tiny_backbone().source
        with pytest.raises(ResumeError, match=r"another model \('tiny-bert with weights .*now 'tiny-bert with weights .*--output-dir"):
            fit(recipe, tiny_task(24), other, output_dir=place, resume=True)
        assert differing(bits(_fit(recipe)), bits(_fit(recipe, place))) == []  # and the run itself still goes on


def test_the_weights_are_hashed_for_runs_that_keep_checkpoints_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    whole = Backbone.fingerprint

    def counted(self: Backbone) -> str:
        asked.append(self.changed)
        return whole(self)

    monkeypatch.setattr(Backbone, "fingerprint", counted)
    recipe = Recipe("full", (Train(**QUICK),))
    fit(recipe, tiny_task(24), tiny_backbone())
    without = len(asked)
    fit(recipe, tiny_task(24), tiny_backbone(), output_dir=tmp_path)
    assert without == 1 and len(asked) == 3  # once more for the identity, before anything is trained


def test_the_first_stage_matters_and_its_labels_are_not_read() -> None:
    recipe = RECIPES["tapt-lora"]
    alone = Recipe("alone", recipe.stages[1:])
    assert differing(bits(_fit(recipe)), bits(_fit(alone))) != []


def test_the_record_says_how_the_learner_came_about() -> None:
    told: list[Event] = []
    learner = fit(RECIPES["tapt-lora"], tiny_task(24), tiny_backbone(), seeds=Seeds.of(3), metrics=("f1",), listener=told.append)
    record = learner.record
    assert Recipe.from_plain(record["recipe"]) == RECIPES["tapt-lora"] and record["recipe_key"] == RECIPES["tapt-lora"].key()
    assert record["rows"] == {"train": 24, "dev": 12} and set(record["metrics"]) == {"dev"} and "f1" in record["metrics"]["dev"]
    assert record["trained_parameters"] == sum(w.numel() for w in learner.trained().values())
    assert 0 < record["train_seconds"] <= record["seconds"] and record["peak_memory"] > 1e6
    assert [e["text"][:12] for e in told if e["event"] == "note" and e["text"].startswith("stage")] == ["stage 1 of 2", "stage 2 of 2"]


@pytest.mark.parametrize(("kept", "wanted"), [(True, 2.0), (False, 5.0)])
def test_the_loss_of_a_framing_that_predicts_nothing_is_that_of_the_weights_it_leaves(kept: bool, wanted: float) -> None:
    history = [{"step": step, "loss": loss} for step, loss in ((1, 3.0), (2, 2.0), (3, 5.0))]
    learner = Learner(tiny_backbone(), torch.nn.Module(), LoRA(), {"framing": MaskedLM()})
    learner.record["stage"] = {"history": history, "best_step": 2, "best_kept": kept, "before": {"loss": 4.0}}
    assert evaluate(learner, tiny_task()) == {"dev": {"loss": wanted}}
    assert held_out(learner)["after"]["loss"] == wanted
    learner.record["stage"]["history"] = []
    assert evaluate(learner, tiny_task()) == held_out(learner) == {}


def test_a_recipe_that_cannot_work_is_refused_before_the_model_is_looked_for() -> None:
    with pytest.raises(RecipeError, match="needs labels"):
        fit(Recipe("x", (Train(text="unlabeled"),)), tiny_task(24), "/nowhere/at/all")


def test_auto_says_what_it_chose() -> None:
    learner = fit("auto", tiny_task(24), tiny_backbone(), metrics=())
    assert learner.record["recipe"]["name"] == "head" and "24 training rows are few" in learner.record["notes"][0]


@pytest.mark.parametrize("recipe", ["in-context", "full"])
def test_the_final_evaluation_reads_as_many_rows_at_once_as_the_stage_says(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    scored = Learner.score

    def score(self: Learner, prompts: Any, batch_size: int = 64, features: Any = None) -> Any:
        sizes.append(batch_size)
        return scored(self, prompts, batch_size, features)

    monkeypatch.setattr(Learner, "score", score)
    task = tiny_task()
    task = dataclasses.replace(task, test=task.dev)
    quick = {"max_steps": 1, "min_steps": 0, "num_train_epochs": 1} if recipe == "full" else {"framing.shots": 1}
    made = Recipe.load(recipe).override({"per_device_eval_batch_size": 5} | quick)
    fit(made, task, tiny_backbone("gpt2"))
    assert sizes and set(sizes) == {5}


CLOZE = Cloze("{text} it was {mask}", words={"bad": "awful", "good": "great"})
LATE: dict[str, Any] = {
    "prototypes": dataclasses.replace(CLOZE, verbalizer=ProtoVerb(d=8)),
    "a prior": dataclasses.replace(CLOZE, verbalizer=Calibrated(when="after", rows=6)),
    "what is alike": Demonstrations(CLOZE, filter=0.5, contexts=2),
}


@pytest.mark.parametrize("framing", LATE.values(), ids=LATE)
def test_dev_metrics_are_those_of_the_model_that_is_returned(framing: Any) -> None:
    task = tiny_task(24)
    learner = fit(Recipe("late", (Train(framing=framing, **QUICK | {"learning_rate": 3e-3}),)), task, tiny_backbone())
    assert learner.record["stage"]["best_kept"] and learner.record["stage"]["finished"]
    assert learner.record["metrics"]["dev"] == evaluator_of(learner, task, task.dev)(learner)[0]
    best = next(h for h in learner.record["stage"]["history"] if h["step"] == learner.record["stage"]["best_step"])
    assert {name: value for name, value in best.items() if name != "step"} != learner.record["metrics"]["dev"]


@pytest.mark.parametrize("framing", [CLOZE, Head()], ids=["cloze", "head"])
def test_a_framing_with_nothing_left_to_learn_is_not_evaluated_again(framing: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Learner] = []
    judged = Evaluator.__call__
    monkeypatch.setattr(Evaluator, "__call__", lambda self, learner: (calls.append(learner), judged(self, learner))[1])
    learner = fit(Recipe("plain", (Train(framing=framing, **QUICK),)), tiny_task(24), tiny_backbone())
    assert "finished" not in learner.record["stage"] and len(calls) == len(learner.record["stage"]["history"]) > 0


SETTLED: dict[str, tuple[Any, Task, str, int]] = {
    "sets": (Head(), tiny_task(24, "multilabel"), "bert", 1),
    "sets that are written": (TextToText(words={"long": "very"}), tiny_task(24, "multilabel"), "t5", 0),
    "questions": (SpanHead(), silent_task(), "bert", 1),
    "questions that all have answers": (SpanHead(), tiny_task(24, "question_answering"), "bert", 0),
}


@pytest.mark.parametrize(("framing", "task", "family", "further"), SETTLED.values(), ids=SETTLED)
def test_thresholds_cost_one_more_pass_over_the_development_rows(
    framing: Any, task: Task, family: str, further: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And none where there are no thresholds; the metrics are those of the learner that is returned, to the bit."""
    passes: list[str] = []
    scores, mean_loss = Evaluator.scores, Learner.mean_loss
    monkeypatch.setattr(Evaluator, "scores", lambda self, learner: (passes.append("scores"), scores(self, learner))[1])
    monkeypatch.setattr(Learner, "mean_loss", lambda self, *given: (passes.append("loss"), mean_loss(self, *given))[1])
    learner = fit(Recipe("settled", (Train(framing=framing, **QUICK),)), task, tiny_backbone(family))
    assert len(passes) == len(learner.record["stage"]["history"]) + further > 0
    assert learner.record["metrics"]["dev"] == evaluator_of(learner, task, task.dev)(learner)[0]
