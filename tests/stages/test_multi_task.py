"""The stage that trains on several tasks at once."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import tempering
from tempering.backbone import Backbone
from tempering.contracts import Example, Seeds
from tempering.errors import DataError, RecipeError
from tempering.fitting import evaluator_of, fit
from tempering.framings.cloze import Cloze
from tempering.framings.head import Head
from tempering.framings.masked_lm import MaskedLM
from tempering.framings.prototypes import Prototypes
from tempering.framings.verbalizers.proto_verb import ProtoVerb
from tempering.plan import explain
from tempering.recipe import Recipe, json_schema
from tempering.stabilizers.r3f import R3F
from tempering.stabilizers.r_drop import RDrop
from tempering.stages.multi_task import MultiTask, TaskSource
from tempering.stages.setup import Surroundings
from tempering.stages.train import Train
from tempering.tasks import Task
from tempering.train.evaluate import Evaluator
from tempering.tunings.fish import FISH
from tempering.tunings.lora import LoRA
from tests.framings.test_masked_lm import save_masked_lm
from tests.laws.bench import bits, differing
from tests.tiny import save_tiny, tiny_backbone, tiny_examples, tiny_task

LOOP: dict[str, Any] = {"max_steps": 6, "num_train_epochs": 2, "per_device_train_batch_size": 4, "learning_rate": 1e-2, "warmup_steps": 0}
SEEDS = Seeds.of(0)


def stage(*tasks: Any, **given: Any) -> MultiTask:
    return MultiTask(tasks=tasks, gradient_accumulation_steps=2, **(LOOP | given))


def run(made: MultiTask, around: Surroundings | None = None) -> Any:
    return made.run(tiny_backbone(), tiny_task(), SEEDS, around=around or Surroundings())


def test_tasks_of_several_kinds_train_one_body(write: Any) -> None:
    told: list[dict[str, Any]] = []
    made = stage(write("tone"), TaskSource(write("value", kind="regression", seed=1)), TaskSource(write("set", kind="multilabel", seed=2)),
                 TaskSource(write("text", seed=3), MaskedLM(0.5)), sampling="uniform")  # fmt: skip
    before = bits(tempering_learner := run(dataclasses.replace(made, max_steps=1, learning_rate=1e-12)))
    learner = run(made, Surroundings(listener=told.append))
    named = {f"task-{name}" for name in ("tone", "value", "set", "text")}
    assert set(learner.framing.parts) == named == set(tempering_learner.framing.parts)
    moved = differing(before, bits(learner))
    assert any(n.startswith("backbone.model.encoder") for n in moved) and any("parts.task-value.final" in n for n in moved)
    metrics = next(e["metrics"] for e in told if e["event"] == "evaluate")
    main = [metrics["tone/accuracy"], metrics["value/spearman"], metrics["set/micro_f1"]]
    assert metrics["mean"] == pytest.approx(sum(main) / 3)
    assert metrics["loss"] == pytest.approx(sum(metrics[f"{n}/loss"] for n in ("tone", "value", "set", "text")) / 4)
    assert learner.record["stage"]["tasks"]["tone"] == {"rows": 24, "share": 0.25}


def test_files_may_be_called_as_anything_that_a_module_has(write: Any, tmp_path: Path) -> None:
    given = (write("items"), TaskSource(write("b", seed=1), name="type"), TaskSource(write("c"), name="eval"))
    made = stage(*given, max_steps=1, save_steps=1, save_strategy="steps")
    learner = run(made, Surroundings(folder=tmp_path / "kept"))
    assert {n.split(".")[1] for n, _ in learner.framing.named_parameters()} == {"task-items", "task-type", "task-eval"}
    assert {f"{name}/accuracy" for name in ("items", "type", "eval")} < set(learner.record["stage"]["history"][0])
    again = run(made, Surroundings(folder=tmp_path / "kept", resume=True))
    assert not differing(bits(learner), bits(again))


def test_the_mode_of_training_comes_back_after_an_evaluation(write: Any) -> None:
    """Dropout draws after an evaluation as it does before one: a run that never looks has the same losses."""
    losses = []
    for strategy in ("steps", "no"):
        told: list[dict[str, Any]] = []
        made = stage(write("a"), write("b", seed=1), eval_strategy=strategy, eval_steps=2, load_best_model_at_end=False)
        run(made, Surroundings(listener=told.append))
        losses.append([e["loss"] for e in told if e["event"] == "step"])
    assert losses[0] == losses[1] and len(losses[0]) == 6


@pytest.mark.parametrize(("strategy", "rows"), [("epoch", 23), ("no", 24)])
def test_texts_of_a_task_are_held_out_where_they_are_read(strategy: Any, rows: int, write: Any) -> None:
    made = stage(write("a"), TaskSource(write("text", seed=3), MaskedLM(0.5)), eval_strategy=strategy, max_steps=1)
    assert run(made).record["stage"]["tasks"]["text"]["rows"] == rows


def test_one_task_twice_is_that_task(write: Any) -> None:
    """A step over two tasks of equal rows and weights is the mean of both losses, each over the log of its classes."""
    told: list[dict[str, Any]] = []
    run(stage(write("a"), write("b"), learning_rate=1e-12), Surroundings(listener=told.append))
    first = next(e["loss"] for e in told if e["event"] == "step")
    told.clear()
    run(stage(write("a"), write("b"), learning_rate=1e-12, loss_scale="none"), Surroundings(listener=told.append))
    assert next(e["loss"] for e in told if e["event"] == "step") == pytest.approx(first * math.log(2), rel=1e-5)


def test_the_users_task_may_be_among_them_and_then_it_is_what_comes_out(write: Any, tmp_path: Path) -> None:
    recipe = Recipe("joint", (stage(write("other", seed=5), TaskSource(name="mine")),))
    assert recipe.check() == []
    task = tiny_task()
    learner = fit(recipe, task, str(save_tiny("bert", tmp_path / "base")))
    assert learner.record["metrics"]["dev"]["accuracy"] >= 0.0
    assert learner.record["sources"].keys() == {str(tmp_path / "data" / "other")}
    assert learner.record["stage"]["history"][-1].keys() >= {"mine/accuracy", "other/accuracy", "mean"}
    learner.save_pretrained(tmp_path / "model")
    again = tempering.load(tmp_path / "model")
    assert again.predictions(task.dev.examples) == learner.predictions(task.dev.examples)


def test_the_users_rows_are_not_read_again_where_nothing_is_learned_after_training(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[Any] = []
    judged = Evaluator.__call__
    monkeypatch.setattr(Evaluator, "__call__", lambda self, learner: (looks.append(learner), judged(self, learner))[1])
    task, late = tiny_task(), Cloze(words={"bad": "bad", "good": "good"}, verbalizer=ProtoVerb(d=8))
    for framing, again in ((Head(), 0), (late, 1)):
        looks.clear()
        made = stage(write("other", seed=5), TaskSource(None, framing, name="mine"), max_steps=2)
        learner = fit(Recipe("joint", (made,)), task, tiny_backbone(), metrics=("macro_f1",))
        assert len(looks) == 2 * len(learner.record["stage"]["history"]) + again > 1
        assert learner.record["metrics"]["dev"] == evaluator_of(learner, task, task.dev, ("macro_f1",))(learner)[0]


def test_a_pair_cloze_among_them_is_read_the_same_way_after_a_reload(write: Any, tmp_path: Path) -> None:
    rows = [Example((e.texts[0], "it was very good"), e.label, e.row) for e in tiny_examples(12)]
    save_masked_lm("bert", tmp_path / "base")
    cloze = Cloze(words={"bad": "bad", "good": "good"})
    made = stage(write("other"), TaskSource(None, cloze, name="mine"), max_steps=2, per_device_eval_batch_size=5)
    learner = made.run(Backbone.load(str(tmp_path / "base")), Task.from_examples(rows, rows[:4]), SEEDS)
    assert learner.eval_batch_size == 5
    learner.save_pretrained(tmp_path / "model")
    back = tempering.load(tmp_path / "model")
    assert [p.probabilities for p in back.predictions(rows)] == [p.probabilities for p in learner.predictions(rows)]
    turned = [Example(e.texts[::-1], e.label, e.row) for e in rows]
    assert [p.probabilities for p in back.predictions(turned)] != [p.probabilities for p in back.predictions(rows)]


def test_a_head_kept_by_name_is_where_a_later_stage_starts(write: Any) -> None:
    made = stage(TaskSource(write("a"), keep_head="tone"), write("b", seed=1))
    frozen = {"max_steps": 1, "learning_rate": 1e-12, "num_train_epochs": 1, "tuning": "frozen", "load_best_model_at_end": False}
    for names, equal in (({"reuse_head": "tone"}, True), ({}, False)):
        around = Surroundings()
        backbone = tiny_backbone()
        several = made.run(backbone, tiny_task(), SEEDS, around=around)
        head = Train(**frozen, **names).run(backbone, tiny_task(), SEEDS, around=around)
        pairs = zip(head.framing.parameters(), several.framing.part("a").parameters(), strict=True)
        assert all(torch.allclose(x, y, atol=1e-6) for x, y in pairs) is equal


def test_a_shared_head_is_one(write: Any) -> None:
    learner = run(stage(write("a"), write("b", seed=1), heads="shared"))
    assert learner.framing.part("a") is learner.framing.part("b")
    assert sum(n.endswith("final.weight") for n in learner.trained()) == 1
    with pytest.raises(RecipeError, match=r"a \(classification into bad, good\) and c \(classification into bad, fine\) cannot share"):
        run(stage(write("a"), write("c", good="fine"), heads="shared"))


def test_stabilizers_and_tunings_act_on_all_tasks(write: Any) -> None:
    plain = run(stage(write("a"), write("b", seed=1)))
    for given in ({"stabilizers": (R3F(1.0, eps=0.1),)}, {"stabilizers": (RDrop(1.0),)}):
        assert differing(bits(plain), bits(run(stage(write("a"), write("b", seed=1), **given))))
    light = run(stage(write("a"), write("b", seed=1), tuning=LoRA(r=2)))
    assert not any(n.startswith("backbone.model.") and "lora" not in n for n in light.trained())


def test_label_smoothing_reaches_every_task(write: Any) -> None:
    learner = run(stage(write("a"), write("b", seed=1), label_smoothing_factor=0.1))
    assert [part.smoothing for part in learner.framing.parts.values()] == [0.1, 0.1]
    with pytest.raises(RecipeError, match="framing head of task value has no such targets"):
        run(stage(write("a"), write("value", kind="regression"), label_smoothing_factor=0.1))


def test_rows_are_weighed_by_class_in_those_tasks_that_have_classes(write: Any) -> None:
    lean = write("lean", 9, seed=2)  # five rows of one class and four of the other
    others = (TaskSource(write("value", kind="regression")), TaskSource(write("text"), MaskedLM(0.5)))
    plain, weighed = (run(stage(lean, *others, class_weights=how, sampling="uniform")) for how in ("none", "balanced"))
    assert differing(bits(plain), bits(weighed))
    with pytest.raises(RecipeError, match="class_weights 'balanced' weighs a row by its one class, and a row of regression has none"):
        run(stage(*others, class_weights="balanced"))


def test_it_survives_yaml_and_overrides(write: Any) -> None:
    made = stage("x.csv", TaskSource("y.csv", Head(heads=2), 0.5, "why", "kept"), stabilizers=("r3f",), sampling="temperature")
    recipe = Recipe("many", (made, Train()))
    back = Recipe.from_yaml(recipe.to_yaml())
    assert back == recipe and hash(back) == hash(recipe)
    assert recipe.to_plain()["stages"][0]["multi_task"]["tasks"][1] == {
        "data": "y.csv", "framing": {"head": {"heads": 2}}, "weight": 0.5, "name": "why", "keep_head": "kept"}  # fmt: skip
    changed = recipe.override({"stages.0.tasks.1.framing.heads": 3, "stages.0.tasks.0.data": "z.csv"})
    assert changed.stages[0].tasks[1].framing.heads == 3
    assert changed.stages[0].data_paths == ("z.csv", "y.csv")
    listed = recipe.override({"stages.0.tasks": ["a.csv", {"data": "b.csv", "framing": "masked_lm"}]})
    assert listed.stages[0].tasks == (TaskSource("a.csv"), TaskSource("b.csv", MaskedLM()))
    stages = next(o for o in json_schema()["properties"]["stages"]["items"]["anyOf"] if "multi_task" in o.get("properties", {}))
    tasks = stages["properties"]["multi_task"]["properties"]["tasks"]
    assert "$ref" not in str(tasks) and tasks["items"]["anyOf"][1]["properties"]["framing"]["anyOf"]


def test_a_shared_head_is_kept_with_the_labels_of_all_tasks(write: Any, tmp_path: Path) -> None:
    rows = [{"text": e.texts[0], "label": e.label if i % 3 else "so-so"} for i, e in enumerate(tiny_examples(48))]
    (tmp_path / "three.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    first = stage(TaskSource(write("two"), keep_head="h"), str(tmp_path / "three.jsonl"), heads="shared")
    last = Train(reuse_head="h", **LOOP)
    own = Task.from_file(tmp_path / "three.jsonl")
    assert fit(Recipe("r", (first, last)), own, tiny_backbone()).framing.labels == ("bad", "good", "so-so")
    with pytest.raises(RecipeError, match="classification into bad, good, so-so.*and task is classification into bad, good"):
        fit(Recipe("r", (first, last)), tiny_task(), tiny_backbone())


@pytest.mark.parametrize(
    ("tasks", "given", "said"),
    [
        ((), {}, r"needs at least two tasks, found 0.*stages.0.tasks"),
        (("a",), {}, "needs at least two tasks, found 1"),
        ((TaskSource(), TaskSource()), {}, "2 of the tasks have no data"),
        ((TaskSource("a", name="x"), TaskSource("b", name="x")), {}, "two tasks are named 'x'"),
        ((TaskSource("a"), TaskSource("b", Head(heads=2))), {"heads": "shared"}, "different framings"),
        (("a", TaskSource("b", keep_head="k")), {"heads": "shared"}, "kept once"),
        (("a", TaskSource("b", MaskedLM(packed=True))), {}, "masked_lm with packed fills its rows with several texts"),
        (("a", "b"), {"tuning": FISH()}, "fish chooses from"),
        (("a", "b"), {"metric_for_best_model": "macro_f1"}, "is of one task"),
        (("a", "b"), {"stabilizers": ("l2_sp",), "tuning": "frozen"}, "l2_sp"),
    ],
)
def test_what_it_refuses_before_anything_is_read(tasks: Any, given: Any, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        Recipe("r", (stage(*tasks, **given), Train())).check()


def test_few_tasks_before_another_are_told_of() -> None:
    names = [f"t{i}" for i in range(15)]
    (note,) = Recipe("r", (stage(*names[:3]), Train())).check()
    assert note.startswith("r: stages.0: 3 tasks at once; ") and "fewer than about 15" in note
    assert Recipe("r", (stage(*names), Train())).check() == []


def test_as_the_last_stage_it_needs_the_users_task() -> None:
    with pytest.raises(RecipeError, match="the last stage must learn your task"):
        Recipe("r", (stage("a", "b"),)).check()


def test_what_it_refuses_once_it_sees_the_data(write: Any) -> None:
    with pytest.raises(RecipeError, match="framing prototypes of task b re-estimates"):
        run(stage(write("a"), TaskSource(write("b"), Prototypes())))
    with pytest.raises(DataError, match="data 'nowhere.csv' of a stage"):
        fit(Recipe("r", (stage(write("a"), "nowhere.csv"), Train(**LOOP))), tiny_task(), tiny_backbone())


def test_explain_counts_all_heads_and_rows(write: Any, tmp_path: Path) -> None:
    base = str(save_tiny("bert", tmp_path / "base"))
    recipe = Recipe("r", (stage(write("a"), write("b", rows=40, seed=1), max_steps=-1), Train()))
    plan = explain(recipe, base, tiny_task())
    assert (plan.stages[0].rows, plan.stages[0].steps, plan.stages[0].batch) == (64, 16, 8)
    assert plan.stages[0].head_trained == 2 * (32 * 2 + 2)
    assert "head and head" in "\n".join(plan.lines())
    assert explain(Recipe("r", (stage("no.csv", "where.csv"), Train())), base).stages[0].rows is None


@pytest.mark.parametrize("best", [True, False])
def test_as_the_last_stage_it_tells_the_loss_of_the_users_own_texts_by_the_weights_it_returns(write: Any, best: bool) -> None:
    made = stage(TaskSource(framing=MaskedLM(0.5)), write("b"), learning_rate=0.3, num_train_epochs=4, max_steps=-1,
                 metric_for_best_model="loss", load_best_model_at_end=best)  # fmt: skip
    learner = fit(Recipe("r", (made,)), tiny_task(), tiny_backbone())
    looks = learner.record["stage"]["history"]
    kept = next(look for look in looks if look["step"] == learner.record["stage"]["best_step"]) if best else looks[-1]
    own = learner.record["stage"]["own"]
    assert learner.record["metrics"]["dev"] == {"loss": kept[f"{own}/loss"]} and kept["loss"] != kept[f"{own}/loss"]
    assert len({look[f"{own}/loss"] for look in looks}) > 1


def test_a_changed_data_set_is_another_run(write: Any, tmp_path: Path) -> None:
    recipe = Recipe("r", (stage(write("a"), write("b", seed=1), save_strategy="steps", save_steps=2), Train(**LOOP)))
    fit(recipe, tiny_task(), tiny_backbone(), output_dir=tmp_path / "out")
    write("b", seed=9)
    with pytest.raises(tempering.ResumeError, match="made with another data .*/b "):
        fit(recipe, tiny_task(), tiny_backbone(), output_dir=tmp_path / "out", resume=True)
