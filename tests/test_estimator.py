"""The scikit-learn face: its conventions, labels of every type, search and cross-validation, saving."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone, is_classifier
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.utils import estimator_checks, get_tags

from tempering import learner as learners
from tempering.errors import DataError, ModelError, RecipeError
from tempering.estimator import TextClassifier
from tempering.saving import load
from tests.tiny import save_tiny, tiny_examples

QUICK = {"max_steps": 6, "min_steps": 0, "num_train_epochs": 1, "learning_rate": 3e-2}


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny("bert", tmp_path_factory.mktemp("bert")))


@pytest.fixture
def quick(bert: str) -> TextClassifier:
    return TextClassifier("head", bert, settings=QUICK)


def rows(n: int) -> tuple[list[str], list[str]]:
    found = tiny_examples(n)
    return [e.texts[0] for e in found], [e.label for e in found]


def test_it_learns_and_keeps_the_order_of_classes(quick: TextClassifier) -> None:
    texts, labels = rows(60)
    quick.fit(texts, labels)
    assert quick.classes_.tolist() == ["bad", "good"]
    chances = quick.predict_proba(texts)
    assert chances.shape == (60, 2) and np.allclose(chances.sum(1), 1)
    assert (quick.predict(texts) == quick.classes_[chances.argmax(1)]).all()
    assert quick.predict(texts).tolist() == quick.learner_.predict(texts)
    assert quick.score(texts, labels) > 0.6
    assert isinstance(quick.learner_, learners.Learner)


@pytest.mark.parametrize("names", [(1, 0), (True, False), (np.int64(7), np.int64(3)), ("größer", "čárka"), (1.0, 2.0)])
@pytest.mark.parametrize("box", [list, np.array, pd.Series])
def test_labels_come_back_as_they_were_given(names: tuple[Any, Any], box: Any, bert: str) -> None:
    texts, labels = rows(24)
    given = box([names[label == "good"] for label in labels])
    found = TextClassifier("head", bert, settings=QUICK | {"max_steps": 1}).fit(texts, given)
    assert found.classes_.tolist() == sorted(set(np.asarray(given).tolist()))
    assert found.predict(texts[:4]).dtype == np.asarray(given.tolist() if hasattr(given, "tolist") else given).dtype
    assert set(found.predict(texts).tolist()) <= set(np.asarray(given).tolist())


@pytest.mark.parametrize("box", [list, np.array, pd.Series])
def test_texts_in_any_box_and_as_pairs(box: Any, quick: TextClassifier) -> None:
    texts, labels = rows(24)
    same = quick.fit(texts, labels).predict_proba(texts)
    assert np.array_equal(clone(quick).fit(box(texts), labels).predict_proba(box(texts)), same)
    pairs = [(text, "the film") for text in texts]
    assert clone(quick).fit(pairs, labels).predict(np.array(pairs)).shape == (24,)


def test_equal_seeds_give_equal_models(quick: TextClassifier) -> None:
    texts, labels = rows(24)
    first, second = (clone(quick).fit(texts, labels).predict_proba(texts) for _ in range(2))
    other = clone(quick).set_params(seed=1).fit(texts, labels).predict_proba(texts)
    assert np.array_equal(first, second) and not np.array_equal(first, other)


def test_cross_validation_and_search(quick: TextClassifier) -> None:
    texts, labels = rows(36)
    assert cross_val_score(quick, texts, labels, cv=2).shape == (2,)
    grid = {"settings": [QUICK | {"learning_rate": rate} for rate in (1e-9, 3e-2)]}
    search = GridSearchCV(quick, grid, cv=2).fit(texts, labels)
    assert search.best_params_["settings"]["learning_rate"] == 3e-2
    assert search.best_estimator_.predict(texts[:3]).shape == (3,)


def test_dev_fraction_decides_what_is_held_out(quick: TextClassifier) -> None:
    texts, labels = rows(40)
    assert quick.fit(texts, labels).learner_.record["rows"] == {"train": 32, "dev": 8}
    assert clone(quick).set_params(dev_fraction=0).fit(texts, labels).learner_.record["rows"] == {"train": 40}


def test_parameters_clone_and_copy(bert: str) -> None:
    made = TextClassifier("lora", bert, seed=3, settings={"tuning.r": 2})
    assert made.get_params() == {"recipe": "lora", "model": bert, "seed": 3, "dev_fraction": 0.2, "settings": {"tuning.r": 2}}
    for twin in (clone(made), copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert twin is not made and twin.get_params() == made.get_params()
    assert is_classifier(made) and "seed=3" in repr(made)
    tags = get_tags(made)
    assert tags.input_tags.string and not tags.input_tags.two_d_array and tags.target_tags.required


@pytest.mark.parametrize(
    "check",
    [
        estimator_checks.check_estimator_cloneable,
        estimator_checks.check_estimator_repr,
        estimator_checks.check_estimator_tags_renamed,
        estimator_checks.check_valid_tag_types,
        estimator_checks.check_do_not_raise_errors_in_init_or_set_params,
        estimator_checks.check_no_attributes_set_in_init,
        estimator_checks.check_parameters_default_constructible,
        estimator_checks.check_get_params_invariance,
        estimator_checks.check_set_params,
        estimator_checks.check_mixin_order,
    ],
    ids=lambda check: check.__name__,
)
def test_scikit_learns_own_checks(check: Any) -> None:
    check("TextClassifier", TextClassifier())


def test_saved_and_loaded_it_predicts_the_same(quick: TextClassifier, tmp_path: Path) -> None:
    texts, labels = rows(24)
    quick.fit(texts, labels).save_pretrained(tmp_path / "model")
    again = TextClassifier.from_pretrained(tmp_path / "model")
    assert np.array_equal(again.predict_proba(texts), quick.predict_proba(texts))
    assert again.classes_.tolist() == quick.classes_.tolist()
    assert load(tmp_path / "model").predict(texts) == quick.predict(texts).tolist()
    assert again.model == quick.model and again.recipe.name == "head"


def test_a_base_that_has_moved_is_given(tmp_path: Path) -> None:
    texts, labels = rows(24)
    base = save_tiny("bert", tmp_path / "base")
    made = TextClassifier("lora", str(base), settings={"max_steps": 2, "min_steps": 0}).fit(texts, labels)
    made.save_pretrained(tmp_path / "model")
    base.rename(tmp_path / "moved")
    with pytest.raises(ModelError, match=r"TextClassifier.from_pretrained base_model"):
        TextClassifier.from_pretrained(tmp_path / "model")
    again = TextClassifier.from_pretrained(tmp_path / "model", tmp_path / "moved")
    assert np.array_equal(again.predict_proba(texts), made.predict_proba(texts)) and again.model == str(tmp_path / "moved")


def test_it_must_be_fitted_first(quick: TextClassifier, tmp_path: Path) -> None:
    with pytest.raises(NotFittedError):
        quick.predict(["a text"])
    with pytest.raises(NotFittedError):
        quick.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"tempering\.json"):
        TextClassifier.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("texts", "labels", "said"),
    [
        ("one string", ["a"], "list of texts"),
        (["a", 3], ["x", "y"], "row 2: expected a string or a pair"),
        ([("a", "b", "c")], ["x"], "row 1"),
        (["a", "b"], ["x"], "2 texts and 1 labels"),
        (["a", "b"], ["x", None], "NoneType and str"),
        (["a", "b"], [1, "x"], "int and str"),
        (["a", "b"], [["x"], ["y"]], "found list"),
        (["a", "b", "c"], [0.5, 0.7, 0.9], "no classes"),
        (["a", "b"], ["x", "x"], "two classes"),
    ],
)
def test_bad_rows_are_refused_in_a_sentence(texts: Any, labels: Any, said: str, quick: TextClassifier) -> None:
    with pytest.raises(DataError, match=said):
        quick.fit(texts, labels)
    assert not hasattr(quick, "learner_")


def test_a_bad_setting_is_refused(bert: str) -> None:
    texts, labels = rows(24)
    with pytest.raises(RecipeError, match="learning_rate"):
        TextClassifier("head", bert, settings={"learning_rat": 1e-3}).fit(texts, labels)
