"""The report on real-data claims: its test of variances, its pooling over tasks, and what it says of them."""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from scipy import stats

from tempering.contracts import Example
from tempering.recipe import Recipe
from tempering.study.decide import conclude
from tempering.tasks import Task
from tests.report.conftest import make_study
from tests.tiny import save_tiny, tiny_examples


def load() -> ModuleType:
    """A script whose name is no module's."""
    path = Path(__file__).parents[1] / "experiments" / "claims-stability.py"
    spec = importlib.util.spec_from_file_location("claims_stability", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["claims_stability"] = module  # dataclasses look their module up
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module


claims = load()
from_table = sys.modules["claims_table"]  # what it imported from beside it
judging = sys.modules["claims_statistics"]


@cache
def cell_of() -> Any:
    return conclude(*make_study(recipes=("full",), sizes=("32",), trouble=False)).sizes[0].cells[0]


def result(task: str, method: str = "mmr", better: float = 0.02, ratio: float = 0.5, p: float = 0.4, ratio_p: float = 0.4) -> Any:
    bounds, cell = (better - 0.01, better + 0.01), cell_of()
    return claims.Result(task, method, "accuracy", cell, cell, 5, better, *bounds, p, min(1.0, 2 * p), ratio, ratio_p)


def given(*words: str, **changes: Any) -> argparse.Namespace:
    args = claims.parsed(list(words))
    vars(args).update(changes)
    return args  # type: ignore[no-any-return]


def rejected(found: list[float]) -> None:
    """As many of these p values under 0.05 as 0.05 of them may be."""
    count = sum(p < 0.05 for p in found)
    assert stats.binom.cdf(count, len(found), 0.05) > 0.001
    assert stats.binom.sf(count - 1, len(found), 0.05) > 0.001


def drawn(rng: np.random.Generator, seeds: int, scale: float = 1.0) -> tuple[Any, Any]:
    """Scores of two recipes that share rows, initialization and order, the second ``scale`` times as wide."""
    shared = rng.standard_normal(seeds)
    return shared + 0.5 * rng.standard_normal(seeds), scale * (shared + 0.5 * rng.standard_normal(seeds))


def test_the_test_of_two_variances_keeps_its_level_although_pairs_are_correlated() -> None:
    rng = np.random.default_rng(0)
    rejected([claims.morgan_pitman(*drawn(rng, 6))[1] for _ in range(1000)])


def test_a_variance_that_differs_is_found_and_its_ratio_told() -> None:
    rng = np.random.default_rng(1)
    shared = rng.standard_normal(40)
    ratio, p = claims.morgan_pitman(shared, 0.5 * shared + 0.1 * rng.standard_normal(40))
    assert ratio == pytest.approx(0.5, rel=0.1)
    assert p < 0.001
    assert math.isnan(claims.morgan_pitman([0.5, 0.5, 0.5], [0.4, 0.5, 0.6])[0])
    assert math.isnan(claims.morgan_pitman([0.5, 0.6], [0.4, 0.6])[1])


def test_scores_that_never_vary_prove_nothing() -> None:
    """r of sums with differences would be -1 exactly, and p 0: but such scores are rounded, not normal."""
    ratio, p = claims.morgan_pitman([0.4, 0.5, 0.7, 0.6], [0.9, 0.9, 0.9, 0.9])
    assert ratio == 0.0 and math.isnan(p)
    assert claims.morgan_pitman([0.4, 0.5, 0.7], [0.6, 0.7, 0.9])[1] == pytest.approx(1.0)


def test_over_few_tasks_of_few_seeds_both_tests_keep_their_level() -> None:
    """Eleven tasks of four seeds, as the experiment has them: logs of ratios over tasks, and the tests of the tasks joined."""
    rng = np.random.default_rng(2)
    over, here = [], []
    for _ in range(200):
        pairs = [claims.morgan_pitman(*drawn(rng, 4)) for _ in range(11)]
        found = judging.average([math.log(r) for r, _ in pairs], [(math.log(r), p) for r, p in pairs])
        over.append(found.p)
        here.append(found.here)
    rejected(over)
    rejected(here)  # all joined tests, but for the few whose sign is not the mean's, which are rarely far from 0


def test_over_tasks_half_the_spread_is_found() -> None:
    rng = np.random.default_rng(3)
    pairs = [claims.morgan_pitman(*drawn(rng, 4, scale=0.4)) for _ in range(11)]
    found = judging.average([math.log(r) for r, _ in pairs], [(math.log(r), p) for r, p in pairs])
    assert found.high < 0 and found.p < 0.01 and found.here < 0.01


def test_the_interval_over_tasks_is_the_t_interval() -> None:
    values = [0.3, -0.1, 0.4, 0.2]
    found = judging.average(values, [])
    theirs = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert (found.mean, found.low, found.high) == pytest.approx((np.mean(values), *theirs))
    assert found.p == pytest.approx(stats.ttest_1samp(values, 0).pvalue)
    assert judging.average([0.3, math.nan], []).mean == 0.3
    assert math.isnan(judging.average([0.3], []).low) and math.isnan(judging.average([], []).mean)


def test_independent_tests_are_joined_by_their_quantiles() -> None:
    assert judging.joined([(1, 0.05), (1, 0.05)]) == pytest.approx(2 * stats.norm.isf(0.025) / 2**0.5)
    assert judging.joined([(1, 0.05), (-1, 0.05), (1, math.nan)]) == pytest.approx(0.0)
    assert math.isnan(judging.joined([]))
    assert judging.average([0.2, 0.3], [(-1, 0.001)]).here == 1.0  # the tests say the other direction than the mean


def test_holm() -> None:
    found = judging.holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": math.nan})
    assert (found["a"], found["b"], found["c"]) == pytest.approx((0.03, 0.06, 0.06)) and math.isnan(found["d"])


def test_a_gain_is_paired_over_seeds_that_both_finished_and_corrected_for_the_methods() -> None:
    run = judging.Run
    plain, other = {i: run(0.5 + 0.01 * i) for i in range(4)}, {i: run(x) for i, x in enumerate((0.53, 0.55, 0.54, 0.58, 0.9))}
    pair = judging.paired(plain, other, 3)
    theirs = stats.ttest_rel([other[i].score for i in range(4)], [plain[i].score for i in range(4)])
    assert (pair.difference, pair.p) == pytest.approx((0.035, theirs.pvalue))
    bounds = theirs.confidence_interval(1 - 0.05 / 3)
    assert (pair.low, pair.high) == pytest.approx((bounds.low, bounds.high))
    assert judging.paired(plain, {0: run(0.5)}, 1) is None
    rows = {i: run(0.5, (1.0, 0.0) * 20) for i in range(3)}
    assert "items" in judging.paired(rows, {i: run(0.75, (1.0, 0.5) * 20) for i in range(3)}, 1).method


def test_yes_and_no_are_said_only_of_what_was_shown() -> None:
    rows = [result(f"t{i}", "mmr", 0.02 + 0.001 * i, 0.5 + 0.01 * i) for i in range(5)]
    rows += [result(f"t{i}", "lnsr", -0.02 - 0.001 * i, 2 + 0.1 * i) for i in range(5)]
    rows += [result(f"t{i}", "r3f", 0.02 * (-1) ** i, 2.0 ** ((-1) ** i)) for i in range(4)]
    rows += [result(f"t{i}", "long", (0.09, 0.001, 0.001)[i], (0.1, 0.99, 0.99)[i], p=0.001, ratio_p=0.001) for i in range(3)]
    text = claims.report(rows, given(), ended=False)
    lines = {line.split(" | ")[0][2:]: line for line in text.splitlines() if line.startswith("| ")}
    assert lines[from_table.NAMES["mmr"]].count("**yes**") == 2
    assert lines[from_table.NAMES["lnsr"]].count("**no**") == 2
    assert lines[from_table.NAMES["r3f"]].count("not shown") == 2
    assert lines[from_table.NAMES["long"]].count("| yes, here |") == 2
    assert "| 5 | 2.2 (2.0 to 2.4) |" in lines[from_table.NAMES["mmr"]]
    assert "| 0 of 0 |" in lines[from_table.NAMES["mmr"]]  # both cells are one and the same here


def test_one_method_of_nine_is_held_against_all_nine() -> None:
    values = (0.02, 0.03, 0.06, 0.03)
    assert 0.05 / 9 < judging.average(values, []).p < 0.05
    rows = [result(f"t{i}", m, value) for m in from_table.NAMES for i, value in enumerate(values)]
    alone = [r for r in rows if r.method == "mmr"]
    assert "| **yes** |" in claims.report(alone, given(), False) and "| **yes** |" not in claims.report(rows, given(), False)


def test_what_is_missing_is_said() -> None:
    assert "No comparison is finished." in claims.report([], given(), ended=True)
    assert "The hours were over" in claims.report([result("rte")], given(), ended=True)
    text = claims.report([result("rte")], given("bf16=true", "max_grad_norm=2", steps=16), ended=False)
    assert "16 steps only: a trial" in text and "as shipped, but for bf16=true, max_grad_norm=2" in text
    cell = cell_of()
    assert f"5 runs took {cell.seconds * 5 / 3600:.1f} hours." in text  # both sides are the same runs here, which count once


def test_a_cut_is_the_same_every_time_and_keeps_the_order() -> None:
    split = Task.from_examples(train=tiny_examples(40), dev=tiny_examples(40, start=100)).train
    cut = claims._cut(split, 10)
    assert cut == claims._cut(split, 10)
    rows = [e.row for e in cut]
    assert rows == sorted(rows)
    assert len(rows) == 10
    assert claims._cut(split, 40) is split


def test_every_recipe_is_there_and_runs_as_shipped_but_for_the_steps_of_surt() -> None:
    for name in ("full", *claims.FIRST, *claims.SECOND):
        assert claims._recipe(given(), name) == Recipe.load(name)
    surt = claims._recipe(given(), "surt")
    assert (surt.stages[0].max_steps, surt.stages[1]) == (100, Recipe.load("surt").stages[1])
    assert [stage.max_steps for stage in claims._recipe(given(steps=16), "surt").stages] == [16, 16]
    assert set(from_table.NAMES) == {*claims.FIRST, "surt", *claims.SECOND}


def test_settings_hold_for_every_recipe_as_in_compare(tmp_path: Path) -> None:
    args = given("--seeds", "4", "bf16=true", "--rows", "64", "stages.0.max_grad_norm=2")  # between the options, too
    assert args.settings == ["bf16=true", "stages.0.max_grad_norm=2"] and args.rows == 64
    for name in ("full", *claims.FIRST, "surt", *claims.SECOND):
        recipe = claims._recipe(args, name)
        assert recipe.stages[-1].bf16 is True and recipe.stages[0].max_grad_norm == 2
    assert claims._recipe(args, "surt").stages[0].bf16 is None
    with pytest.raises(SystemExit, match="no field 'bf61'"):
        claims.main(["bf61=true", "--runs", str(tmp_path / "runs"), "--output", str(tmp_path / "out.md")])
    with pytest.raises(SystemExit, match="expected key=value"):
        claims.main(["bf16", "--runs", str(tmp_path / "runs"), "--output", str(tmp_path / "out.md")])
    assert not list(tmp_path.iterdir())


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two data sets of the tiny task, as files."""

    def line(example: Example) -> str:
        return json.dumps({"text": example.texts[0], "label": example.label})

    for name in ("rte", "stsb"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for split, rows in (("train", tiny_examples(40)), ("dev", tiny_examples(10, start=100)), ("test", tiny_examples(20, start=200))):
            (tmp_path / "data" / name / f"{split}.jsonl").write_text("\n".join(map(line, rows)) + "\n", encoding="utf-8")
    return tmp_path / "data"


def test_all_studies_get_three_seeds_before_any_gets_more(data: Path) -> None:
    words = ["--data", str(data), "--tasks", "rte,stsb", "--more", "rte", "--seeds", "4", "--model", str(data), "--mlm", "elsewhere"]
    found = [(folder.name, [r.name for r in recipes], model, seeds) for folder, _, recipes, model, seeds in claims.studies(given(*words))]
    first, second = ["full", "multi-head", "mmr"], ["full", *claims.SECOND]
    once = [
        ("rte-128", first),
        ("rte-128-mlm", ["full", "surt"]),
        ("stsb-128", first),
        ("stsb-128-mlm", ["full", "surt"]),
        ("rte-128", second),
    ]
    assert [(name, recipes) for name, recipes, _, _ in found] == once * 2
    assert [seeds for *_, seeds in found] == [3] * 5 + [4] * 5
    assert {model for name, _, model, _ in found if "mlm" in name} == {"elsewhere"}
    shared = list(claims.studies(given(*words[:-1], str(data))))  # all from one model: SURT stands beside the others
    assert [(folder.name, recipes[-1].name) for folder, _, recipes, _, _ in shared[:2]] == [("rte-128", "surt"), ("stsb-128", "surt")]


def test_runs_made_otherwise_are_refused_and_reported_as_they_were(tmp_path: Path) -> None:
    claims.agree(given("bf16=true", "--runs", str(tmp_path / "runs")))
    claims.agree(given("bf16=true", "--runs", str(tmp_path / "runs"), "--seeds", "9", "--rows", "64"))  # these may differ
    with pytest.raises(SystemExit, match=r"made with settings=\['bf16=true'\], now it is \[\]; give another --runs"):
        claims.agree(given("--runs", str(tmp_path / "runs")))
    args = given("--runs", str(tmp_path / "runs"), "--report-only")
    claims.agree(args)
    assert args.settings == ["bf16=true"]


def test_when_the_hours_are_over_it_stops_after_a_run_and_goes_on_later(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The whole way on a tiny model: nothing, then everything, then only the table."""
    monkeypatch.setattr(claims, "FIRST", ("mmr",))
    model, out = str(save_tiny("bert", tmp_path / "model")), tmp_path / "claims.md"
    words = ["--data", str(data), "--tasks", "rte", "--more", "", "--model", model, "--mlm", model, "--rows", "16", "--seeds", "3"]
    words += ["--steps", "1", "--runs", str(tmp_path / "runs"), "--output", str(out), "eval_strategy=no", "load_best_model_at_end=false"]
    claims.main([*words, "--hours", "0"])
    assert "No comparison is finished." in out.read_text(encoding="utf-8") and "0 hours are over" in capsys.readouterr().out
    clock = iter([0.0] * 4 + [1e9] * 100)
    with monkeypatch.context() as patch:
        patch.setattr(claims.time, "perf_counter", lambda: next(clock))
        claims.main([*words, "--hours", "1"])
    assert capsys.readouterr().out.count(", seed ") == 1  # the one that was under way
    claims.main([*words, "--hours", "1"])
    assert capsys.readouterr().out.count(", seed ") == 8  # of nine
    text = out.read_text(encoding="utf-8")
    for method in ("mmr", "surt"):
        assert f"## {from_table.NAMES[method]}" in text
    assert "| rte | accuracy | 3 |" in text and "9 runs took" in text and "The hours were over" not in text
    claims.main([*words, "--report-only"])
    assert capsys.readouterr().out == f"{out} is written\n" and out.read_text(encoding="utf-8") == text
