"""The tasks of LM-BFF with their manual templates, label words and settings, by name: ``lm-bff/sst2``.

Source: princeton-nlp/LM-BFF, ``run_experiment.sh`` (Gao, Fisch, Chen 2021, table 1 and appendix). ``words`` are in the order of the
paper's classes, beside each the names that data sets give that class; of a regression task the low and the high pole.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any

from tempering.errors import RecipeError

PREFIX = "lm-bff/"


@dataclass(frozen=True, slots=True)
class Setting:
    """A task. ``classes``: label word -> names of its class in lower case, in the paper's order. ``max_length`` is that of one example;
    ``first`` and ``other`` are limits of the first and of other sentences; ``contexts`` are averaged at test time, with demonstrations;
    ``bounds`` are those of the values of a regression task.
    """

    template: str
    classes: tuple[tuple[str, tuple[str, ...]], ...]
    max_length: int = 128
    first: int | None = None
    other: int | None = None
    contexts: int = 16
    bounds: tuple[float, float] | None = None

    @property
    def words(self) -> tuple[str, ...]:
        """The label words, in the order of the classes."""
        return tuple(word for word, _ in self.classes)


_WAS = "*cls**sent_0*_It_was*mask*.*sep+*"
_THIS = "*cls**sent_0*_This_is*mask*.*sep+*"
_NLI = "*cls**sent-_0*?*mask*,*+sentl_1**sep+*"
_SAME = "*cls**sent_0**mask*,*+sentl_1**sep+*"
_BAD = ("terrible", ("0", "negative", "neg", "bad"))
_GOOD = ("great", ("1", "positive", "pos", "good"))
_STARS = (
    ("terrible", ("0", "very_negative", "very negative")),
    ("bad", ("1", "negative")),
    ("okay", ("2", "neutral")),
    ("good", ("3", "positive")),
    ("great", ("4", "very_positive", "very positive")),
)
_TYPES = (
    ("Description", ("0", "desc", "description")),
    ("Entity", ("1", "enty", "entity")),
    ("Expression", ("2", "abbr", "abbreviation", "expression")),
    ("Human", ("3", "hum", "human")),
    ("Location", ("4", "loc", "location")),
    ("Number", ("5", "num", "number", "numeric")),
)
_THREE = (("No", ("contradiction",)), ("Maybe", ("neutral",)), ("Yes", ("entailment",)))
_TWO = (("No", ("not_entailment",)), ("Yes", ("entailment",)))
_EQUAL = (("No", ("0", "not_paraphrase", "not_equivalent", "not_duplicate")), ("Yes", ("1", "paraphrase", "equivalent", "duplicate")))

SETTINGS = {
    "sst2": Setting(_WAS, (_BAD, _GOOD)),
    "sst5": Setting(_WAS, _STARS, first=110, other=20),
    "mr": Setting(_WAS, (_BAD, _GOOD), first=110, other=50),
    "cr": Setting(_WAS, (_BAD, _GOOD), first=110, other=50),
    "mpqa": Setting(_WAS, (_BAD, _GOOD), first=110),
    "subj": Setting(_THIS, (("subjective", ("0", "subjective")), ("objective", ("1", "objective"))), first=110, other=50),
    "trec": Setting("*cls**mask*:*+sent_0**sep+*", _TYPES, first=110),
    "cola": Setting(_THIS, (("incorrect", ("0", "unacceptable")), ("correct", ("1", "acceptable")))),
    "mnli": Setting(_NLI, _THREE, max_length=256, contexts=4),
    "snli": Setting(_NLI, _THREE, max_length=256, contexts=4),
    "qnli": Setting(_NLI, _TWO),
    "rte": Setting(_NLI, _TWO, max_length=256, first=240),
    "mrpc": Setting(_SAME, _EQUAL),
    "qqp": Setting(_SAME, _EQUAL, contexts=4),
    "stsb": Setting(_SAME, (("No", ("low",)), ("Yes", ("high",))), bounds=(0.0, 5.0)),
}
ALIASES = {"trec6": "trec", "sts-b": "stsb", "sst-2": "sst2", "sst-5": "sst5"}


def setting(name: str) -> Setting:
    """The setting called ``name``, with or without ``lm-bff/``; an unknown one is a `RecipeError` with near misses."""
    key = name.removeprefix(PREFIX).lower()
    key = ALIASES.get(key, key)
    if key not in SETTINGS:
        near = difflib.get_close_matches(key, SETTINGS, n=2, cutoff=0.4)
        hint = " or ".join(PREFIX + n for n in near) if near else ", ".join(PREFIX + n for n in SETTINGS)
        raise RecipeError(f"template {name!r}: no such task of LM-BFF; " + (f"did you mean {hint}?" if near else f"known: {hint}"))
    return SETTINGS[key]


def words_for(name: str, labels: tuple[Any, ...]) -> dict[Any, tuple[str, ...]]:
    """Label words of the task ``name`` for the data's own ``labels``, by the names that its classes go by."""
    known = {alias: word for word, aliases in setting(name).classes for alias in aliases}
    absent = [label for label in labels if str(label).lower() not in known]
    if absent or len(labels) != len(setting(name).classes):
        raise RecipeError(
            f"template {name!r}: its label words are for the classes {', '.join('/'.join(a) for _, a in setting(name).classes)}, found"
            f" {', '.join(map(str, labels))}; give words, one for each label"
        )
    return {label: (known[str(label).lower()],) for label in labels}
