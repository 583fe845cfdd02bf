"""The experiments: their command lines, which cells they run, that finished cells stay, and the tables they make of results."""

from __future__ import annotations

import importlib
import json
import math
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tempering.contracts import Example
from tempering.errors import TemperingError
from tempering.framings.gaps import label_words
from tempering.prompting.selecting import Tuned, begun, with_cloze
from tempering.recipe import Recipe
from tempering.tasks import Task

FOLDER = Path(__file__).parents[1] / "experiments"
SCRIPTS = {"tagging": "", "intermediate": "", "run in adaptive": "adaptive", "run in lm-bff": "lm-bff"}  # made of cells
SIMPLE = {"ranking": "", "setfit": "", "run in priming": "priming", "in-context": "", "text-to-text": "", "floors": ""}
OTHERS = ("in-context", "ranking", "setfit", "text-to-text", "floors", "priming/run", "stability/run", "smollm2")
Loader = Callable[[str], Any]


@pytest.fixture
def script() -> Iterator[Loader]:
    """Imports a script by its name, with the modules that stand beside it; they are in no package."""
    before, path = set(sys.modules), list(sys.path)

    def load(name: str) -> Any:
        for own in ("run", "arms", "runner"):
            sys.modules.pop(own, None)
        sys.path[:0] = [str(FOLDER), str(FOLDER / (SCRIPTS | SIMPLE)[name])]
        return importlib.import_module(name.split()[0])

    yield load
    sys.path[:] = path
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "").is_relative_to(FOLDER):
            del sys.modules[name]


def fake(cells: Any, keys: list[str], score: Callable[[str], float]) -> None:
    for key in keys:
        cells.done[key] = {"score": score(key), "main_metric": "accuracy", "metric": "accuracy", "perplexity": 7.5}


def killed_in_the_third_step(module: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The steps that the script's fits take, over all of them; after the third of these the fit is interrupted."""
    whole, steps = module.fit, list[int]()

    def fit(*given: Any, **named: Any) -> Any:
        def listen(event: Any) -> None:
            if event["event"] == "step":
                steps.append(event["step"])
                if len(steps) == 3:
                    raise KeyboardInterrupt

        return whole(*given, **named, listener=listen)

    monkeypatch.setattr(module, "fit", fit)
    return steps


def opened(module: Any, folder: Path, **settings: Any) -> Any:
    return module.Cells.open(folder, settings)


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_is_printed(script: Loader, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = script(name)
    with pytest.raises(SystemExit) as end:
        module.parsed(["--help"])
    assert end.value.code == 0
    said = capsys.readouterr().out
    assert all(option in said for option in ("--data", "--model", "--seeds", "--hours", "--output", "--table"))


@pytest.mark.parametrize("name", SIMPLE)
def test_help_is_the_scripts_own_account_of_itself(script: Loader, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = script(name)
    with pytest.raises(SystemExit) as end:
        module.parsed(["--help"])
    assert end.value.code == 0
    said = capsys.readouterr().out
    assert module.__doc__.strip() in said and "--data" in said and "--output" in said


def test_lists_are_parted_by_commas_and_unknown_names_refused(script: Loader, capsys: pytest.CaptureFixture[str]) -> None:
    assert script("in-context").parsed(["M", "--shots", "0,2", "--tasks", "sst2"]).shots == [0, 2]
    assert script("run in priming").parsed(["--sizes", "100,all", "max_steps=3"]).sizes == ["100", "all"]
    floors = script("floors")
    assert floors.parsed(["--tasks", "sst2,rte", "max_steps=3"]).settings == ["max_steps=3"]
    with pytest.raises(SystemExit):
        floors.parsed(["--tasks", "sst2,rtx"])
    assert "--tasks: rtx not known; there are sst2, trec6, rte, stsb, sms_spam" in capsys.readouterr().err


@pytest.mark.parametrize("name", OTHERS)
def test_the_other_scripts_compile_and_say_how_they_are_run(name: str) -> None:
    path = FOLDER / f"{name}.py"
    if not path.exists():
        pytest.skip(f"there is no {path.name}")
    text = path.read_text(encoding="utf-8")
    compile(text, str(path), "exec")
    assert f"python experiments/{name}.py" in text or name == "smollm2"


def test_every_script_stands_in_the_list() -> None:
    said = (FOLDER / "README.md").read_text(encoding="utf-8")
    found = [p for p in FOLDER.rglob("*.py") if "def main(" in p.read_text(encoding="utf-8")]
    assert [str(p.relative_to(FOLDER)) for p in found if f"`{p.relative_to(FOLDER)}`" not in said] == []


def test_a_finished_cell_is_never_made_again(script: Loader, tmp_path: Path) -> None:
    module = script("tagging")
    cells = opened(module, tmp_path, rows=5)
    made: list[str] = []

    def make() -> dict[str, float]:
        made.append("x")
        return {"score": 0.5}

    assert cells.get("a", make) == {"score": 0.5} == cells.get("a", make)
    again = opened(module, tmp_path, rows=5)
    assert again.get("a", make) == {"score": 0.5} and made == ["x"]
    assert not list(tmp_path.glob("*.part"))


def test_cells_of_other_settings_are_refused(script: Loader, tmp_path: Path) -> None:
    module = script("tagging")
    opened(module, tmp_path, rows=5).get("a", lambda: {"score": 1.0})
    with pytest.raises(SystemExit, match="rows=5, and now rows=6"):
        opened(module, tmp_path, rows=6)


def test_two_commands_beside_each_other_keep_the_cells_of_both(script: Loader, tmp_path: Path) -> None:
    module = script("tagging")
    first, second = opened(module, tmp_path), opened(module, tmp_path)
    first.get("a", lambda: {"score": 1.0})
    second.get("b", lambda: {"score": 2.0})
    first.get("c", lambda: {"score": 3.0})
    assert first.scores("abc") == opened(module, tmp_path).scores("abc") == [1.0, 2.0, 3.0]


def test_no_cell_is_begun_once_the_hours_are_spent(script: Loader, tmp_path: Path) -> None:
    script("tagging")
    import cells

    made = cells.Cells.open(tmp_path, {}, hours=0.0)
    made.done["there"] = {"score": 1.0}
    made.started -= 1
    assert made.get("there", lambda: {"score": 0.0}) == {"score": 1.0}
    with pytest.raises(cells.OutOfTimeError):
        made.get("new", lambda: {"score": 0.0})


def test_the_table_is_written_of_what_there_was_time_for(script: Loader, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = script("tagging")
    import cells

    args = module.parsed(["--output", str(tmp_path / "runs"), "--table", str(tmp_path / "t.md"), "--hours", "1", "--rows", "5"])

    def run(made: Any) -> None:
        made.get("first", lambda: {"score": 0.5})
        made.started -= 3601
        made.get("second", lambda: {"score": 0.5})

    cells.carry_out(args, ("rows",), run, lambda made, given: f"{sorted(made.done)} of {made.settings} {given.rows}")
    assert (tmp_path / "t.md").read_text() == "['first'] of {'rows': 5} 5" and "1.0 hours are spent" in capsys.readouterr().out


@pytest.mark.parametrize("name", [*SCRIPTS, *(name for name in SIMPLE if name not in ("text-to-text", "floors"))])
def test_every_script_of_cells_says_where_they_are_kept(name: str, script: Loader) -> None:
    words = ["MODEL"] if name == "in-context" else ["--peer", "python"] if name == "setfit" else []
    args = script(name).parsed([*words, "--cells", "c.json", "--output", "o", "--table", "t.md", "--hours", "2"])
    assert (args.cells, args.output, args.table, args.hours) == (Path("c.json"), Path("o"), Path("t.md"), 2.0)


def test_means_and_intervals_are_right(script: Loader) -> None:
    script("tagging")
    import cells

    assert cells.spread([0.5, 0.6, 0.7, math.nan]) == "60.0 ± 10.0 (35.2 to 84.8)"  # t(0.975, 2) = 4.303, times 10 / sqrt(3)
    assert cells.spread([0.5]) == "50.0" and cells.spread([math.nan]) == ""
    assert cells.spread([0.5, 0.5, 0.5]) == "50.0 ± 0.0"  # equal values are rounded ones: an interval of no width would call them certain
    pair = cells.paired([0.6, 0.7, 0.81], [0.5, 0.6, 0.7])
    assert pair.difference == pytest.approx(0.31 / 3) and cells.verdict(pair) == "holds"
    assert cells.verdict(cells.paired([0.5, 0.6, 0.7], [0.6, 0.7, 0.81])) == "is reversed"
    assert cells.verdict(pair, tests=10_000) == "not decided (right direction)"
    assert cells.verdict(cells.paired([math.nan] * 2, [0.1, 0.2])) == "not run"


def test_tagging_compares_with_floor_and_full(script: Loader, tmp_path: Path) -> None:
    module = script("tagging")
    args = module.parsed(["--tasks", "wnut17,ud_en_ewt_pos", "--seeds", "2"])
    assert len(module.plan(args)) == 2 * 3 * 2 and module.plan(args)[0] == ("wnut17", "tagging", 0)
    cells = opened(module, tmp_path)
    fake(cells, [module.key(*c) for c in module.plan(args)], lambda k: 0.3 + 0.01 * int(k[-1]) if "lora" in k else 0.5)
    said = module.table(cells, args)
    assert "| wnut17 | entity F1 | 6.0 | 50.0 ± 0.0 |" in said
    assert "ud_en_ewt_pos, tagging-lora: 2 of 2 runs are not above the floor." in said


def test_intermediate_training_names_its_sources(script: Loader, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = script("intermediate")
    words = ["--seeds", "1", "--rows", "9", "--source-rows", "200", "--many-rows", "150"]
    args = module.parsed([*words, "--arms", "none,stilts,multi-task,muppet"])
    assert ("snli_10k", "stilts", 0) not in module.plan(args) and len(module.plan(args)) == 15
    assert len(set(module.MANY)) == len(module.MANY) >= 16  # fewer are known to hurt
    assert set(module.FOUR) <= set(module.MANY)
    assert module.rows_for("rte", "multi-task", args) == 9 and module.rows_for("snli_10k", "stilts", args) == 200
    assert module.rows_for("rte", "muppet", args) == 9 and module.rows_for("cola", "muppet", args) == 150
    stilts = module.first_stage("stilts", ["a.jsonl"], module.parsed(["--first-steps", "7", "--max-length", "64"]))
    assert (stilts.data, stilts.max_steps, stilts.framing.max_length) == ("a.jsonl", 7, 64)
    assert [t.data for t in module.first_stage("muppet", ["a", "b", "c"], args).tasks] == ["a", "b", "c"]
    module.parsed(["--arms", "none,stilts", "--many-rows", "149"])
    with pytest.raises(SystemExit):
        module.parsed(["--arms", "none,muppet", "--many-rows", "149"])
    assert "--many-rows 149: muppet needs 150 at least" in capsys.readouterr().err
    cells = opened(module, tmp_path)
    fake(cells, [module.key(*c) for c in module.plan(args)], lambda k: 0.5)
    assert "| rte | accuracy | 50.0 | 50.0 | 50.0 | 50.0 |" in module.table(cells, args)
    with pytest.raises(SystemExit):
        module.parsed(["--arms", "all"])


def test_the_rows_of_a_source_are_those_of_the_cut(script: Loader, tmp_path: Path) -> None:
    module = script("intermediate")
    rows = [json.dumps({"text": f"text {i}\u2028", "label": "ab"[i % 2]}, ensure_ascii=False) for i in range(40)]
    (tmp_path / "data" / "x").mkdir(parents=True)
    for split in ("train", "dev", "test"):
        (tmp_path / "data" / "x" / f"{split}.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    args = module.parsed(["--data", str(tmp_path / "data"), "--output", str(tmp_path / "out")])
    wanted = module.cut(module.load(args.data, "x"), 8, 3).train
    found = Task.from_file(module.as_folder("x", 8, 3, args))
    assert [e.texts for e in found.train] == [e.texts for e in wanted] and len(found.train) == 8


def test_adaptation_stages_and_table(script: Loader, tmp_path: Path) -> None:
    module = script("run in adaptive")
    args = module.parsed(["--seeds", "2", "--tasks", "sst2", "--dapt-steps", "5", "--batch", "64"])
    assert module.stages("sst2", "DAPT + TAPT") == [("dapt", "imdb_reviews"), ("tapt", "sst2")]
    assert module.stages("sst2", "other domain") == [("dapt", "books")] and module.stages("sst2", "none") == []
    dapt = module.stage("dapt", args, Path("books.txt")).stages[0]
    assert (dapt.text, dapt.max_steps, dapt.gradient_accumulation_steps, dapt.framing.max_length) == ("books.txt", 5, 4, 128)
    assert module.stage("tapt", args, None).stages[0].text == "unlabeled"
    exact = module.parsed(["bf16=true", "learning_rate=3e-5"])
    assert (module.stage("dapt", exact, None).stages[0].bf16, module.stage("dapt", exact, None).stages[0].learning_rate) == (True, 1e-4)
    cells = opened(module, tmp_path)
    fake(cells, [module.key(*c) for c in module.plan(args)], lambda k: 0.9 + 0.001 * int(k[-1]) if "DAPT" in k else 0.8)
    cells.done["before/sst2"] = {"perplexity": 9.0}
    said = module.report(cells, args)
    assert "Of the published order (6 claims): " in said and "| sst2 | 9.0 | 7.5 ± 0.0 | 7.5 ± 0.0 |" in said
    assert "| task | before | after DAPT | after TAPT |" in said
    assert "read both imdb_reviews.txt and books.txt" in said and "hyperpartisan has 515 articles" in said


@pytest.fixture
def few() -> Task:
    rows = [Example((f"text {i}",), "ab"[i % 2], row=i + 1) for i in range(80)]
    return Task.from_examples(rows, rows[:4], rows[:6], "classification")


def test_lm_bff_draws_equal_development_rows_that_are_not_trained_on(script: Loader, few: Task) -> None:
    script("run in lm-bff")
    import runner

    one, other = runner.split(few, 0), runner.split(few, 1)
    for task in (one, other):
        assert task.dev is not None
        assert len(task.train) == len(task.dev) == 32
        assert not {e.texts for e in task.train} & {e.texts for e in task.dev}
        assert sum(e.label == "a" for e in task.train) == sum(e.label == "a" for e in task.dev) == 16
    assert [e.texts for e in one.train] != [e.texts for e in other.train]


def test_lm_bff_arms_are_recipes_that_pass_their_checks(script: Loader, few: Task) -> None:
    module = script("run in lm-bff")
    import arms
    import runner

    args = module.parsed(["--candidates", "2", "--steps", "50"])
    for arm in [*arms.ARMS.values(), *(a for _, a in arms.variants().values())]:
        for framing in arm.candidates("sst2", few, args).values():
            made = runner.recipe(framing, 1e-5, 8, 50, "accuracy") if arm.trained else Recipe("x", (runner.Use(framing),))
            try:
                made.check()
            except TemperingError as error:
                pytest.fail(f"{arm.name}: {error}")
    one = runner.recipe(arms.Head(), 1e-5, 4, 50, "f1:a").stages[0]
    assert (one.eval_steps, one.metric_for_best_model) == (5, "f1:a")
    assert runner.best({"a": {"dev": 1.0, "loss": 0.3}, "b": {"dev": 1.0, "loss": 0.2}, "c": {"dev": 0.5, "loss": 0.1}}) == "b"
    assert arms.GRIDS["paper"] == ((1e-5, 2e-5, 5e-5), (2, 4, 8))


def watched(monkeypatch: pytest.MonkeyPatch) -> tuple[list[float], list[float]]:
    """The rates that are fitted, and those that are tested; nothing is trained, and 1e-4 is best."""
    import runner

    fits: list[float] = []
    tested: list[float] = []

    def fit(recipe: Recipe, task: Task, *_: Any, **__: Any) -> SimpleNamespace:
        assert task.test is None
        fits.append(getattr(recipe.stages[-1], "learning_rate", 0.0))
        dev = {"accuracy": 0.9 if fits[-1] == 1e-4 else 0.7, "loss": 1.0}
        return SimpleNamespace(rate=fits[-1], record={"main_metric": "accuracy", "metrics": {"dev": dev}, "train_seconds": 0})

    def evaluate(learner: SimpleNamespace, task: Task, metrics: tuple[str, ...]) -> dict[str, dict[str, float]]:
        tested.append(learner.rate)
        return {"test": dict.fromkeys(metrics, 0.8)}

    monkeypatch.setattr(runner, "fit", fit)
    monkeypatch.setattr(runner, "evaluate", evaluate)
    return fits, tested


def test_lm_bff_chooses_on_dev_and_tests_the_best_alone(script: Loader, few: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = script("run in lm-bff")
    import arms
    import runner

    fits, tested = watched(monkeypatch)
    args = module.parsed(["--tasks", "sst2", "--seeds", "1", "--output", str(tmp_path)])
    cells = opened(module, tmp_path)
    runner.Runner(cells, args, {"sst2": few}).run("sst2", arms.ARMS["fine-tuning"], 0)
    assert fits == [2e-5, 1e-4] and tested == [1e-4] and cells["sst2/fine-tuning/0"]["chosen"] == "0.0001 x 8"
    del cells.done["sst2/fine-tuning/0"]  # as if stopped before the test: the chosen point alone is fitted again
    runner.Runner(cells, args, {"sst2": few}).run("sst2", arms.ARMS["fine-tuning"], 0)
    assert fits[2:] == [1e-4] and tested == [1e-4, 1e-4]


def test_lm_bff_trains_nothing_twice(script: Loader, few: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = script("run in lm-bff")
    import arms
    import runner

    fits, tested = watched(monkeypatch)
    args = module.parsed(["--tasks", "sst2", "--seeds", "1", "--output", str(tmp_path)])
    cells = opened(module, tmp_path)
    made = runner.Runner(cells, args, {"sst2": few})
    made.run("sst2", arms.ARMS["automatic words"], 0)
    assert fits == [1e-4] * args.candidates + [2e-5] and tested == [1e-4]  # the best candidate is one of the grid's points
    made.run("sst2", arms.ARMS["zero-shot"], 0)
    assert len(fits) == args.candidates + 2 and tested == [1e-4, 0.0]  # what is not trained reads the test split once, too
    _, variant = arms.variants()["great/terrible"]
    cells.done["sst2/prompt/0"] = {"score": 0.25}
    made.run("sst2", variant, 0)
    assert len(fits) == args.candidates + 2 and cells["sst2/words great/terrible/0"] == {"score": 0.25}


def test_lm_bff_searches_templates_without_the_manual_one(
    script: Loader, few: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = script("run in lm-bff")
    import runner

    begun: list[Any] = []

    def find(task: Task, model: str, cloze: Any, settings: Any, base: Recipe, seed: int) -> SimpleNamespace:
        begun.append(cloze)
        made = replace(base, stages=(replace(base.stages[-1], framing=replace(cloze, template="{text} so {mask}")),))
        return SimpleNamespace(recipe=made, notes=(), candidates=(), tuned=())

    monkeypatch.setattr(runner, "find_prompts", find)
    args = module.parsed(["--tasks", "sst2", "--output", str(tmp_path)])
    rows = [replace(e, label={"a": "negative", "b": "positive"}[e.label]) for e in few.train]
    found = runner.Runner(opened(module, tmp_path), args).search("sst2", Task.from_examples(rows), 0)
    assert begun[0].templates == () and dict(begun[0].words) == {"negative": ("terrible",), "positive": ("great",)}
    assert found["template"] == "{text} so {mask}" and found["words"] == [["negative", ["terrible"]], ["positive", ["great"]]]


@pytest.mark.parametrize(("dev", "rates"), [(0.6, [2e-5]), (0.8, [2e-5, 1e-4])])
def test_lm_bff_does_not_fit_the_found_template_again_at_the_setting_of_the_search(
    dev: float, rates: list[float], script: Loader, few: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its fit there is a point of the grid by the same recipe; where that is the best one, its learner is made again for the test."""
    module = script("run in lm-bff")
    import arms
    import runner

    fits, tested = watched(monkeypatch)
    keys: list[str] = []
    watching = runner.fit
    monkeypatch.setattr(runner, "fit", lambda recipe, *rest, **more: (keys.append(recipe.key()), watching(recipe, *rest, **more))[1])

    def find(task: Task, model: str, cloze: Any, settings: Any, base: Recipe, seed: int) -> SimpleNamespace:
        words = label_words.resolved(cloze.words, task, None, ())
        best = replace(begun(base, cloze), words=tuple(words.items()), template="{text} so {mask}")
        keys.append(with_cloze(base, best).key())
        made = with_cloze(base, replace(best, template=(best.template,)))
        tuned = tuple(Tuned(best, {"accuracy": score, "loss": 0.5}, 3.0) for score in (dev, 0.1))
        return SimpleNamespace(recipe=made, notes=(), candidates=(), tuned=tuned)

    monkeypatch.setattr(runner, "find_prompts", find)
    args = module.parsed(["--tasks", "sst2", "--seeds", "1", "--output", str(tmp_path)])
    rows = [replace(e, label={"a": "negative", "b": "positive"}[e.label]) for e in few.train]
    cells = opened(module, tmp_path)
    runner.Runner(cells, args, {"sst2": Task.from_examples(rows, rows[:4], rows[:6])}).run("sst2", arms.ARMS["automatic templates"], 0)
    assert fits == rates and tested == rates[-1:]
    assert cells["sst2/automatic templates/0/0.0001 x 8"] == {"dev": dev, "loss": 0.5, "seconds": 3.0}
    assert dev < 0.7 or keys[0] == keys[-1]


def test_lm_bff_tables(script: Loader, tmp_path: Path) -> None:
    module = script("run in lm-bff")
    args = module.parsed(["--tasks", "sst2,trec6", "--seeds", "3", "--sensitivity"])
    cells = opened(module, tmp_path)
    keys = [f"{name}/{arm.name}/{seed}" for name, arm, seed in module.plan(args)]
    assert len(keys) == len(set(keys)) and sum(k.startswith("sst2/majority/") for k in keys) == 1
    fake(cells, keys, lambda k: 0.9 + 0.001 * int(k[-1]) if "prompt" in k else 0.5)
    said = module.report(cells, args)
    assert "| prompt | fine-tuning | +40.1 (+39.9 to +40.3), p < 0.001 | holds | +40.1 | (not said) |" in said
    assert "| zero-shot | majority | +0.0 | one measurement | +0.0 | +0.0 |" in said
    assert "| fine-tuning, all rows | fine-tuning | +0.0 | one measurement |" in said
    assert "| sst2 | great/terrible | 50.0 ± 0.0" in said and "words permuted" in said
    assert "population standard deviations, which are 0.816 of these" in said  # sqrt(2 / 3)
    assert statistics.pstdev([1.0, 2.0, 6.0]) == pytest.approx(module.population(3) * statistics.stdev([1.0, 2.0, 6.0]))


def test_lm_bff_has_the_papers_tasks_contexts_and_metrics(script: Loader, few: Task, capsys: pytest.CaptureFixture[str]) -> None:
    module = script("run in lm-bff")
    import arms
    import runner

    for wrong in (["--arms", "no such arm"], ["--tasks", "sst2,mnly"]):
        with pytest.raises(SystemExit):
            module.parsed(wrong)
    assert "--tasks: mnly not known; there are sst2, trec6, snli_10k" in capsys.readouterr().err
    args = module.parsed(["--contexts", "16", "--tasks", ",".join((*arms.TASKS, *arms.OTHERS))])
    assert len(args.tasks) == 15
    assert {name for name in args.tasks if arms.contexts(name, args) == 4} == {"mnli", "snli_10k", "qqp"}
    assert arms.contexts("qqp", module.parsed(["--contexts", "2"])) == 2
    pair = replace(few, labels=("paraphrase", "not_paraphrase"))
    found = {name: arms.metric(name, pair if name in ("mrpc", "qqp") else few) for name in args.tasks}
    named = {"cola": "matthews_correlation", "mrpc": "f1:paraphrase", "qqp": "f1:paraphrase", "stsb": "pearson"}
    assert found == dict.fromkeys(args.tasks, "accuracy") | named
    rows = [Example((f"text {i}",), "not_paraphrase" if i % 4 else "paraphrase") for i in range(8)]
    mostly = Task.from_examples(rows, rows, rows, "classification")
    assert runner.majority("mrpc", mostly)["score"] == 0.0 and runner.majority("mr", mostly)["score"] == 0.75


def test_both_forms_of_in_context_learning_come_of_one_asking(script: Loader) -> None:
    """p / p_cf times p_cf is p: two rows that the prompt alone would call b, of which calibration turns one."""
    module = script("in-context")
    task = Task.from_examples([Example(("x",), "a"), Example(("y",), "b")], test=[Example(("x",), "a"), Example(("y",), "b")])
    prior = np.array([0.2, 0.8])
    plain = np.array([[0.4, 0.6], [0.1, 0.9]])
    calibrated = plain / prior
    found = module.judged(task, calibrated / calibrated.sum(1, keepdims=True), prior)
    assert (found["plain"]["said"], found["plain"]["accuracy"]) == ([0.0, 1.0], 0.5)
    assert (found["calibrated"]["said"], found["calibrated"]["accuracy"]) == ([0.5, 0.5], 1.0)
    assert found["frequency"] == {"a": 0.5, "b": 0.5}


def test_the_tables_of_in_context_learning_hold_what_is_there(script: Loader, tmp_path: Path) -> None:
    module = script("in-context")
    args = module.parsed(["M", "--tasks", "sst2", "--shots", "0,2", "--seeds", "3", "--orders", "2"])
    assert [module.key(c) for c in module.plan(args)] == [
        "sst2/0/0/0",
        "sst2/2/0/0",
        "sst2/2/0/1",
        "sst2/2/0/2",
        "sst2/2/1/0",
        "sst2/2/2/0",
    ]
    cells = opened(module, tmp_path)
    for at, name in enumerate(["sst2/0/0/0", "sst2/2/0/0", "sst2/2/1/0", "sst2/2/0/1", "sst2/2/0/2"]):
        scores = {"plain": 0.5 + 0.1 * at, "calibrated": 0.5 + 0.15 * at}
        forms = {form: {"accuracy": scores[form], "macro_f1": 0.4, "said": [0.9, 0.1]} for form in module.FORMS}
        cells.done[name] = {"seconds": 0.25, "shown": [], "prior": [0.3, 0.7], "frequency": {"no": 0.75, "yes": 0.25}} | forms
    said = module.report(cells, args)
    assert "| sst2 | 0 | 50.0 | 50.0 | 40.0 | 40.0 | +0.0 | 1 |" in said
    wide, same = "65.0 ± 7.1 (1.5 to 128.5)", "40.0 ± 0.0"  # t(0.975, 1) = 12.7, times 7.1 / sqrt(2)
    gain = "+7.5 (-24.3 to +39.3)"  # of the draws 5 and 10 points
    assert f"| sst2 | 2 | {wide} | 72.5 ± 10.6 (-22.8 to 167.8) | {same} | {same} | {gain} | 2 |" in said
    assert "| sst2 | 85.0 ± 7.1 (21.5 to 148.5) | 80.0 to 90.0 |" in said
    assert "| sst2 | 2 | yes | 25.0 | 70.0 ± 0.0 | 10.0 ± 0.0 |" in said
    assert "median 0.250" in said


def test_setfit_is_compared_on_the_seeds_both_sides_have(script: Loader, tmp_path: Path) -> None:
    module = script("setfit")
    args = module.parsed(["--tasks", "sst2", "--k", "8", "--seeds", "3", "--peer", "python"])
    cells = opened(module, tmp_path)
    for seed, ours, theirs in [(0, 0.7, 0.6), (1, 0.8, 0.7), (2, 0.1, None)]:
        cells.done[f"sst2/8/{seed}/tempering"] = {"accuracy": ours, "seconds": 1.0}
        if theirs is not None:
            cells.done[f"sst2/8/{seed}/setfit"] = {"accuracy": theirs, "seconds": 2.0}
    said = module.report(cells, args)
    assert "| sst2 | 8 | 2 | 0.750 ± 0.071 | 1.0 ± 0.0 | 0.650 ± 0.071 | 2.0 ± 0.0 | +10.0 | no interval | 2.0x |" in said
    assert "| mean |" not in said  # one line is its own mean


def test_setfit_is_level_only_where_the_whole_interval_is_within_the_margin(script: Loader, tmp_path: Path) -> None:
    module = script("setfit")
    args = module.parsed(["--tasks", "sst2", "trec6", "--k", "8", "--seeds", "5", "--peer", "python"])
    cells = opened(module, tmp_path)
    gaps = {"sst2": (0.01, -0.01, 0.0, 0.01, -0.01), "trec6": (0.09, -0.08, 0.0, 0.07, -0.08)}  # both have a mean of 0
    for task, found in gaps.items():
        for seed, gap in enumerate(found):
            cells.done[f"{task}/8/{seed}/tempering"] = {"accuracy": 0.7 + gap, "seconds": 1.0}
            cells.done[f"{task}/8/{seed}/setfit"] = {"accuracy": 0.7, "seconds": 2.0}
    said = module.report(cells, args)
    assert "| +0.0 (-1.2 to +1.2) | level | 2.0x |" in said  # t(0.975, 4) = 2.776, times 1 / sqrt(5)
    assert "| trec6 | 8 | 5 |" in said and "| +0.0 (-10.0 to +10.0) | not shown to be level |" in said
    assert "| mean |  | 5 |" in said and "level within 3 points?" in said
    args.margin = 1.0
    assert "| level |" not in module.report(cells, args)
    pair = module.paired([0.75, 0.76, 0.74], [0.74, 0.75, 0.73001])
    assert module.said(pair, 3.0) == "level, better" and module.said(pair, 0.5) == "better"


def test_rankings_agree_or_not_on_finished_tasks(script: Loader, tmp_path: Path) -> None:
    module = script("ranking")
    args = module.parsed(["--models", "a,b", "--tasks", "sst2,rte", "--recipes", "head", "--seeds", "1"])
    cells = opened(module, tmp_path)
    assert module.report(cells, args) == "No task is finished.\n"
    scores = {"a": dict.fromkeys(module.MEASURES, 1.0), "b": dict.fromkeys(module.MEASURES, 2.0)}
    scores["a"][module.MEASURES[0]] = None  # a measure that could not be taken
    cells.done |= {"sst2/measures/a,b": {"scores": scores, "rows": 1000}, "sst2/head/a/0": {"score": 0.5}, "sst2/head/b/0": {"score": 0.75}}
    said = module.report(cells, args)
    assert f"| head | {module.MEASURES[1]} | 1.00 | 1.00 | 1.00 of 1 | 0.0 |" in said
    assert f"| head | {module.MEASURES[0]} |" not in said and "rte" not in said
    assert "| sst2 | a | - | 1.000 |" in said
    assert "measures read training rows (1000); tuned on all training rows in 300 steps at least" in said  # not the 2000 of --rows
    cells.done |= {"rte/measures/a,b": {"scores": scores, "rows": 800}, "rte/head/a/0": {"score": 0.5}, "rte/head/b/0": {"score": 0.75}}
    assert "measures read training rows (1000 of sst2, 800 of rte)" in module.report(cells, args)


def test_priming_is_compared_with_none_over_all_languages(script: Loader, tmp_path: Path) -> None:
    module = script("run in priming")
    import tables

    args = module.parsed(["--languages", "x,y", "--recipes", "prime-none,prime", "--sizes", "100", "--seeds", "3"])
    cells = opened(module, tmp_path)
    for seed in range(3):
        for language, base in (("x", 0.2), ("y", 0.4)):
            cells.done[f"{language}/prime-none/{seed}/100"] = {"score": base}
            cells.done[f"{language}/prime/{seed}/100"] = {"score": base + 0.1 + 0.01 * seed}
    said = module.report(cells, args)
    assert "| 100 | prime-none | 20.0 ± 0.0 | 40.0 ± 0.0 | 30.0 ± 0.0 |  |" in said
    assert "| 41.0 ± 1.0 (38.5 to 43.5) | +11.0 (+8.5 to +13.5), p = 0.003 |" in said
    assert "| 100 | prime | +11.0 (+8.5 to +13.5), p = 0.005 | +11.0 (+8.5 to +13.5), p = 0.005 |" in said  # a test for each target
    assert "MiniLM read English only" in said and "WikiANN repeats" not in said
    args.sizes = ["100", "500"]
    assert "+11.0 (+8.5 to +13.5), p = 0.005 |" in tables.table(cells, args)  # sizes are tests, too
    assert "p = 0.011 |" in tables.by_target(cells, args)
    args.largest = ["prime-none"]  # with 500 rows there is nothing to compare
    assert "p = 0.003 |" in tables.table(cells, args) and "| 500 | prime |" not in module.report(cells, args)
    assert "500 rows: only prime-none." in module.report(cells, args)
    del cells.done["y/prime/2/100"]
    assert "40.5 ± 0.7" in module.report(cells, args)  # a seed counts where all languages have it
