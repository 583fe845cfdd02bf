"""How answers are compared: SQuAD's normalization, exact match and F1 over words (Rajpurkar et al. 2016, 2018)."""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

_ARTICLES = re.compile(r"\b(a|an|the)\b", re.UNICODE)
_MARKS = str.maketrans("", "", string.punctuation)


def normalized(answer: str) -> str:
    """Lower case, without ASCII punctuation and English articles, white space evened out, in this order."""
    return " ".join(_ARTICLES.sub(" ", answer.lower().translate(_MARKS)).split())


def exact(said: str, true: str) -> float:
    """1 where the two are the same once normalized."""
    return float(normalized(said) == normalized(true))


def f1(said: str, true: str) -> float:
    """2 common / (words said + words true) over normalized words with their counts; where one side has none, whether both have none."""
    a, b = normalized(said).split(), normalized(true).split()
    if not a or not b:
        return float(a == b)
    common = sum((Counter(a) & Counter(b)).values())
    return 2 * common / (len(a) + len(b))


def texts_of(gold: Any) -> list[str]:
    """The answers that count as right: their texts, less those that normalize to nothing; "" alone where there is no answer."""
    found = [text for _, text in gold if normalized(text)]
    return found or [""]


def best(score: Callable[[str, str], float], gold: Sequence[Any], said: Sequence[str]) -> list[float]:
    """The best score of each prediction over its right answers."""
    return [max(score(mine, true) for true in texts_of(answers)) for answers, mine in zip(gold, said, strict=True)]


def best_margin(found: Sequence[tuple[float, str]], gold: Sequence[Any]) -> float:
    """The threshold with the highest mean F1 where an answer is given unless its margin exceeds the threshold.

    ``found`` holds for each question by how much "no answer" exceeds the best answer, and that answer. The threshold lies in the middle
    between two margins, so that new questions are the safest; among equals the one nearest 0.
    """
    order = sorted(range(len(found)), key=lambda i: found[i][0])
    margins = [found[i][0] for i in order]
    spoken = best(f1, [gold[i] for i in order], [found[i][1] for i in order])
    silent = best(f1, [gold[i] for i in order], [""] * len(order))
    total, best_total, threshold = sum(silent), -1.0, 0.0
    for i in range(len(order) + 1):
        apart = i in (0, len(order)) or margins[i] > margins[i - 1]
        middle = _between(margins, i)
        if apart and (total > best_total + 1e-9 or (total > best_total - 1e-9 and abs(middle) < abs(threshold))):
            best_total, threshold = max(total, best_total), middle
        if i < len(order):
            total += spoken[i] - silent[i]
    return threshold


def _between(margins: Sequence[float], i: int) -> float:
    """A threshold above the first ``i`` margins and below the rest; 0 if it lies there. Infinite margins belong to no answer at all."""
    below = margins[i - 1] if i else -math.inf
    above = margins[i] if i < len(margins) else math.inf
    if below <= 0.0 < above:
        return 0.0
    if math.isinf(below) or math.isinf(above):
        return above - 1.0 if math.isfinite(above) else below + 1.0 if math.isfinite(below) else 0.0
    middle = (below + above) / 2
    return middle if middle < above else below
