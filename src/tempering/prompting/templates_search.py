"""Automatic templates (LM-BFF, section 5.2): what a model writes between the text and the label word of the training examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tempering.contracts import Example
from tempering.errors import DataError
from tempering.framings.gaps.poles import HIGH, LOW
from tempering.prompting.fillers import Filler, Filling
from tempering.prompting.sketches import FORMS, Form, words_of

ROOM = 256  # tokens of text that the filler reads
Words = Mapping[Any, tuple[str, ...]]


class Candidate(NamedTuple):
    """A template, how likely its filler finds it, and where the text stands in it."""

    template: str
    score: float
    where: str


def search(task: Any, words: Words, filler: Filler, n: int = 100) -> list[Candidate]:
    """The ``n`` likeliest templates for the training rows of ``task``, whose label words are ``words``; best first, each once.

    A single text stands before the gaps in one half and after them in the other; of a pair one text stands on each side.
    *Paper*: Gao, Fisch, Chen 2021. *Formula*: sum over template tokens of the mean over examples of log P(token | prefix, example).
    *Needs*: one label word a class (the first is read). *Costs*: (tokens x beam) passes of the decoder over all rows.
    *Differs*: templates that would not encode to the tokens that were scored, or that do not hold every text and the mask once, are
    left out; the first sentinel is given and not searched for. By a masked language model it is a stand-in that the paper does not have.
    """
    examples = [e for e in task.train if e.label is not None]
    if not examples:
        raise DataError(f"{task.name}: a search for templates reads labelled training rows, and there are none")
    forms = FORMS[len(examples[0].texts)]
    said = [filler.words.encode(word) for word in _answers(examples, task, words)]
    room = min(ROOM, filler.backbone.max_length - len(max(said, key=len)) - 16)
    found: list[Candidate] = []
    for where in forms:
        form = Form(where)
        fillings = filler.fill(form.sketches(examples, said, filler.coder, room))
        found += _templates(form, fillings, filler, -(-n // len(forms)))
    return sorted(found, key=lambda c: -c.score)[:n]


def _templates(form: Form, fillings: Sequence[Filling], filler: Filler, n: int) -> list[Candidate]:
    """The first ``n`` valid ones."""
    found: dict[str, Candidate] = {}
    for filling in fillings:
        left, right = (words_of(part, filler.coder) for part in (filling.left, filling.right))
        if left is None or right is None or not (left.text or right.text):
            continue
        template = form.template(left, right)
        found.setdefault(template, Candidate(template, filling.score, form.where))
        if len(found) == n:
            break
    return list(found.values())


def _answers(examples: Sequence[Example], task: Any, words: Words) -> list[str]:
    """The label word of each example: the first of its class; of a value that of the pole on its side of the median."""
    if task.kind != "regression":
        return [words[e.label][0] for e in examples]
    values = [float(e.label) for e in examples]
    middle = float(np.median(values))
    return [words[HIGH if v > middle else LOW][0] for v in values]
