"""Metrics by name: the standard ones of each kind of task, those asked for, and the user's own by dotted path.

Names: accuracy, f1 (of the positive class), macro_f1, micro_f1, weighted_f1, precision, recall, matthews_correlation,
balanced_accuracy, roc_auc, log_loss, brier, expected_calibration_error, pearson, spearman, mse, mae, r2. ``f1:LABEL``,
``precision:LABEL`` and ``recall:LABEL`` name the class; ``package.module:function`` is called as f(gold, predicted).
Tagging: f1, precision and recall are those of entities (micro), macro_f1 their mean over types, ``f1:TYPE`` one type's; accuracy is that
of words. Question answering: f1 and exact_match after SQuAD's normalization; answerable_f1 and unanswerable_accuracy of each side.
Written text: rouge_l, rouge_1, rouge_2, bleu, chrf, exact_match (`tempering.tasks.texts`).
"""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tempering.contracts import Kind
from tempering.errors import RecipeError
from tempering.tags import scheme_of
from tempering.tasks import answers, entityscores, measures, texts
from tempering.tasks.labels import label_key
from tempering.tasks.measures import Floats
from tempering.tasks.scoring import ANSWERS, CLASSES, MEMBERS, TAGS, TEXT, VALUES, Scored, rarest
from tempering.tasks.strata import class_names

_BY_KIND: dict[Kind, Mapping[str, Callable[[Scored], float]]] = {
    "classification": CLASSES,
    "multilabel": MEMBERS,
    "regression": VALUES,
    "text": TEXT,
    "tagging": TAGS,
    "question_answering": ANSWERS,
}
_STANDARD: dict[Kind, tuple[str, ...]] = {
    "classification": ("accuracy", "macro_f1", "balanced_accuracy", "matthews_correlation"),
    "multilabel": ("micro_f1", "macro_f1", "accuracy"),
    "regression": ("spearman", "pearson", "mse", "mae", "r2"),
    "text": ("rouge_l", "bleu", "chrf", "exact_match"),
    "tagging": ("f1", "precision", "recall", "macro_f1", "accuracy"),
    "question_answering": ("f1", "exact_match"),
}
_STANDARD_PROBABILITIES: dict[Kind, tuple[str, ...]] = {
    "classification": ("log_loss", "brier", "expected_calibration_error"),
    "multilabel": ("log_loss", "brier"),
}
_NEEDS_PROBABILITIES = frozenset({"log_loss", "brier", "expected_calibration_error", "roc_auc"})
_ONE_CLASS = ("f1", "precision", "recall")
_LOWER = frozenset({"log_loss", "brier", "expected_calibration_error", "mse", "mae"})


def default_metric(kind: Kind, labels: Sequence[Any] = ()) -> str:
    """The main metric of a kind of task; of tagging with ``labels`` that are no entity tags the accuracy of words."""
    if kind == "tagging" and labels and scheme_of(labels) == "plain":
        return "accuracy"
    return _STANDARD[kind][0]


def higher_is_better(name: str) -> bool:
    """False for losses and errors; a metric of the user's own counts as higher is better."""
    return name not in _LOWER


def check_metrics(names: Sequence[str], kind: Kind, labels: Sequence[Any]) -> None:
    """`RecipeError` for a metric that does not exist or means nothing for this task; call it before training."""
    for name in names:
        base, _, label = name.partition(":")
        if label and base in _ONE_CLASS and kind in ("classification", "tagging"):
            _class_named(name, kind, labels)
        elif label:
            _own(name)
        elif name not in _BY_KIND[kind]:
            near = difflib.get_close_matches(name, _BY_KIND[kind], n=2, cutoff=0.6)
            hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(_BY_KIND[kind])}, or package.module:function"
            raise RecipeError(f"metric {name!r} is not known for {kind}; {hint}")
        elif name in _ONE_CLASS and kind == "classification" and len(labels) != 2:
            raise RecipeError(f"metric {name!r} needs a class where there are {len(labels)}; write {name}:LABEL, or macro_f1")


def compute(
    task_kind: Kind,
    labels: Sequence[Any],
    gold: Sequence[Any],
    predicted: Sequence[Any],
    probabilities: Any = None,
    names: Sequence[str] = (),
    *,
    positive: Any = None,
) -> dict[str, float]:
    """The standard metrics of the kind and those in ``names``, as fractions.

    ``gold`` and ``predicted`` are labels as the user wrote them. ``probabilities`` is [rows, classes] in the order of
    ``labels``, or one mapping a row; None leaves out what needs them. ``positive`` is the class of f1, precision and recall in
    a task of two classes, by default the rarer in ``gold``.
    """
    if len(gold) != len(predicted) or not len(gold):
        raise RecipeError(f"metrics need as many predictions as gold labels and at least one, found {len(predicted)} and {len(gold)}")
    check_metrics(names, task_kind, labels)
    scored = Scored(task_kind, tuple(labels), gold, predicted, _matrix(probabilities, labels), positive)
    wanted = [*_standard(task_kind, labels, scored.p is not None), *names]
    return {name: _one(name, scored) for name in dict.fromkeys(wanted)}


def _standard(kind: Kind, labels: Sequence[Any], with_probabilities: bool) -> list[str]:
    binary = kind == "classification" and len(labels) == 2
    chosen = [*_STANDARD[kind], *(["f1"] if binary else [])]
    if with_probabilities:
        chosen += [*_STANDARD_PROBABILITIES.get(kind, ()), *(["roc_auc"] if binary else [])]
    return chosen


def _one(name: str, scored: Scored) -> float:
    base, _, label = name.partition(":")
    if name in _NEEDS_PROBABILITIES and scored.p is None:
        raise RecipeError(f"metric {name!r} needs probabilities, and these predictions have none")
    if label and not (base in _ONE_CLASS and scored.kind in ("classification", "tagging")):
        return float(_own(name)(list(scored.gold), list(scored.predicted)))
    if label and scored.kind == "tagging":
        kind = _class_named(name, "tagging", scored.labels)
        return entityscores.of_type(scored.entities, kind, ("precision", "recall", "f1").index(base))
    if base in _ONE_CLASS and scored.kind == "classification":
        scored = scored.with_positive(_positive(name, scored.labels, scored))
    return float(_BY_KIND[scored.kind][base](scored))


def _class_named(name: str, kind: Kind, labels: Sequence[Any]) -> Any:
    """The class, or entity type, that a metric's name ends with."""
    label, known = name.partition(":")[2], class_names(kind, labels)
    for one in known:
        if str(one) == label:
            return one
    raise RecipeError(f"metric {name!r} names no label of the task; labels: {', '.join(str(one) for one in known)}")


def _positive(name: str, labels: Sequence[Any], scored: Scored | None) -> Any:
    if ":" in name:
        return _class_named(name, "classification", labels)
    if scored is not None and scored.positive is not None:
        return scored.positive
    return rarest(labels, scored.gold) if scored is not None else None


def _own(name: str) -> Callable[[list[Any], list[Any]], float]:
    """The function a dotted path names; modules in the working folder are found too."""
    module, _, attribute = name.partition(":")
    here = str(Path.cwd())
    sys.path.append(here)
    try:
        function = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise RecipeError(f"metric {name!r} cannot be imported ({error}); expected package.module:function") from None
    finally:
        sys.path.remove(here)
    if not callable(function):
        raise RecipeError(f"metric {name!r} is not a function, found an object of type {type(function).__name__}")
    return function  # type: ignore[no-any-return]


def _matrix(probabilities: Any, labels: Sequence[Any]) -> Floats | None:
    if probabilities is None or not len(probabilities) or not len(labels):
        return None
    if isinstance(probabilities[0], Mapping):
        if not probabilities[0]:
            return None
        probabilities = [[row[label] for label in labels] for row in probabilities]
    return np.asarray(probabilities, dtype=np.float64)


def per_item(kind: Kind, gold: Sequence[Any], predicted: Sequence[Any]) -> list[float]:
    """A score for each row, whose mean is compared between recipes: 1 right / 0 wrong; negative squared error for regression.

    Multi-label rows score the overlap of the two label sets over their union (Jaccard); two empty sets agree. Tagging: the F1 of the
    row's entities (1 where neither side has any), or its share of right words; question answering: F1 over words; text: ROUGE-L.
    """
    if kind == "tagging":
        return entityscores.each_row(gold, predicted)
    if kind == "question_answering":
        return answers.best(answers.f1, gold, predicted)
    if kind == "text":
        return [texts.rouge_l(said, wanted) for wanted, said in zip(gold, predicted, strict=True)]
    pairs = list(zip(gold, predicted, strict=True))
    if kind == "regression":
        return [-((float(a) - float(b)) ** 2) for a, b in pairs]
    if kind != "multilabel":
        return [float(label_key(a) == label_key(b)) for a, b in pairs]
    sets = [({label_key(x) for x in a}, {label_key(x) for x in b}) for a, b in pairs]
    return [len(a & b) / len(a | b) if a | b else 1.0 for a, b in sets]


def choose_thresholds(gold_matrix: Any, probability_matrix: Any) -> list[float]:
    """For each label the threshold with the highest F1 on these rows (dev); ties go to the one nearest 0.5.

    Both arguments are [rows, labels]: gold 0/1 and probabilities. A label is said where its probability is at least its threshold.
    """
    gold, p = np.asarray(gold_matrix).astype(bool), np.asarray(probability_matrix, dtype=np.float64)
    return [measures.best_threshold(gold[:, j], p[:, j]) for j in range(p.shape[1])]
