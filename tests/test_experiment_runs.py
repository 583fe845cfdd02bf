"""The experiments while they run: what several commands need is made once, what is killed goes on, and options do what they say."""

# ruff: noqa: F811 - the fixture `script` is imported and then asked for by its name
from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tempering.contracts import Example
from tempering.learner import Learner
from tests.test_experiments import Loader, killed_in_the_third_step, opened, script  # noqa: F401 - a fixture
from tests.tiny import save_tiny, tiny_examples


def both(work: Callable[[], Any]) -> None:
    """The same work twice at the same time."""
    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_two_commands_make_what_both_need_once(script: Loader, tmp_path: Path) -> None:
    script("tagging")
    import cells

    made: list[str] = []

    def work() -> None:
        with cells.making(tmp_path / "models" / "x") as wanted:
            if wanted:
                made.append("x")
                time.sleep(0.2)
                (tmp_path / "models" / "x").mkdir()

    both(work)
    assert made == ["x"]


def test_two_commands_adapt_a_model_once(script: Loader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = script("run in adaptive")
    args = module.parsed(["--output", str(tmp_path), "--model", "m"])
    made: list[tuple[str, str]] = []

    def adapt(recipe: str, name: str, task: str, model: str, seed: int, folder: Path, args: argparse.Namespace) -> None:
        made.append((recipe, model))
        time.sleep(0.1)
        folder.mkdir()

    monkeypatch.setattr(module, "adapt", adapt)
    both(lambda: module.adapted("sst2", "DAPT + TAPT", 0, args, opened(module, tmp_path)))
    assert made == [("dapt", "m"), ("tapt", str(tmp_path / "models" / "dapt-imdb_reviews-0"))]


def test_two_commands_train_a_body_and_cut_a_source_once(script: Loader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = script("intermediate")
    args = module.parsed(["--output", str(tmp_path)])
    made: list[str] = []

    def make_body(arm: str, seed: int, folder: Path, args: argparse.Namespace) -> None:
        made.append(arm)
        time.sleep(0.1)
        folder.mkdir()
        (folder / module.FIRST).write_text('{"stage": {"dev": 0.5, "early": 0.4, "steps": 3}, "alone": {}}')

    monkeypatch.setattr(module, "make_body", make_body)
    both(lambda: module.body("stilts", 0, args, opened(module, tmp_path)))
    assert made == ["stilts"] and opened(module, tmp_path)["first stage/stilts/0"]["dev"] == 0.5


def tags(folder: Path, split: str, texts: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rows = [json.dumps({"tokens": text.split(), "tags": ["O"] * len(text.split())}, ensure_ascii=False) for text in texts]
    (folder / f"{split}.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")


def test_no_source_of_priming_holds_a_sentence_that_the_target_is_judged_by(script: Loader, tmp_path: Path) -> None:
    module = script("run in priming")
    source, target = tmp_path / "en", tmp_path / "de"
    tags(source, "train", ["a b", "Shared  one", "c\u2028d e", "shared two", "its own"])
    tags(source, "dev", ["its own", "shared one", *(f"dev {i}" for i in range(9))])
    tags(target, "dev", ["shared one"])
    tags(target, "test", ["SHARED two"])
    args = module.parsed(["--output", str(tmp_path / "out"), "--dev-rows", "5"])
    folder = module.source_folder(source, target, args)
    rows = {split: (folder / f"{split}.jsonl").read_text(encoding="utf-8").split("\n")[:-1] for split in ("train", "dev")}
    assert [json.loads(row)["tokens"] for row in rows["train"]] == [["a", "b"], ["c", "d", "e"], ["its", "own"]]
    assert len(rows["dev"]) == 5 and not any("shared" in row for row in rows["dev"])
    assert module.source_folder(source, target, args) == folder and "are left out of priming" in sys.modules["tables"].LEAKS


def test_the_multilingual_model_is_made_once_and_from_one_vocabulary(
    script: Loader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script("run in priming")
    import multilingual

    made: list[Path] = []

    def make(folders: Any, target: Path, *rest: Any) -> None:
        made.append(target)
        time.sleep(0.1)
        target.mkdir()

    monkeypatch.setattr(multilingual, "make", make)
    both(lambda: multilingual.build([], tmp_path / "m"))
    assert made == [tmp_path / "m"]


def test_perplexity_before_adaptation_is_measured_once(script: Loader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = script("run in adaptive")
    (tmp_path / "sst2").mkdir()
    for split, start in (("train", 1), ("dev", 50), ("test", 70)):
        lines = [json.dumps({"text": e.texts[0], "label": e.label}) for e in tiny_examples(16, start=start)]
        (tmp_path / "sst2" / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    asked: list[str] = []
    monkeypatch.setattr(module, "adapted", lambda task, arm, seed, *_: "m" if arm == "none" else f"{arm}-{seed}")
    monkeypatch.setattr(module, "perplexity", lambda task, model, args: asked.append(model) or float(len(task.dev)))
    monkeypatch.setattr(module, "fit", lambda *_, **__: None)
    monkeypatch.setattr(module, "outcome", lambda _: {"score": 0.5, "main_metric": "accuracy"})
    monkeypatch.setattr(module, "passes", lambda task, arm, *_: {"dapt-imdb_reviews": 0.5} if arm == "DAPT" else {})
    words = ["--data", str(tmp_path), "--output", str(tmp_path / "out"), "--tasks", "sst2", "--arms", "none,DAPT", "--model", "m"]
    args = module.parsed([*words, "--seeds", "2", "--dev-rows", "10"])
    cells = opened(module, tmp_path / "out")
    module.run(cells, args)
    module.run(cells, args)
    assert asked == ["m", "DAPT-0", "DAPT-1"] and cells["before/sst2"] == {"perplexity": 10.0}
    said = module.report(cells, args)
    assert "perplexity" not in cells["sst2/none/0"] and "| sst2 | 10.0 | 10.0 ± 0.0 |" in said
    assert "| task | passes over the text of DAPT |\n| --- | --- |\n| sst2 | 0.50 |" in said


def test_what_is_asked_in_context_is_asked_in_batches_of_the_size_given(
    script: Loader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = script("in-context")
    rows = tiny_examples(12)
    task = module.load.__globals__["Task"].from_examples(rows[:5], rows[5:7], rows[7:])
    backbone = module.Backbone.load(str(save_tiny("gpt2", tmp_path / "m")))
    monkeypatch.setitem(module.FORMATS, "x", {"template": "{text} {answer}"})
    sizes: list[tuple[int, int]] = []
    scored = Learner.score

    def score(self: Learner, prompts: Any, batch_size: int = 64, features: Any = None) -> Any:
        sizes.append((len(prompts), batch_size))
        return scored(self, prompts, batch_size, features)

    monkeypatch.setattr(Learner, "score", score)
    args = module.parsed(["m", "--batch-size", "3", "--shots", "1"])
    assert module.ask(("x", 1, 0, 0), backbone, task, args)["plain"]["accuracy"] <= 1
    assert sizes[-1][1] == 3


def test_text_to_text_goes_on_and_writes_once(script: Loader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = script("text-to-text")
    for split, count in (("train", 24), ("dev", 4), ("test", 4)):
        rows = [{"source": f"name {i % 5} food {i % 3}", "target": f"it is {i % 5} and has {i % 3}"} for i in range(count)]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["--data", str(tmp_path), "--output", str(tmp_path / "out"), "--steps", "4", "--width", "32", "--rows", "2"]
    words += ["--table", str(tmp_path / "t.md")]
    monkeypatch.setattr(sys, "argv", ["text-to-text", *words])
    monkeypatch.setattr(module, "SETTINGS", {"greedy": {}, "beams": {"num_beams": 2}})
    monkeypatch.setattr(module, "SAVE_STEPS", 2)
    write, steps, written = module.write, killed_in_the_third_step(module, monkeypatch), list[str]()
    monkeypatch.setattr(module, "write", lambda learner, name, rows: written.append(name) or write(learner, name, rows))
    with pytest.raises(KeyboardInterrupt):
        module.main()
    module.main()
    assert steps == [1, 2, 3, 3, 4] and written == ["greedy", "beams"] * 2  # of the development and of the test rows
    module.main()
    assert steps == [1, 2, 3, 3, 4] and written == ["greedy", "beams"] * 2
    found = json.loads((tmp_path / "out" / "result.json").read_text())
    assert found["counts"] == {"dev": 4, "test": 2} and set(found["test"]) == {"nearest training row", "greedy", "beams"}
    assert "## dev, 4 rows" in (tmp_path / "t.md").read_text() and (tmp_path / "t.md").read_text().count("| greedy |") == 2
    monkeypatch.setattr(sys, "argv", ["text-to-text", *words, "--rows", "3"])
    module.main()
    assert written == ["greedy", "beams"] * 4


def test_the_floor_of_text_to_text_is_the_nearest_training_row(script: Loader) -> None:
    module = script("text-to-text")
    known = [(name, food) for name in ("The Vaults", "Cocum") for food in ("fish", "pie")]
    rows = [Example((f"name[{name}], food[{food}]",), f"{name} has {food}.") for name, food in known]
    asked = [Example(("food[pie], name[Cocum]",), "x"), Example(("name[Strada], food[fish]",), "x")]
    said = module.nearest(SimpleNamespace(train=rows), asked)
    assert said == ["Cocum has pie.", "The Vaults has fish."]
    assert module.scored(asked, said)["values said"] == 0.75
    assert module.unseen(SimpleNamespace(train=rows), asked) == 1
