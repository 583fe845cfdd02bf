"""Linear probes on frozen features: what a linear map alone makes of them."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from tempering.ranking.evidence import Floats
from tempering.streams import numpy_stream
from tempering.tasks.metrics import compute, default_metric
from tempering.tasks.task import Task

FOLDS = 5


def probe(features: Floats, task: Task, labels: list[Any], seed: int = 0) -> float:
    """The task's main metric of linear predictions, each row's by a map fitted on the other four fifths of the rows.

    Logistic regression with C = 1 for classes (one a label for sets of labels), ridge regression of strength 1 for values, on features
    scaled to variance 1.
    """
    order = numpy_stream(seed, "ranking", "folds").permutation(len(labels))
    order = order[np.argsort([_stratum(task, labels[i]) for i in order], kind="stable")]  # every fold gets its share of every class
    predicted: list[Any] = [None] * len(labels)
    for fold in range(min(FOLDS, len(labels))):
        held = order[fold::FOLDS]
        rest = np.setdiff1d(order, held)
        made = fitted(features[rest], task, [labels[i] for i in rest])
        for i, label in zip(held, _predict(made, features[held], task), strict=True):
            predicted[i] = label
    metric = default_metric(task.kind, task.labels)
    return float(compute(task.kind, task.labels, labels, predicted, None, (metric,))[metric])


def fitted(features: Floats, task: Task, labels: list[Any]) -> Any:
    """A linear map from features to the labels of ``task``."""
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if task.kind == "regression":
        return make_pipeline(StandardScaler(), Ridge(alpha=1.0)).fit(features, labels)
    logistic: Any = LogisticRegression(C=1.0, max_iter=200)
    targets: Any = [task.target(label) for label in labels]
    if task.kind == "multilabel":
        logistic, targets = OneVsRestClassifier(logistic), np.asarray(targets)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # not converged after 200 rounds, or a fold without some label: good enough to compare
        if task.kind == "classification" and len(set(targets)) == 1:
            from sklearn.dummy import DummyClassifier

            logistic = DummyClassifier()
        return make_pipeline(StandardScaler(), logistic).fit(features, targets)


def chances(made: Any, features: Floats, classes: int) -> Floats:
    """What a map of `fitted` for classes says of ``features``: probabilities [rows, classes]."""
    found = np.zeros((len(features), classes))
    found[:, made.classes_] = made.predict_proba(features)
    return found


def _predict(made: Any, features: Floats, task: Task) -> list[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = made.predict(features)
    if task.kind == "regression":
        return [float(value) for value in found]
    if task.kind == "multilabel":
        rows = found.reshape(len(features), len(task.labels))  # of a single label scikit-learn says one number a row
        return [tuple(name for name, on in zip(task.labels, row, strict=True) if on) for row in rows]
    return [task.labels[int(i)] for i in found]


def _stratum(task: Task, label: Any) -> float:
    return float(label) if task.kind == "regression" else float(len(label)) if task.kind == "multilabel" else float(task.label_index(label))
