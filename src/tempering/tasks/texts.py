"""How a written text is compared with the one that was wanted: ROUGE, BLEU and chrF, after their reference implementations.

Checked against rouge-score 0.1.2 (no stemming) and sacrebleu 2.6 (their defaults: 13a tokens, case kept, exponential smoothing; chrF2).
All are fractions. ROUGE is a mean over rows; BLEU and chrF are of the whole corpus, so that their rows have no scores of their own.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

_WORDS = re.compile(r"[a-z0-9]+")
_ENTITIES = (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"))
_13A = (
    (re.compile(r"([\{-\~\[-\` -\&\(-\+\:-\@\/])"), r" \1 "),  # every mark alone, but period, comma, dash and apostrophe
    (re.compile(r"([^0-9])([\.,])"), r"\1 \2 "),
    (re.compile(r"([\.,])([^0-9])"), r" \1 \2"),
    (re.compile(r"([0-9])(-)"), r"\1 \2 "),
)
ORDER, CHARS, BETA = 4, 6, 2  # n-grams of BLEU and of chrF, and how much more recall counts in chrF


def words(text: str) -> list[str]:
    """Lower-case runs of letters and digits of the Latin alphabet, as rouge-score takes them."""
    return _WORDS.findall(text.lower())


def grams(tokens: Sequence[Any], n: int) -> Counter[tuple[Any, ...]]:
    """Every run of n tokens, counted."""
    return Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))


def rouge_n(said: str, wanted: str, n: int) -> float:
    """F1 over runs of n words."""
    a, b = grams(words(said), n), grams(words(wanted), n)
    return _f1(sum((a & b).values()), sum(a.values()), sum(b.values()))


def rouge_l(said: str, wanted: str) -> float:
    """F1 over the longest common subsequence of words."""
    a, b = words(said), words(wanted)
    before = [0] * (len(b) + 1)
    for token in a:
        now = [0]
        for j, other in enumerate(b):
            now.append(before[j] + 1 if token == other else max(before[j + 1], now[j]))
        before = now
    return _f1(before[-1], len(a), len(b))


def _f1(common: int, said: int, wanted: int) -> float:
    return 2 * common / (said + wanted) if said and wanted else 0.0


def tokens_13a(text: str) -> list[str]:
    """The tokens of mteval-v13a, as sacrebleu has them."""
    text = text.rstrip().replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    for name, mark in _ENTITIES:
        text = text.replace(name, mark)
    text = f" {text} "
    for pattern, put in _13A:
        text = pattern.sub(put, text)
    return text.split()


def bleu(said: Sequence[str], wanted: Sequence[str]) -> float:
    """BP exp(mean over n = 1 .. 4 of log p_n) over the corpus, BP = exp(1 - r / c) for c < r words; p_n with no hit is 1 / (2^k total_n)
    for the k-th such n.
    """
    hits, totals, c, r = [0] * ORDER, [0] * ORDER, 0, 0
    for mine, theirs in zip(said, wanted, strict=True):
        a, b = tokens_13a(mine), tokens_13a(theirs)
        c, r = c + len(a), r + len(b)
        for n in range(ORDER):
            found, true = grams(a, n + 1), grams(b, n + 1)
            hits[n] += sum((found & true).values())
            totals[n] += sum(found.values())
    if not any(hits) or not all(totals):
        return 0.0
    logs, empty = 0.0, 0
    for hit, total in zip(hits, totals, strict=True):
        empty += not hit
        logs += math.log(hit / total if hit else 1 / (2**empty * total))
    return math.exp(min(0.0, 1 - r / c) + logs / ORDER)


def chrf(said: Sequence[str], wanted: Sequence[str]) -> float:
    """F2 of the mean precision and the mean recall over runs of 1 .. 6 characters without white space, over the corpus.

    Formula: F = (1 + 4) P R / (4 P + R); orders that neither side has are left out.
    """
    found, mine, theirs = [0] * CHARS, [0] * CHARS, [0] * CHARS
    for a_text, b_text in zip(said, wanted, strict=True):
        a, b = "".join(a_text.split()), "".join(b_text.split())
        for n in range(CHARS):
            x, y = grams(a, n + 1), grams(b, n + 1)
            found[n] += sum((x & y).values())
            mine[n] += sum(x.values()) if y else 0  # nothing could have been hit
            theirs[n] += sum(y.values())
    orders = [n for n in range(CHARS) if mine[n] and theirs[n]]
    if not orders:
        return 0.0
    p, r = (sum(found[n] / side[n] for n in orders) / len(orders) for side in (mine, theirs))
    return (1 + BETA**2) * p * r / (BETA**2 * p + r) if p + r else 0.0


def same(said: str, wanted: str) -> float:
    """1 where the two are the same but for white space."""
    return float(said.split() == wanted.split())


def mean(score: Callable[[str, str], float], said: Sequence[str], wanted: Sequence[str]) -> float:
    """The mean over rows."""
    return sum(map(score, said, wanted)) / len(said)
