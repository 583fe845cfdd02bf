"""Every metric against scikit-learn or scipy on random data, then the corners where those warn or fail."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as oracle

from tempering.errors import RecipeError
from tempering.tasks.metrics import check_metrics, choose_thresholds, compute, default_metric, higher_is_better, per_item


def classes(count: int, rows: int = 200, seed: int = 0) -> tuple[list[str], list[str], list[str], Any]:
    rng = np.random.default_rng(seed)
    names = [f"c{i}" for i in range(count)]
    p = rng.dirichlet(np.ones(count), rows)
    gold = [names[rng.choice(count, p=row) if rng.random() < 0.7 else 0] for row in p]
    return names, gold, [names[i] for i in p.argmax(axis=1)], p


@pytest.mark.parametrize("count", [2, 3, 7])
@pytest.mark.parametrize("seed", range(3))
def test_classification_agrees_with_sklearn(count: int, seed: int) -> None:
    labels, gold, said, p = classes(count, seed=seed)
    got = compute("classification", labels, gold, said, p, ["weighted_f1", "micro_f1", "f1:c1", "recall:c0", "precision:c1", "roc_auc"])
    one_hot = np.eye(count)[[labels.index(label) for label in gold]]
    brier = oracle.brier_score_loss(
        gold, p if count > 2 else p[:, 1], labels=labels, pos_label=None if count > 2 else "c1", scale_by_half=True
    )
    auc = oracle.roc_auc_score(one_hot[:, 1], p[:, 1]) if count == 2 else oracle.roc_auc_score(one_hot, p, average="macro")
    expected = {
        "accuracy": oracle.accuracy_score(gold, said),
        "macro_f1": oracle.f1_score(gold, said, average="macro"),
        "micro_f1": oracle.f1_score(gold, said, average="micro"),
        "weighted_f1": oracle.f1_score(gold, said, average="weighted"),
        "balanced_accuracy": oracle.balanced_accuracy_score(gold, said),
        "matthews_correlation": oracle.matthews_corrcoef(gold, said),
        "f1:c1": oracle.f1_score(gold, said, average=None)[1],
        "recall:c0": oracle.recall_score(gold, said, average=None)[0],
        "precision:c1": oracle.precision_score(gold, said, average=None)[1],
        "log_loss": oracle.log_loss(gold, p),
        "brier": brier,
        "roc_auc": auc,
    }
    assert {name: got[name] for name in expected} == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(3))
def test_multilabel_agrees_with_sklearn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels, gold, p = ["x", "y", "z"], rng.random((80, 3)) < 0.4, rng.random((80, 3))
    said = p > 0.5
    gold_sets, said_sets = ([tuple(np.array(labels)[row].tolist()) for row in matrix] for matrix in (gold, said))
    got = compute("multilabel", labels, gold_sets, said_sets, p, ["weighted_f1", "precision", "recall", "roc_auc"])
    expected = {
        "micro_f1": oracle.f1_score(gold, said, average="micro"),
        "macro_f1": oracle.f1_score(gold, said, average="macro"),
        "weighted_f1": oracle.f1_score(gold, said, average="weighted"),
        "accuracy": oracle.accuracy_score(gold, said),
        "precision": oracle.precision_score(gold, said, average="micro"),
        "recall": oracle.recall_score(gold, said, average="micro"),
        "roc_auc": oracle.roc_auc_score(gold, p, average="macro"),
        "brier": float(((p - gold) ** 2).mean()),
        "log_loss": np.mean([oracle.log_loss(gold[:, j], p[:, j]) for j in range(3)]),
    }
    assert got == pytest.approx(expected)


@pytest.mark.parametrize("scale", [1.0, 1e-200, 1e150])
def test_regression_agrees_with_scipy(scale: float) -> None:
    rng = np.random.default_rng(1)
    gold = rng.integers(0, 9, 60).astype(float)
    said = gold + rng.normal(size=60)
    got = compute("regression", (), (gold * scale).tolist(), (said * scale).tolist(), None)
    assert list(got) == ["spearman", "pearson", "mse", "mae", "r2"]
    assert got["pearson"] == pytest.approx(stats.pearsonr(gold, said).statistic)
    assert got["spearman"] == pytest.approx(stats.spearmanr(gold, said).statistic)
    if scale == 1:
        assert got["mse"] == pytest.approx(oracle.mean_squared_error(gold, said))
        assert got["mae"] == pytest.approx(oracle.mean_absolute_error(gold, said))
        assert got["r2"] == pytest.approx(oracle.r2_score(gold, said))


def test_constant_predictions_give_numbers_without_warnings() -> None:
    flat = compute("regression", (), [1.0, 2.0, 3.0], [2.0, 2.0, 2.0])
    assert flat["pearson"] == flat["spearman"] == flat["r2"] == 0.0
    assert compute("regression", (), [2.0, 2.0], [1.0, 3.0])["r2"] == 0.0
    one_side = compute("classification", ["a", "b"], ["a", "a"], ["a", "a"], [[1.0, 0.0], [1.0, 0.0]])
    assert one_side["matthews_correlation"] == 0.0 and one_side["roc_auc"] == 0.5 and one_side["accuracy"] == 1.0
    wrong = compute("classification", ["a", "b"], ["a", "b"], ["a", "b"], [[0.0, 1.0], [1.0, 0.0]])
    assert 30 < wrong["log_loss"] < 40 and wrong["brier"] == 1.0
    empty = compute("multilabel", ["x"], [(), ()], [(), ()], [[0.1], [0.2]], ["roc_auc"])
    assert empty["micro_f1"] == 0.0 and empty["accuracy"] == 1.0 and all(math.isfinite(value) for value in empty.values())


def test_the_positive_class_is_the_rarest_unless_given() -> None:
    gold, said = ["ham"] * 6 + ["spam"] * 2, ["ham"] * 5 + ["spam"] * 2 + ["ham"]
    got = compute("classification", ["ham", "spam"], gold, said, None, ["precision", "recall", "f1:ham"])
    assert got["precision"] == got["recall"] == got["f1"] == 0.5 and got["f1:ham"] == pytest.approx(5 / 6)
    assert compute("classification", ["ham", "spam"], gold, said, positive="ham")["f1"] == pytest.approx(5 / 6)
    assert compute("classification", [0, 1], [0, 1, 0, 1], [1, 1, 0, 0])["f1"] == 0.5


def test_labels_are_told_apart_by_type() -> None:
    assert compute("classification", [0, 1], [1, 0], [True, False])["accuracy"] == 0.0
    assert per_item("classification", [1, "1", True], [1, 1, True]) == [1.0, 0.0, 1.0]


def test_calibration_error_by_hand() -> None:
    p = [[0.9, 0.1]] * 10
    gold = ["a"] * 6 + ["b"] * 4
    got = compute("classification", ["a", "b"], gold, ["a"] * 10, [dict(zip("ab", row, strict=True)) for row in p])
    assert got["expected_calibration_error"] == pytest.approx(0.3)
    assert compute("classification", ["a", "b"], ["a"], ["a"], [[1.0, 0.0]])["expected_calibration_error"] == 0.0


def test_defaults_and_directions() -> None:
    assert [default_metric(kind) for kind in ("classification", "regression", "multilabel", "text")] == [
        "accuracy",
        "spearman",
        "micro_f1",
        "rouge_l",
    ]
    assert higher_is_better("f1:x") and not any(map(higher_is_better, ("log_loss", "mse", "mae", "brier", "expected_calibration_error")))
    assert compute("text", (), ["a", "b"], ["a", "c"])["exact_match"] == 0.5


def test_a_metric_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_metric_module.py").write_text(
        "def share(gold, said):\n    return sum(g == s for g, s in zip(gold, said)) / 2\n\nnumber = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    got = compute("classification", ["a", "b"], ["a", "b"], ["a", "b"], None, ["own_metric_module:share"])
    assert got["own_metric_module:share"] == 1.0
    with pytest.raises(RecipeError, match="is not a function, found an object of type int"):
        check_metrics(["own_metric_module:number"], "classification", ["a", "b"])


@pytest.mark.parametrize(
    ("name", "labels", "said"),
    [
        ("acuracy", "ab", "did you mean accuracy"),
        ("bleu", "ab", "known: accuracy"),
        ("f1", "abc", "write f1:LABEL, or macro_f1"),
        ("f1:z", "ab", "names no label of the task; labels: a, b"),
        ("nowhere.at_all:f", "ab", "cannot be imported"),
        ("roc_auc", "ab", "needs probabilities"),
    ],
)
def test_metrics_that_cannot_be(name: str, labels: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        compute("classification", list(labels), ["a"], ["a"], None, [name])


def test_as_many_predictions_as_labels() -> None:
    for gold, predicted in ((["a"], []), ([], [])):
        with pytest.raises(RecipeError, match="as many predictions as gold labels"):
            compute("classification", ["a", "b"], gold, predicted)


def test_per_item_scores() -> None:
    assert per_item("regression", [1.0, 2.0], [1.5, 2.0]) == [-0.25, 0.0]
    assert per_item("multilabel", [("x", "y"), (), ("x",)], [("x",), (), ()]) == [0.5, 1.0, 0.0]


def test_thresholds_reach_the_best_f1() -> None:
    rng = np.random.default_rng(0)
    gold = rng.random((60, 4)) < 0.3
    p = np.clip(gold * 0.2 + rng.random((60, 4)) * 0.6, 0, 1).round(2)
    for j, threshold in enumerate(choose_thresholds(gold, p)):
        best = max(oracle.f1_score(gold[:, j], p[:, j] >= t) for t in np.unique(p[:, j]))
        assert oracle.f1_score(gold[:, j], p[:, j] >= threshold) == pytest.approx(best)
        assert 0 < threshold < 1


def test_threshold_ties_go_to_the_one_nearest_a_half() -> None:
    assert choose_thresholds([[1], [0]], [[0.9], [0.1]]) == [0.5]
    assert choose_thresholds([[1], [0]], [[0.9], [0.7]]) == [pytest.approx(0.8)]
    assert choose_thresholds([[0], [0]], [[0.9], [0.7]]) == [0.5]
    assert choose_thresholds([[1], [1]], [[0.2], [0.2]]) == [pytest.approx(0.1)]
    assert choose_thresholds([[1], [1]], [[0.0], [1.0]])[0] <= 0
