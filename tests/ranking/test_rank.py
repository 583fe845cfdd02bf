"""Ranking models and tasks, and the commands that do."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tempering.cache import TrunkCache
from tempering.cli import run
from tempering.contracts import Example
from tempering.errors import DataError, RecipeError
from tempering.ranking.probe import chances, fitted, probe
from tempering.ranking.rank import MEASURES, Ranking, measured, rank_models, rank_tasks
from tempering.tasks.task import Task
from tests.tiny import NEGATIVE, POSITIVE, WORDS, save_tiny, tiny_backbone, tiny_examples, tiny_task


def planted(task: Task, strength: float, seed: int = 0) -> Any:
    """Features that hold the labels as well as ``strength`` says."""
    rng = np.random.default_rng(seed)
    signal = np.asarray([float(task.target(label)) for label in task.train.labels])[:, None]
    return rng.normal(size=(len(task.train), 6)) + strength * signal * np.linspace(0.5, 1.5, 6)


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_every_measure_rises_with_what_the_features_hold(kind: str) -> None:
    task = tiny_task(120, kind)
    weak, strong = (measured(planted(task, s), task) for s in (0.0, 3.0))
    for name in MEASURES:
        if kind == "regression" and name in ("h_score", "leep"):
            assert weak[name] is None and strong[name] is None
        else:
            assert strong[name] > weak[name] + 0.02  # type: ignore[operator]


def test_sets_of_labels_are_measured_label_by_label() -> None:
    task = tiny_task(60, "multilabel")
    found = measured(np.random.default_rng(0).normal(size=(60, 4)), task)
    assert all(found[name] is not None for name in MEASURES)


@pytest.mark.parametrize("every", [1, 2], ids=["on all rows", "on every other row"])
def test_a_single_label_is_measured_too(every: int) -> None:
    """Where all rows have it, separation has nothing to tell apart, and the rest says what it can."""
    rows = [dataclasses.replace(e, label=("new",) if i % every == 0 else ()) for i, e in enumerate(tiny_examples(40))]
    task = Task.from_examples(rows, kind="multilabel")
    assert task.labels == ("new",)
    has = np.asarray([bool(e.label) for e in rows], dtype=np.float64)[:, None]
    found = measured(np.random.default_rng(0).normal(size=(40, 4)) + 9 * has, task)
    assert found["probe"] == 1.0 and found["logme"] is not None
    assert [found[name] is None for name in ("h_score", "leep")] == [every == 1] * 2


def test_the_probe_never_sees_the_rows_it_is_scored_on() -> None:
    """Features that name each row perfectly, with labels at random: a map fitted on all rows would be right every time."""
    rng = np.random.default_rng(0)
    rows = [dataclasses.replace(e, label=str(rng.integers(2))) for e in tiny_examples(80)]
    task = Task.from_examples(rows)
    features = rng.normal(size=(80, 300))
    made = fitted(features, task, task.train.labels)
    assert float((made.predict(features) == [task.target(x) for x in task.train.labels]).mean()) == 1.0
    assert probe(features, task, task.train.labels) < 0.7
    assert chances(made, features, 2).sum(1) == pytest.approx(1.0)


def test_models_are_ranked_and_read_each_text_once(tmp_path: Path) -> None:
    models = [tiny_backbone("bert"), tiny_backbone("gpt2"), tiny_backbone("roberta", seed=1)]
    cache = TrunkCache(tmp_path)
    found = rank_models(models, tiny_task(60), cache=cache)
    assert sorted(c.name for c in found.candidates) == ["tiny-bert", "tiny-gpt2", "tiny-roberta"]
    assert [c.scores["logme"] for c in found.candidates] == sorted((c.scores["logme"] for c in found.candidates), reverse=True)
    assert found.rank("logme") == [c.name for c in found.candidates]
    again = rank_models(models, tiny_task(60), cache=TrunkCache(tmp_path), by="probe")
    assert again.by == "probe" and again.rank("logme") == found.rank("logme")
    assert all(c.facts["parameters"] > 1000 and c.rows == 60 for c in found.candidates)


def test_at_most_so_many_rows_are_read() -> None:
    found = rank_models([tiny_backbone(), tiny_backbone("roberta")], tiny_task(60), rows=20)
    assert [c.rows for c in found.candidates] == [20, 20]


def _topic(n: int, seed: int) -> Task:
    """Another task on the same words: whether a text is long."""
    rows = [dataclasses.replace(e, label="long" if len(e.texts[0].split()) > 8 else "short") for e in tiny_examples(n, seed=seed)]
    return Task.from_examples(rows, name="length")


def test_a_task_that_is_the_same_under_other_names_comes_first() -> None:
    same = Task.from_examples([dataclasses.replace(e, label=f"is {e.label}") for e in tiny_examples(60, seed=9)], name="same")
    rng = np.random.default_rng(0)
    noise = Task.from_examples([dataclasses.replace(e, label=str(rng.integers(2))) for e in tiny_examples(60, seed=8)], name="noise")
    found = rank_tasks([noise, same, _topic(60, 7)], tiny_task(60), tiny_backbone())
    assert found.candidates[0].name == "same" and found.by == "leep"
    assert all(-1.0 <= c.facts["similarity"] <= 1.0 for c in found.candidates)


def test_tasks_of_different_kinds_are_ranked_by_what_is_for_all() -> None:
    found = rank_tasks([tiny_task(40, "regression"), tiny_task(40, "multilabel"), _topic(40, 1)], tiny_task(40), tiny_backbone())
    assert found.by == "logme" and "ranked by logme" in found.notes[0]
    assert [c.name for c in found.candidates] == found.rank("logme") and len(found.rank("leep")) == 1
    assert {c.name for c in found.candidates} == {"task", "task-2", "length"}


def test_what_it_refuses() -> None:
    models = [tiny_backbone(), tiny_backbone("roberta")]
    with pytest.raises(RecipeError, match="at least two candidates, found 1"):
        rank_models(models[:1], tiny_task())
    with pytest.raises(RecipeError, match="measure 'best' is not known; known: logme"):
        rank_models(models, tiny_task(), by="best")
    with pytest.raises(RecipeError, match="pool 'sum' is not known"):
        rank_models(models, tiny_task(), pool="sum")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="is of kind text"):
        rank_models(models, Task.from_examples([Example((w,)) for w in WORDS]))
    tagged = [Example((f"{w} x",), ("B-a", "O"), words=((0, len(w)), (len(w) + 1, len(w) + 2))) for w in WORDS]
    task = Task.from_examples(tagged, kind="tagging", name="tags")
    with pytest.raises(DataError, match="^tags is of kind tagging: .* temper fit DATA --model MODEL max_steps=100"):
        rank_models(models, task)


def test_every_candidate_is_looked_at_before_any_is_worked_on() -> None:
    """The model would be loaded after that, and there is none."""
    tagged = [Example((f"{w} x",), ("B-a", "O"), words=((0, len(w)), (len(w) + 1, len(w) + 2))) for w in WORDS]
    tags, other = Task.from_examples(tagged, kind="tagging", name="tags"), tiny_task()
    way = "temper fit DATA --recipe stilts --model MODEL stages.0.data=CANDIDATE stages.0.max_steps=100"
    with pytest.raises(DataError, match=f"^candidate tags is of kind tagging: .*{way}"):
        rank_tasks([other, tags], other, "no-model")
    with pytest.raises(DataError, match=f"^tags is of kind tagging: .*{way}"):
        rank_tasks([other, other], tags, "no-model")
    with pytest.raises(DataError, match=r"^candidate 'nowhere\.jsonl': nowhere\.jsonl: no such file.*; give the path of a file or folder$"):
        rank_tasks([other, "nowhere.jsonl"], other, "no-model")


def _file(path: Path, tone: bool) -> str:
    rows = [("good", w) for w in POSITIVE] + [("bad", w) for w in NEGATIVE]
    lines = [json.dumps({"text": f"the film was {w} {x}", "label": y if tone else str(len(x) % 2)}) for y, w in rows for x in WORDS]
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, other = _file(tmp_path / "tone.jsonl", True), _file(tmp_path / "length.jsonl", False)
    models = ",".join(str(save_tiny(f, tmp_path / f, seed)) for seed, f in enumerate(("bert", "roberta")))
    assert run(["rank-models", data, "--models", models, "--rows", "60"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("tone: models by LogME, best first") and len(lines) == 4
    assert lines[1].split() == ["model", "LogME", "H-score", "LEEP", "probe", "seconds"]
    assert run(["rank-tasks", data, data, other, "--model", models.split(",")[0], "--rows", "60", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["by"] == "leep" and [c["name"] for c in told["candidates"]] == ["tone", "length"]
    named = Path(other).read_text().replace("text", "said").replace("label", "long")
    (odd := tmp_path / "odd.jsonl").write_text(named)
    asked = ["rank-tasks", data, data, "--model", models.split(",")[0], "--rows", "60", "--json"]
    assert run([*asked, f"{{path: {odd}, text: said, label: long}}"]) == 0
    again = {c["name"]: c["leep"] for c in json.loads(capsys.readouterr().out)["candidates"]}
    assert again == {"odd" if c["name"] == "length" else c["name"]: c["leep"] for c in told["candidates"]}
    assert run([*asked, f"{{path: {odd}, texts: said}}"]) == 2
    assert "unknown field 'texts'; did you mean text" in capsys.readouterr().err
    assert run(["rank-models", data, "--models", "minilm"]) == 2
    assert "expected at least two names between commas" in capsys.readouterr().err


def test_a_ranking_of_nothing_is_not_hidden() -> None:
    assert Ranking("t", "logme", ()).as_dict() == {"task": "t", "by": "logme", "candidates": [], "notes": []}
