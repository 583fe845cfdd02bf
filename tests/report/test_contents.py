from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tempering.report.contents import Contents, contents, ranges, setting_text, versions_text
from tempering.report.tables import PAIRED, letters, pair_values, rows_label
from tempering.study.decide import conclude
from tempering.study.statistics import Pair


def words_of(study: Any) -> Contents:
    return contents(conclude(*study), study[1])


def column(table: Any, heading: str) -> dict[str, str]:
    index = table.columns.index(heading)
    return {row[0]: row[index] for row in table.rows}


def test_collapsed_and_failed_runs_are_counted(study: Any) -> None:
    words = words_of(study)
    assert column(words.sections[0].scores, "collapsed") == {"full": "2", "lora": "0", "bitfit": "0", "head-only": "0"}
    assert column(words.sections[2].scores, "failed") == {"full": "0", "lora": "1", "bitfit": "0", "head-only": "0"}
    assert column(words.sections[2].scores, "seeds")["lora"] == "4"


def test_the_best_mean_comes_first_in_both_directions(make: Callable[..., Any]) -> None:
    info, records = make(sizes=("128",))
    best = words_of((info, records)).sections[0].scores.rows
    worst = words_of((replace(info, higher_is_better=False), records)).sections[0].scores.rows
    assert best[0][0] == "head-only"
    assert [row[0] for row in worst] == [row[0] for row in best][::-1]


def test_leading_rows_are_those_tied_for_the_best(study: Any) -> None:
    conclusion = conclude(*study)
    for result, section in zip(conclusion.sizes, words_of(study).sections, strict=True):
        marked = [row[0] for row, lead in zip(section.scores.rows, section.scores.leading, strict=True) if lead]
        assert marked == list(result.tied)
        assert result.tied[0] in section.remarks[0]


def test_the_better_of_a_pair_follows_the_direction_of_the_metric() -> None:
    pair = Pair("a", "b", -0.1, -0.2, -0.05, 0.001, 0.003, True, 5, "t")
    assert pair_values(pair, higher_is_better=True)["better"] == "b"
    assert pair_values(pair, higher_is_better=False)["better"] == "a"
    assert pair_values(replace(pair, different=False), higher_is_better=True)["better"] is None


def test_letters_of_groups() -> None:
    groups = [["a", "b"], ["b", "c"]]
    assert [letters(name, groups) for name in "abcd"] == ["a", "ab", "b", ""]


def test_sizes_in_words() -> None:
    assert rows_label("128", 128) == "128 training rows"
    assert rows_label("all", 6920) == "all 6,920 training rows"
    assert rows_label("512", 300) == "300 training rows (512 asked for)"
    assert rows_label("all", 0) == "size all"


def test_equal_settings_share_a_row(study: Any) -> None:
    table = words_of(study).settings
    assert table is not None
    assert ("full", "learning_rate=5e-05", "size 32, 128, 512, seed 0-2") in table.rows
    assert ("lora", "learning_rate=0.0001", "size 32, 128, seed 3-4; size 512, seed 4") in table.rows


def test_settings_are_sorted_and_seeds_shortened() -> None:
    assert setting_text({"tuning.r": 8, "learning_rate": 5e-5}) == "learning_rate=5e-05, tuning.r=8"
    assert ranges([4, 0, 1, 2, 2]) == "0-2, 4"


def test_failures_give_their_reason_also_when_a_finished_run_has_no_score(study: Any) -> None:
    info, records = study
    silent = [replace(records[0], test={"accuracy": math.nan}), *records[1:]]
    table = words_of((info, silent)).failures
    assert table is not None
    assert table.rows[0] == ("full", "32", "0", "the run finished without a finite accuracy on test")
    assert ("lora", "512", "3", "the loss was <nan> at step 14") in table.rows


def test_versions_that_differ_are_all_named(study: Any) -> None:
    records = [replace(study[1][0], versions={"torch": "2.12.0"}), *study[1][1:]]
    assert versions_text(records) == "torch 2.12.0 / 2.13.0, transformers 5.23.0"


def test_how_it_was_measured_is_said_in_words(study: Any) -> None:
    method = dict(words_of(study).method)
    assert "over seeds and test rows together" in method["Intervals"]
    assert "at most 5 %" in method["Comparisons"]
    assert "budget of 4 settings" in method["Settings"]
    assert "50.1 %" in method["Collapsed"]
    assert "1,821 rows" in method["Scores"]


def test_a_study_without_test_rows_says_that_its_scores_are_optimistic(make: Callable[..., Any]) -> None:
    words = words_of(make(test_rows=0))
    assert "optimistic" in dict(words.method)["Scores"]
    assert "on the dev split" in words.sections[0].scores.caption
    assert words.sections[0].scores.rows[0][1].endswith(" %")


def test_a_recipe_without_a_finished_run_has_unknown_scores_and_costs(make: Callable[..., Any]) -> None:
    info, records = make(sizes=("32",), seeds=2)
    dead = [replace(r, status="failed", reason="out of memory", test={}, items=[]) if r.recipe == "full" else r for r in records]
    section = words_of((info, dead)).sections[0]
    assert section.scores.rows[-1][:4] == ("full", "n/a", "n/a", "-")
    assert set(section.costs.rows[-1][1:]) == {"n/a"}


def test_plain_numbers_where_the_metric_is_an_error(make: Callable[..., Any]) -> None:
    info, records = make(sizes=("32",), kind="regression", metric="mse", majority=2.1, higher_is_better=False)
    scored = [replace(r, test={"mse": 1 - r.test["accuracy"]}, dev={"mse": 0.4}, items=[]) for r in records if r.test]
    words = words_of((info, scored))
    assert words.sections[0].scores.rows[0][1].startswith("0.")
    assert dict(words.facts)["Mean-value baseline"] == "2.100"
    assert "lower is better" in dict(words.facts)["Metric"]


def test_many_recipes_are_counted_and_set_against_the_best_mean_alone(make: Callable[..., Any]) -> None:
    names = tuple(f"r{i:02d}" for i in range(PAIRED + 2))
    (section,) = words_of(make(recipes=names, sizes=("32",), seeds=2, trouble=False)).sections
    assert section.pairs is not None
    assert len(section.pairs.rows) == PAIRED + 1
    assert len({row[0].split(" vs ")[0] for row in section.pairs.rows}) == 1
    assert "All 45 pairs" in section.pairs.notes[0]
    assert "others may be the best as well; they are marked in the table." in section.remarks[0]
