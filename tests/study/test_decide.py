"""From records to cells, ties and sentences."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from tempering.study.decide import Conclusion, SizeResult, conclude, words
from tempering.study.intervals import CROSSED, ONE_SEED, SEEDS
from tempering.study.records import Record, StudyInfo
from tempering.study.wording import NAMED

ITEMS = 400
COSTS = {"full": (1000, 1000, 6000, 10.0), "lora": (3, 1000, 100, 8.0), "head": (1, 1000, 50, 1.0)}


def info(**changes: Any) -> StudyInfo:
    base: dict[str, Any] = {
        "title": "t",
        "data": "d.csv",
        "model": "m",
        "kind": "classification",
        "metric": "accuracy",
        "recipes": ["full", "lora", "head"],
        "sizes": ["32", "128", "all"],
        "seeds": 5,
        "budget": 1,
        "majority": 0.5,
        "dev_rows": 100,
        "test_rows": ITEMS,
    }
    return StudyInfo(**(base | changes))


def run(recipe: str, accuracy: float, seed: int, size: str = "all", rows: int = 6920, **changes: Any) -> Record:
    """A run that answers its share of items right; a seed changes a few of them."""
    rng = np.random.default_rng((seed, len(recipe)))
    right = np.arange(ITEMS) < round(accuracy * ITEMS)
    right[rng.choice(ITEMS, 4, replace=False)] ^= True
    trained, total, artefact, seconds = COSTS.get(recipe, (1, 1, 1, 1.0))
    score = float(right.mean())
    base: dict[str, Any] = {
        "dev": {"accuracy": score},
        "test": {"accuracy": score},
        "items": right.astype(float).tolist(),
        "predictions": [int(x) for x in right],
        "seconds": seconds,
        "peak_memory": 1000 + seed,
        "trained_parameters": trained,
        "total_parameters": total,
        "artefact_bytes": artefact,
        "setting": {"learning_rate": 1e-4},
    }
    return Record(recipe, f"{recipe}-key", size, rows, seed, **(base | changes))


def runs(means: dict[str, float], size: str = "all", rows: int = 6920, seeds: int = 5) -> list[Record]:
    return [run(name, mean, seed, size, rows) for name, mean in means.items() for seed in range(seeds)]


def only(conclusion: Conclusion) -> SizeResult:
    (result,) = conclusion.sizes
    return result


def test_a_cell_holds_the_means_of_its_finished_runs() -> None:
    records = [*runs({"full": 0.9})[:4], Record("full", "k", "all", 0, 4, status="failed", reason="no memory")]
    cell = only(conclude(info(), records)).cells[0]
    assert (cell.recipe, cell.size, cell.rows, cell.failed, cell.collapsed, len(cell.scores)) == ("full", "all", 6920, 1, 0, 4)
    assert (cell.seconds, cell.peak_memory, cell.trained_parameters, cell.artefact_bytes) == (10.0, 1002, 1000, 6000)
    assert cell.interval.mean == pytest.approx(np.mean(cell.scores))
    assert (cell.interval.n, cell.interval.method) == (4, CROSSED)
    assert cell.settings == [{"learning_rate": 1e-4}]
    assert 0 < cell.churn.value < 0.03
    assert cell.dev_mean == pytest.approx(cell.interval.mean)


def test_sizes_and_recipes_keep_the_order_of_the_study() -> None:
    records = runs({"head": 0.6, "full": 0.7}, "32", 32) + runs({"head": 0.8}) + runs({"lora": 0.7}, "128", 128)
    found = conclude(info(), records)
    assert [(s.size, [c.recipe for c in s.cells]) for s in found.sizes] == [("32", ["full", "head"]), ("128", ["lora"]), ("all", ["head"])]


def test_order_of_records_and_of_seeds_is_of_no_matter() -> None:
    records = runs({"full": 0.9, "lora": 0.8})
    first, second = conclude(info(), records), conclude(info(), records[::-1])
    assert first.sizes == second.sizes


def test_pairs_meet_on_the_seeds_both_finished() -> None:
    records = [r for r in runs({"full": 0.9, "lora": 0.8}) if (r.recipe, r.seed) not in {("full", 0), ("lora", 4)}]
    (pair,) = only(conclude(info(), records)).pairs
    assert (pair.seeds, pair.method) == (3, CROSSED)


def test_a_tie_names_both_their_difference_and_what_is_cheaper() -> None:
    found = conclude(info(), runs({"full": 0.945, "lora": 0.94, "head": 0.6}))
    first = found.sentences[0]
    assert only(found).tied == ["full", "lora"]
    assert first.startswith("With all 6,920 rows full and lora cannot be told apart (93.5 and 93.0 % accuracy; difference 0.5 points, ")
    assert "95 % interval -" in first
    assert first.endswith("head is behind the best; lora trains 0.3 % of the weights and its file is 60 x smaller (against full).")
    assert "full is best" not in first


def test_a_long_tie_is_counted_and_its_best_mean_named() -> None:
    means = {f"r{k}": 0.9 + 0.001 * k for k in range(8)}
    found = conclude(info(recipes=[*means, "head"]), runs(means | {"head": 0.5}))
    tied = only(found).tied
    assert len(tied) > NAMED
    first = found.sentences[0]
    assert first.startswith(f"With all 6,920 rows {len(tied)} of 9 recipes may be the best (")
    assert f"best mean: {tied[0]})" in first and "; head is behind the best" in first
    assert f" and {tied[1]}" not in first


def test_many_behind_are_counted() -> None:
    found = conclude(info(recipes=["a", "b"]), runs({"a": 0.9, "b": 0.9} | {f"r{k}": 0.3 for k in range(7)}))
    assert "; the other 7 are behind the best" in found.sentences[0]


def test_a_winner_is_named_with_its_lead() -> None:
    found = conclude(info(), runs({"full": 0.95, "lora": 0.8, "head": 0.7}))
    pair = next(p for p in only(found).leads if (p.a, p.b) == ("full", "lora"))
    lead = f"{100 * pair.difference:.1f} points more than lora, the next, 95 % interval {100 * pair.low:.1f} to {100 * pair.high:.1f}"
    mean = only(found).cells[0].interval.mean
    assert found.sentences == [f"With all 6,920 rows full is best ({100 * mean:.1f} % accuracy; {lead})."]


def test_the_winner_may_be_stored_second_in_its_pair() -> None:
    found = conclude(info(), runs({"full": 0.6, "head": 0.9}))
    pair = only(found).pairs[0]
    assert f"more than full, the next, 95 % interval {-100 * pair.high:.1f} to {-100 * pair.low:.1f}" in found.sentences[0]


def test_sizes_with_the_same_answer_share_a_sentence_largest_first() -> None:
    same = {"full": 0.6, "head": 0.9}
    records = runs(same, "32", 32) + runs(same, "128", 128) + runs({"full": 0.9, "head": 0.6})
    sentences = conclude(info(), records).sentences
    assert len(sentences) == 2
    assert sentences[0].startswith("With all 6,920 rows full is best (")
    assert sentences[1].startswith("With 32 and 128 rows head is best (")


def test_merged_ties_give_the_range_of_means_and_differences() -> None:
    records = runs({"full": 0.8, "lora": 0.8}, "32", 32) + runs({"full": 0.9, "lora": 0.9})
    first = conclude(info(), records).sentences[0]
    assert first.startswith("With 32 and all 6,920 rows full and lora cannot be told apart (")
    assert " % accuracy; differences up to " in first


def test_ties_say_how_fine_the_comparison_was() -> None:
    found = conclude(info(), runs({"full": 0.9, "lora": 0.9}))
    gap = 100 * only(found).smallest_difference
    assert 0 < gap < 3
    apart = only(conclude(info(), runs({"full": 0.9, "lora": 0.9, "head": 0.5}))).smallest_difference
    assert 100 * apart < 3  # what is far apart says nothing about how fine the rest can be told apart
    assert found.sentences[-1].startswith(f"With all 6,920 rows these seeds and test rows show a true difference of {gap:.1f} points")


def test_collapsed_and_failed_runs_are_counted_aloud() -> None:
    records = runs({"full": 0.9, "head": 0.9}, "32", 32)
    records[0] = run("full", 0.5, 0, "32", 32, collapsed=True)
    records[1] = Record("full", "k", "32", 32, 1, status="failed", reason="x")
    sentences = conclude(info(), records).sentences
    assert "1 of 4 runs of full with 32 rows collapsed (no better than the baseline); 1 of 5 runs of full with 32 rows failed." in sentences


def test_a_run_whose_score_is_not_finite_counts_as_failed() -> None:
    records = [*runs({"full": 0.9})[:4], run("full", 0.9, 4, test={"accuracy": math.nan})]
    cell = only(conclude(info(), records)).cells[0]
    assert (cell.failed, len(cell.scores)) == (1, 4)


def test_nothing_better_than_the_baseline_is_said() -> None:
    sentences = conclude(info(majority=0.52), runs({"full": 0.53, "lora": 0.52})).sentences
    assert "With all 6,920 rows no recipe is shown to beat the majority baseline (52.0 % accuracy)." in sentences
    assert not any("baseline" in s for s in conclude(info(majority=0.52), runs({"full": 0.9})).sentences)


def test_any_recipe_may_beat_the_baseline_not_the_best_mean_alone() -> None:
    wild = {"full": (0.97, 0.97, 0.6), "lora": (0.8, 0.81, 0.82)}
    found = conclude(info(), [run(name, share, seed) for name, shares in wild.items() for seed, share in enumerate(shares)])
    result = only(found)
    assert result.tied[0] == "full" and result.cells[0].interval.low < 0.5
    assert result.above_baseline == ["lora"]
    assert not any("baseline" in s for s in found.sentences)


def test_asking_many_recipes_about_the_baseline_is_corrected_for() -> None:
    alone = only(conclude(info(), runs({"full": 0.6})))
    bar = alone.cells[0].interval.low - 0.002  # just beaten at 95 %
    assert only(conclude(info(majority=bar), runs({"full": 0.6}))).above_baseline == ["full"]
    many = conclude(info(majority=bar), runs({"full": 0.6} | {f"r{k}": 0.4 for k in range(19)}))
    assert only(many).above_baseline == []
    assert any("no recipe is shown to beat the majority baseline" in s for s in many.sentences)


def test_one_seed_speaks_of_single_runs_only() -> None:
    found = conclude(info(), runs({"full": 0.95, "lora": 0.7}, seeds=1))
    assert only(found).pairs[0].method == ONE_SEED
    assert any(s.startswith("Only one seed is finished") for s in found.sentences)


def test_too_few_common_seeds_are_reported_as_no_comparison() -> None:
    records = [*runs({"lora": 0.9, "head": 0.7}), run("full", 0.95, 9)]
    found = conclude(info(), records)
    assert only(found).tied[0] == "full"
    assert any("could not be compared" in s for s in found.sentences)
    assert not any("full is best" in s for s in found.sentences)


def test_one_recipe_gives_its_score_and_interval() -> None:
    found = conclude(info(), runs({"lora": 0.9}))
    cell = only(found).cells[0]
    span = f"95 % interval {100 * cell.interval.low:.1f} to {100 * cell.interval.high:.1f}"
    assert found.sentences == [f"With all 6,920 rows lora reaches {100 * cell.interval.mean:.1f} % accuracy, {span}."]


@pytest.mark.parametrize("records", [[], [Record("full", "k", "all", 6920, 0, status="failed", reason="x")]])
def test_a_study_without_finished_runs_says_so(records: list[Record]) -> None:
    found = conclude(info(), records)
    assert found.sentences == ["No run has finished yet, so there is nothing to compare."]
    assert words(found) == found.sentences


def test_lower_is_better_and_plain_numbers() -> None:
    def error(recipe: str, mse: float, seed: int) -> Record:
        rng = np.random.default_rng((seed, len(recipe)))
        squares = mse * rng.chisquare(1, ITEMS)
        return run(
            recipe, 0.9, seed, test={"mse": float(squares.mean())}, items=(-squares).tolist(), predictions=rng.random(ITEMS).tolist()
        )

    records = [error(name, mse, seed) for name, mse in (("full", 0.2), ("head", 0.9)) for seed in range(5)]
    found = conclude(info(kind="regression", metric="mse", higher_is_better=False, majority=2.0), records)
    result = only(found)
    assert result.tied == ["full"]
    assert result.pairs[0].method == CROSSED
    assert math.isnan(result.cells[0].churn.value)
    assert "full is best (0.2" in found.sentences[0]
    assert " less than head, the next, 95 % interval 0." in found.sentences[0]
    assert "%" not in found.sentences[0].replace("95 % interval", "")


def test_without_test_rows_the_dev_scores_are_compared() -> None:
    records = [run(n, 0.9, s, dev={"accuracy": 0.7 + 0.01 * s}, items=[], predictions=[]) for n in ("full", "lora") for s in range(3)]
    cell = only(conclude(info(test_rows=0), records)).cells[0]
    assert cell.scores == pytest.approx([0.7, 0.71, 0.72])
    assert cell.interval.method == SEEDS


def test_runs_without_item_scores_fall_back_to_seeds() -> None:
    records = runs({"full": 0.9, "lora": 0.8})
    records[:2] = [run("full", 0.9, 0, items=[1.0]), run("full", 0.8, 1)]
    result = only(conclude(info(), records))
    assert result.pairs[0].method == SEEDS
    assert [cell.interval.method for cell in result.cells] == [SEEDS, CROSSED]


def test_too_few_seeds_to_show_anything_is_said_instead_of_a_difference_beyond_the_scale() -> None:
    records = [run("full", 0.9, 0), run("full", 0.3, 1), run("lora", 0.35, 0), run("lora", 0.85, 1)]
    found = conclude(info(), records)
    assert only(found).smallest_difference > 1
    assert any("too few to show a difference of any size" in sentence for sentence in found.sentences)
