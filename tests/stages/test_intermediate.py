"""Training on another labelled data set first, and what of it crosses."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from tempering.contracts import Seeds
from tempering.errors import DataError, RecipeError, TemperingError
from tempering.fitting import fit
from tempering.framings.cloze import Cloze
from tempering.framings.head import Head
from tempering.framings.masked_lm import MaskedLM
from tempering.plan import explain
from tempering.recipe import Recipe
from tempering.stages import setup
from tempering.stages.multi_task import MultiTask, TaskSource
from tempering.stages.prime import Prime
from tempering.stages.setup import Surroundings
from tempering.stages.sources import distinct_names, pooled, read_source
from tempering.stages.train import Train
from tempering.studying import compare
from tempering.train.stream import unseen
from tempering.tunings.lora import LoRA
from tests.laws.bench import bits, differing
from tests.stages.conftest import Write
from tests.tiny import NEGATIVE, POSITIVE, save_tiny, tiny_backbone, tiny_task

SEEDS = Seeds.of(0)
LOOP: dict[str, Any] = {"max_steps": 3, "num_train_epochs": 1, "per_device_train_batch_size": 8, "learning_rate": 1e-2, "warmup_steps": 0}
STILL: dict[str, Any] = {"max_steps": 1, "learning_rate": 1e-12, "load_best_model_at_end": False}


def test_it_learns_from_its_own_data_of_whatever_kind(write: Write) -> None:
    path = write("value", rows=40, kind="regression")
    recipe = Recipe("stilts", (Train(data=path, **LOOP), Train(**LOOP)))
    learner = fit(recipe, tiny_task(), tiny_backbone(), metrics=("macro_f1",))
    first = learner.record["earlier"][0]
    assert first["rows"] == 40 and "spearman" in first["history"][0] and "macro_f1" not in first["history"][0]
    assert learner.record["sources"] == {path: read_source(path).fingerprint()}
    assert learner.framing.labels == ("bad", "good")
    alone = fit(Recipe("r", (Train(**LOOP),)), tiny_task(), tiny_backbone())
    assert differing(bits(alone), bits(learner)) and "sources" not in alone.record


def test_every_stage_draws_new_weights_of_its_own(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body trained under one head would fit the next one, were that drawn from the same stream; the last stage draws as it does alone."""
    drawn: list[dict[str, torch.Tensor]] = []
    own = setup.assemble

    def recorded(*given: Any) -> Any:
        learner = own(*given)
        drawn.append({n: t.clone() for n, t in learner.state_dict().items() if n.endswith(("final.weight", "lora.A"))})
        return learner

    monkeypatch.setattr("tempering.stages.train.assemble", recorded)
    monkeypatch.setattr("tempering.stages.episodes.assemble", recorded)
    light = LoRA(r=2)
    last = Train(tuning=light, **STILL)
    fit(Recipe("alone", (last,)), tiny_task(), tiny_backbone())
    (alone,) = drawn
    assert len(alone) > 1
    primed = Prime(sources=(write("a"), write("b", seed=1)), tuning=light, outer_steps=1, eval_strategy="no")
    for first in (Train(tuning=light, data=write("a"), **STILL), primed):
        drawn.clear()
        fit(Recipe("two", (first, last)), tiny_task(), tiny_backbone())
        assert drawn[0].keys() == drawn[-1].keys() == alone.keys()
        assert not any(torch.allclose(drawn[0][n], drawn[-1][n], rtol=0.1) for n in alone)
        assert all(torch.equal(alone[n], drawn[-1][n]) for n in alone)
    drawn.clear()
    fit(Recipe("three", (Train(tuning=light, data=write("a"), **STILL),) * 2 + (last,)), tiny_task(), tiny_backbone())
    assert not any(torch.allclose(drawn[0][n], drawn[1][n], rtol=0.1) for n in alone)


def test_texts_of_its_own_data_without_their_labels(write: Write) -> None:
    told: list[dict[str, Any]] = []
    stage = Train(framing=MaskedLM(), text="unlabeled", data=write("texts", rows=60), **LOOP)
    learner = stage.run(tiny_backbone(), tiny_task(), SEEDS, around=Surroundings(listener=told.append))
    assert learner.record["stage"]["rows"] == 57  # one in twenty is held out


def test_a_head_is_dropped_or_starts_a_later_stage(write: Write) -> None:
    around, backbone = Surroundings(), tiny_backbone()
    first = Train(data=write("a"), keep_head="tone", **LOOP).run(backbone, tiny_task(), SEEDS, around=around)
    kept = {n: t.clone() for n, t in first.framing.state_dict().items()}
    reused = Train(reuse_head="tone", **STILL).run(backbone, tiny_task(), SEEDS, around=around).framing.state_dict()
    drawn = Train(**STILL).run(backbone, tiny_task(), SEEDS, around=around).framing.state_dict()
    assert all(torch.allclose(kept[n], reused[n], atol=1e-6) for n in kept)
    assert not torch.allclose(kept["final.weight"], drawn["final.weight"], atol=1e-3)


def test_both_tasks_may_be_framed_as_masked_lm(write: Write) -> None:
    """The language-model head crosses with the body, and what it learned of one task serves the next, whose labels have other names."""
    path = write("other", rows=40, good="fine", bad="poor")
    words = [Cloze(words={"fine" if one else "good": POSITIVE[0], "poor" if one else "bad": NEGATIVE[0]}) for one in (True, False)]
    recipe = Recipe.load("stilts-cloze").override({"stages.0.data": path})
    first, second = (
        dataclasses.replace(stage, framing=framing, **(LOOP | {"max_steps": 60, "min_steps": 0, "learning_rate": 3e-3}))
        for stage, framing in zip(recipe.stages, words, strict=True)
    )
    still = dataclasses.replace(second, **STILL)
    after = fit(Recipe("r", (first, still)), tiny_task(), tiny_backbone()).record
    alone = fit(Recipe("r", (still,)), tiny_task(), tiny_backbone()).record
    assert after["metrics"]["dev"]["accuracy"] > 0.8 > alone["metrics"]["dev"]["accuracy"]


def test_labels_that_do_not_agree_are_named_with_both_tasks(write: Write) -> None:
    around, backbone = Surroundings(), tiny_backbone()
    Train(data=write("nli", good="yes", bad="no"), keep_head="h", **LOOP).run(backbone, tiny_task(), SEEDS, around=around)
    with pytest.raises(RecipeError, match=r"trained on nli \(classification into no, yes\), and task is classification into bad, good"):
        Train(reuse_head="h", **LOOP).run(backbone, tiny_task(), SEEDS, around=around)
    with pytest.raises(RecipeError, match="classification into no, yes.*and task is regression"):
        Train(reuse_head="h", **LOOP).run(tiny_backbone(), tiny_task(24, "regression"), SEEDS, around=around)


def test_a_head_of_another_shape_is_named_with_both_framings(write: Write) -> None:
    around, backbone = Surroundings(), tiny_backbone()
    Train(data=write("a"), framing=Head(heads=2), keep_head="h", **LOOP).run(backbone, tiny_task(), SEEDS, around=around)
    with pytest.raises(RecipeError, match=r'kept by \{"head": \{"heads": 2\}\} and does not fit "head" here'):
        Train(reuse_head="h", **LOOP).run(backbone, tiny_task(), SEEDS, around=around)


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        ((Train(data="a.csv"),), "the last stage would learn from 'a.csv'"),
        ((Train(data="a.csv", text="b.txt", framing=MaskedLM()), Train()), "both data .* and text"),
        ((Train(data="a.csv"), Train(reuse_head="h")), r"stages.1: reuse_head 'h', but no earlier stage has keep_head 'h' \(there: none\)"),
        ((Train(data="a.csv", keep_head="g"), Train(reuse_head="h")), r"\(there: g\)"),
        ((Train(data="a.csv", keep_head="g"), Train(reuse_tuning="g")), "no earlier stage has keep_tuning 'g'"),
        ((Train(data="a.csv"), Train(keep_head="h")), "in the last stage is for nobody"),
        ((Train(data="a", keep_head="h"), Train(data="b", keep_head="h"), Train()), "an earlier stage keeps something by that name"),
    ],
)
def test_what_is_refused_before_anything_is_read(stages: Any, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        Recipe("r", stages).check()


def test_a_data_set_that_is_not_there_is_named_before_a_model_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data 'not-here.jsonl' of a stage.*give the path of a file.* in stages\.0\.data"):
        fit(Recipe("r", (Train(data="not-here.jsonl"), Train())), tiny_task(), str(tmp_path / "no-model"))


def test_a_corpus_that_is_not_there_is_named_before_earlier_stages_train(write: Write, tmp_path: Path) -> None:
    stages = (Train(data=write("a"), **LOOP), Train(framing=MaskedLM(), text="no-corpus.txt"), Train())
    told = r"no-corpus.txt: no such file.*; the text of a stage is named in stages\.1\.text"
    with pytest.raises(DataError, match=told):
        fit(Recipe("r", stages), tiny_task(), str(tmp_path / "no-model"))
    with pytest.raises(DataError, match=told):
        explain(Recipe("r", stages), tiny_backbone(), tiny_task())


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("text.txt", b"abc\0def", "text.txt: expected text, found a NUL at byte 3"),
        ("old/b.txt", "caf\u00e9 au lait".encode("cp1252"), "b.txt: expected UTF-8 text, found 0xe9 at byte 3"),
        ("empty.txt", b"\n \n", "empty.txt: expected texts, found none"),
        ("rows.jsonl", b'{"n": 1}\n', "rows.jsonl.*'n'"),
    ],
)
def test_a_corpus_that_is_no_text_is_named_before_earlier_stages_train(
    name: str, content: bytes, said: str, write: Write, tmp_path: Path
) -> None:
    corpus = tmp_path / "corpus" / name
    corpus.parent.mkdir(parents=True)
    corpus.write_bytes(content)
    if "/" in name:
        (corpus.parent / "a.txt").write_text("a good film")
    path = str(corpus.parent if "/" in name else corpus)
    stages = (Train(data=write("a"), **LOOP), Train(framing=MaskedLM(), text=path), Train())
    with pytest.raises(DataError, match=rf"{said}.*; the text of a stage is named in stages\.1\.text"):
        fit(Recipe("r", stages), tiny_task(), str(tmp_path / "no-model"))
    with pytest.raises(DataError, match=r"the text of a stage is named in stages\.0\.text"):
        explain(Recipe("r", stages[1:]), tiny_backbone(), tiny_task())


def test_a_data_set_is_read_again_only_if_it_changed(write: Write) -> None:
    path = write("a")
    first = read_source(path)
    assert read_source(path) is first
    write("a", seed=7)
    assert read_source(path).fingerprint() != first.fingerprint()


def test_names_are_told_apart_and_pools_need_one_set_of_labels(write: Write) -> None:
    tasks = [read_source(write("a")), read_source(write("a")), read_source(write("c", seed=1))]
    assert distinct_names(tasks) == ["a", "a-2", "c"]
    assert distinct_names(tasks, ["x", None, None]) == ["x", "a", "c"]
    assert distinct_names([tasks[0]] * 4, [None, None, "a-2", None]) == ["a", "a-3", "a-2", "a-4"]
    assert distinct_names(tasks[:2], [None, "a"]) == ["a-2", "a"]  # a name that was asked for stays
    assert len(pooled(tasks, ["a", "a-2", "c"], "a head").train) == 72
    with pytest.raises(RecipeError, match="cannot share a head"):
        pooled([tasks[0], read_source(write("v", kind="regression"))], ["a", "v"], "a head")


def test_explain_counts_rows_of_the_stages_own_data(write: Write, tmp_path: Path) -> None:
    base = str(save_tiny("bert", tmp_path / "base"))
    recipe = Recipe("r", (Train(data=write("a", rows=40)), Train()))
    assert [stage.rows for stage in explain(recipe, base, tiny_task()).stages] == [40, 24]
    missing = Recipe("r", (Train(data="none.csv"), Train()))
    assert [stage.rows for stage in explain(missing, base).stages] == [None, None]


@pytest.mark.parametrize("first", ["train", "multi_task", "prime"])
def test_a_head_for_other_labels_is_refused_before_the_stage_that_it_comes_from_trains(first: str, write: Write, tmp_path: Path) -> None:
    path = write("nli", good="yes", bad="no")
    stages = {
        "train": Train(data=path, keep_head="h", **LOOP),
        "multi_task": MultiTask(tasks=(TaskSource(write("a")), TaskSource(path, keep_head="h")), **LOOP),
        "prime": Prime(sources=(path, write("more", good="yes", bad="no", seed=1)), keep_head="h", outer_steps=1),
    }
    recipe = Recipe("r", (stages[first], Train(reuse_head="h", **LOOP)))
    told = r"reuse_head 'h': that head was trained on nli \(classification into no, yes\), and task is classification into bad, good"
    with pytest.raises(RecipeError, match=told):
        fit(recipe, tiny_task(), str(tmp_path / "no-model"))
    with pytest.raises(RecipeError, match=told):
        explain(recipe, tiny_backbone(), tiny_task())
    with pytest.raises(RecipeError, match=told):
        compare([recipe, Recipe("plain", (Train(**LOOP),))], tiny_task(), str(tmp_path / "no-model"), output_dir=tmp_path / "study")


def test_rows_that_the_task_is_judged_by_are_told_of_in_every_data_set(write: Write) -> None:
    task, told = tiny_task(), list[Any]()
    path = write("other", rows=40)
    judged = [{"text": e.texts[0], "label": e.label} for e in task.dev.examples[:3]]
    with (Path(path) / "train.jsonl").open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in judged)
    before = len(read_source(path).train) - len(unseen(task, read_source(path).train))
    assert before >= 3
    recipe = Recipe("r", (MultiTask(tasks=(TaskSource(write("clean", rows=8, seed=5)), TaskSource(path)), **LOOP), Train(**LOOP)))
    fit(recipe, task, tiny_backbone(), listener=told.append)
    note = f"stages.0: data {path}: {before} training rows stand in the dev or test split of your task too"
    (found,) = [e["text"] for e in told if e["event"] == "note" and "too good" in e["text"]]
    assert found.startswith(note) and note in "\n".join(explain(recipe, tiny_backbone(), task).notes)


def test_what_an_intermediate_stage_is_refused_for_names_it_and_its_data(write: Write) -> None:
    path = write("nli")
    cloze = Cloze(words={"yes": ["good"], "no": ["bad"]})
    recipe = Recipe("r", (Train(data=path, framing=cloze, **LOOP), Train(**LOOP)))
    said = rf"^stages\.0 \(data {re.escape(path)}\): "
    with pytest.raises(TemperingError, match=said):
        fit(recipe, tiny_task(), tiny_backbone())
    with pytest.raises(TemperingError, match=said):
        explain(recipe, tiny_backbone(), tiny_task())
    with pytest.raises(TemperingError, match="^(?!stages)"):
        fit(Recipe("r", (Train(framing=cloze, **LOOP),)), tiny_task(), tiny_backbone())
