"""A scikit-learn classifier over `tempering.fit`: works in pipelines, ``cross_val_score`` and ``GridSearchCV``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from tempering.backbone import Backbone
from tempering.choosing import choose
from tempering.contracts import Example
from tempering.errors import DataError, ModelError
from tempering.fitting import fit
from tempering.learner import Learner
from tempering.recipe import Recipe
from tempering.tasks.table import plain
from tempering.tasks.task import Task

Texts = Sequence[str] | Sequence[tuple[str, str]] | np.ndarray


class TextClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Fine-tunes a pretrained model as a scikit-learn classifier.

    ``recipe`` is "auto", a shipped recipe's name, a YAML file or a `Recipe`; ``model`` a folder, a hub id or "minilm".
    ``dev_fraction`` of the rows given to `fit` choose the best weights (0: none, the last weights are taken). ``settings``
    override the recipe by dotted names, as on the command line: search over them with
    ``GridSearchCV(TextClassifier(), {"settings": [{"learning_rate": 2e-5}, {"learning_rate": 5e-5, "tuning.r": 4}]})``.

    Texts are a list, array or Series of strings, or of pairs of strings. After `fit`, ``classes_`` holds the labels, sorted, and
    ``learner_`` the `Learner`. The same arguments, data and machine give the same weights.
    """

    def __init__(
        self,
        recipe: str | Recipe = "auto",
        model: str = "minilm",
        seed: int = 0,
        dev_fraction: float = 0.2,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.recipe = recipe
        self.model = model
        self.seed = seed
        self.dev_fraction = dev_fraction
        self.settings = settings

    def fit(self, X: Texts, y: Sequence[Any] | np.ndarray) -> TextClassifier:  # noqa: N803
        """Train on texts ``X`` [rows] with labels ``y`` [rows]; bad rows are a `DataError`."""
        texts, labels = _texts(X), _labels(y)
        if len(texts) != len(labels):
            raise DataError(f"fit: expected a label for every text, found {len(texts)} texts and {len(labels)} labels")
        self.classes_ = np.unique(labels)
        rows = [Example(text, label, i + 1) for i, (text, label) in enumerate(zip(texts, labels.tolist(), strict=True))]
        task = Task.from_examples(rows, kind="classification", seed=self.seed, dev_fraction=self.dev_fraction)
        recipe = choose(task)[0] if self.recipe == "auto" else Recipe.load(self.recipe)
        self.learner_ = fit(recipe.override(self.settings or {}), task, self.model, seed=self.seed)
        return self

    def predict_proba(self, X: Texts) -> np.ndarray:  # noqa: N803
        """Probabilities [rows, classes], columns in the order of ``classes_``."""
        check_is_fitted(self, "learner_")
        found = self.learner_.predictions([Example(text) for text in _texts(X)])
        order = self.classes_.tolist()
        return np.array([[row.probabilities[label] for label in order] for row in found], dtype=np.float64).reshape(-1, len(order))

    def predict(self, X: Texts) -> np.ndarray:  # noqa: N803
        """The likeliest label of each text [rows], of the type that `fit` was given."""
        chosen: np.ndarray = self.predict_proba(X).argmax(1)
        labels: np.ndarray = self.classes_[chosen]
        return labels

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write the fitted model to ``folder``; `from_pretrained` and `tempering.load` read it, as the command line does."""
        check_is_fitted(self, "learner_")
        return self.learner_.save_pretrained(folder)

    @classmethod
    def from_pretrained(cls, folder: str | Path, base_model: Backbone | str | Path | None = None) -> TextClassifier:
        """A fitted classifier from a folder of `save_pretrained` or ``temper fit``, with equal predictions.

        ``base_model`` is where its base model is now, if not where it was, as in `tempering.load`.
        """
        from tempering.saving import load

        learner: Learner = load(folder, base_model)
        if getattr(learner.framing, "kind", "text") != "classification":
            raise ModelError(f"{folder}: this model does not predict one class a text; load it with tempering.load")
        made = cls(recipe=Recipe.from_plain(learner.record["recipe"], str(folder)), model=learner.backbone.source)
        made.classes_, made.learner_ = np.unique(np.array(learner.framing.labels)), learner
        return made

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        return tags


def _texts(given: Texts) -> list[tuple[str, ...]]:
    """Each row as a tuple of one or two strings."""
    if isinstance(given, str):
        raise DataError('expected a list of texts, found one string; write ["..."]')
    rows = given.tolist() if hasattr(given, "tolist") else list(given)
    for i, row in enumerate(rows):
        parts = (row,) if isinstance(row, str) else row
        if not isinstance(parts, (tuple, list)) or len(parts) not in (1, 2) or not all(isinstance(part, str) for part in parts):
            raise DataError(f"texts, row {i + 1}: expected a string or a pair of strings, found {row!r:.80}")
    return [(row,) if isinstance(row, str) else tuple(row) for row in rows]


def _labels(given: Sequence[Any] | np.ndarray) -> np.ndarray:
    """Labels [rows] of one type, as an array of that type."""
    values = given.tolist() if hasattr(given, "tolist") else [plain(value) for value in given]
    kinds = sorted({type(value).__name__ for value in values})
    if len(kinds) > 1:
        raise DataError(f"labels: expected one type, found {' and '.join(kinds)}; fill in missing labels and write them all alike")
    if kinds and kinds[0] not in ("str", "int", "bool", "float"):
        raise DataError(f"labels: expected one string, number or true/false a row, found {kinds[0]} ({values[0]!r:.60})")
    labels = np.asarray(values)
    try:
        check_classification_targets(labels)
    except ValueError as error:
        raise DataError(f"labels: expected classes, and these are no classes ({str(error).splitlines()[0]})") from None
    return labels
