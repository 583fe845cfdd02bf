"""Gold labels beside predictions, and every metric of `tempering.tasks.metrics` as a function of them, by kind of task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from tempering.contracts import Kind
from tempering.tasks import answers, entityscores, measures, texts
from tempering.tasks.labels import label_key
from tempering.tasks.measures import Floats, Ints


@dataclass(frozen=True, eq=False)
class Scored:
    """Gold and predicted labels of the same rows; ``p`` [rows, classes] or None; ``positive`` the class of a binary F1."""

    kind: Kind
    labels: tuple[Any, ...]
    gold: Sequence[Any]
    predicted: Sequence[Any]
    p: Floats | None = None
    positive: Any = None

    def with_positive(self, label: Any) -> Scored:
        """The same with another positive class."""
        return replace(self, positive=label)

    @cached_property
    def classes(self) -> tuple[Ints, Ints]:
        """Class indices of gold and predicted, each [rows]; an unknown label is one past the last class."""
        index = {label_key(label): i for i, label in enumerate(self.labels)}
        gold, said = ([index.get(label_key(label), len(index)) for label in side] for side in (self.gold, self.predicted))
        return np.asarray(gold, dtype=np.int64), np.asarray(said, dtype=np.int64)

    @cached_property
    def table(self) -> Floats:
        """The confusion matrix [classes + 1, classes + 1]."""
        return measures.confusion(*self.classes, len(self.labels))

    @cached_property
    def members(self) -> tuple[Floats, Floats]:
        """0/1 matrices [rows, labels] of gold and predicted label sets."""
        index = {label_key(label): i for i, label in enumerate(self.labels)}
        gold, said = np.zeros((2, len(self.gold), len(self.labels)))
        for matrix, side in ((gold, self.gold), (said, self.predicted)):
            for row, group in enumerate(side):
                for label in group:
                    if label_key(label) in index:
                        matrix[row, index[label_key(label)]] = 1
        return gold, said

    @cached_property
    def values(self) -> tuple[Floats, Floats]:
        """Gold and predicted numbers, each [rows]."""
        return np.asarray(self.gold, dtype=np.float64), np.asarray(self.predicted, dtype=np.float64)

    @cached_property
    def entities(self) -> entityscores.Counts:
        """Entities right, said and true, by type."""
        return entityscores.counted(self.labels, self.gold, self.predicted)

    @property
    def probabilities(self) -> Floats:
        """``p``, once it is known to be there."""
        if self.p is None:
            raise TypeError("no probabilities were given")
        return self.p


def rarest(labels: Sequence[Any], gold: Sequence[Any]) -> Any:
    """The label with the fewest rows; the last of equals."""
    counts = Counter(label_key(label) for label in gold)
    return min(reversed(labels), key=lambda label: counts[label_key(label)])


def _right(s: Scored) -> float:
    return float(np.mean([label_key(a) == label_key(b) for a, b in zip(s.gold, s.predicted, strict=True)]))


def _of_positive(s: Scored, part: int) -> float:
    index = [label_key(label) for label in s.labels].index(label_key(s.positive))
    return float(measures.precision_recall_f1(s.table)[part][index])


def _mean_f1(s: Scored) -> float:
    """Unweighted over the classes that occur in gold or predictions, as scikit-learn averages."""
    f1 = measures.precision_recall_f1(s.table)[2]
    occurs = (s.table.sum(axis=0) + s.table.sum(axis=1))[: len(s.labels)] > 0
    return float(f1[: len(s.labels)][occurs].mean()) if occurs.any() else 0.0


def _weighted_f1(s: Scored) -> float:
    return float(measures.divide(measures.precision_recall_f1(s.table)[2] @ s.table.sum(axis=1), s.table.sum()))


def _balanced_accuracy(s: Scored) -> float:
    """Mean recall over the classes that occur in gold."""
    present = s.table.sum(axis=1) > 0
    return float(measures.precision_recall_f1(s.table)[1][present].mean())


def _class_auc(s: Scored) -> float:
    """One class: the second of two; more classes: one against the rest, averaged over the classes on both sides."""
    gold, p = s.classes[0], s.probabilities
    if len(s.labels) == 2:
        return measures.roc_auc(gold == 1, p[:, 1])
    both = [c for c in range(len(s.labels)) if 0 < (gold == c).sum() < len(gold)]
    return float(np.mean([measures.roc_auc(gold == c, p[:, c]) for c in both])) if both else 0.5


def _member_f1(s: Scored, axis: int | None) -> Floats:
    gold, said = s.members
    f1: Floats = measures.divide(2 * (gold * said).sum(axis=axis), gold.sum(axis=axis) + said.sum(axis=axis))
    return f1


def _member_part(s: Scored, over: int) -> float:
    gold, said = s.members
    return float(measures.divide((gold * said).sum(), (gold, said)[over].sum()))


def _member_weighted_f1(s: Scored) -> float:
    support = s.members[0].sum(axis=0)
    return float(measures.divide(_member_f1(s, 0) @ support, support.sum()))


def _member_log_loss(s: Scored) -> float:
    p = np.clip(s.probabilities, measures.TINY, 1 - measures.TINY)
    gold = s.members[0]
    return float(-(gold * np.log(p) + (1 - gold) * np.log(1 - p)).mean())


def _member_auc(s: Scored) -> float:
    gold = s.members[0] > 0
    both = [j for j in range(gold.shape[1]) if gold[:, j].any() and not gold[:, j].all()]
    return float(np.mean([measures.roc_auc(gold[:, j], s.probabilities[:, j]) for j in both])) if both else 0.5


def _of_side(s: Scored, answerable: bool) -> float:
    """Mean F1 of the rows with an answer, or of those without, where it is whether none is given; 0 where there are no such rows."""
    found = answers.best(answers.f1, s.gold, s.predicted)
    mine = [score for score, gold in zip(found, s.gold, strict=True) if bool(gold) == answerable]
    return float(np.mean(mine)) if mine else 0.0


CLASSES: Mapping[str, Callable[[Scored], float]] = {
    "accuracy": _right,
    "f1": lambda s: _of_positive(s, 2),
    "macro_f1": _mean_f1,
    "micro_f1": _right,
    "weighted_f1": _weighted_f1,
    "precision": lambda s: _of_positive(s, 0),
    "recall": lambda s: _of_positive(s, 1),
    "matthews_correlation": lambda s: measures.matthews(s.table),
    "balanced_accuracy": _balanced_accuracy,
    "roc_auc": _class_auc,
    "log_loss": lambda s: measures.log_loss(s.classes[0], s.probabilities),
    "brier": lambda s: measures.brier(s.classes[0], s.probabilities),
    "expected_calibration_error": lambda s: measures.calibration_error(s.classes[0], s.probabilities),
}
MEMBERS: Mapping[str, Callable[[Scored], float]] = {
    "accuracy": lambda s: float((s.members[0] == s.members[1]).all(axis=1).mean()),
    "f1": lambda s: float(_member_f1(s, None)),
    "macro_f1": lambda s: float(_member_f1(s, 0).mean()),
    "micro_f1": lambda s: float(_member_f1(s, None)),
    "weighted_f1": _member_weighted_f1,
    "precision": lambda s: _member_part(s, 1),
    "recall": lambda s: _member_part(s, 0),
    "roc_auc": _member_auc,
    "log_loss": _member_log_loss,
    "brier": lambda s: float(((s.probabilities - s.members[0]) ** 2).mean()),
}
VALUES: Mapping[str, Callable[[Scored], float]] = {
    "pearson": lambda s: measures.pearson(*s.values),
    "spearman": lambda s: measures.spearman(*s.values),
    "mse": lambda s: float(((s.values[0] - s.values[1]) ** 2).mean()),
    "mae": lambda s: float(np.abs(s.values[0] - s.values[1]).mean()),
    "r2": lambda s: measures.r2(*s.values),
}
TEXT: Mapping[str, Callable[[Scored], float]] = {
    "rouge_l": lambda s: texts.mean(texts.rouge_l, s.predicted, s.gold),
    "rouge_1": lambda s: texts.mean(lambda said, wanted: texts.rouge_n(said, wanted, 1), s.predicted, s.gold),
    "rouge_2": lambda s: texts.mean(lambda said, wanted: texts.rouge_n(said, wanted, 2), s.predicted, s.gold),
    "bleu": lambda s: texts.bleu(s.predicted, s.gold),
    "chrf": lambda s: texts.chrf(s.predicted, s.gold),
    "exact_match": lambda s: texts.mean(texts.same, s.predicted, s.gold),
    "accuracy": _right,
}
TAGS: Mapping[str, Callable[[Scored], float]] = {
    "f1": lambda s: entityscores.micro(s.entities, 2),
    "precision": lambda s: entityscores.micro(s.entities, 0),
    "recall": lambda s: entityscores.micro(s.entities, 1),
    "macro_f1": lambda s: entityscores.macro(s.entities),
    "accuracy": lambda s: entityscores.words_right(s.gold, s.predicted),
}
ANSWERS: Mapping[str, Callable[[Scored], float]] = {
    "f1": lambda s: float(np.mean(answers.best(answers.f1, s.gold, s.predicted))),
    "exact_match": lambda s: float(np.mean(answers.best(answers.exact, s.gold, s.predicted))),
    "answerable_f1": lambda s: _of_side(s, answerable=True),
    "unanswerable_accuracy": lambda s: _of_side(s, answerable=False),
}
