"""The arms of LM-BFF's protocol: framings, the grid, the published order, and the variants of the sensitivity table."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tempering.framings.cloze import Cloze
from tempering.framings.demonstrations import Demonstrations
from tempering.framings.head import Head
from tempering.framings.templates import lm_bff
from tempering.framings.verbalizers.auto_words import AutoWords
from tempering.tasks import Task

SHOTS = 16  # rows a class
TASKS = {"sst2": "sst2", "trec6": "trec", "snli_10k": "snli", "mr": "mr", "cr": "cr", "stsb": "stsb"}
OTHERS = tuple(name for name in lm_bff.SETTINGS if name not in TASKS.values())  # of the paper's 15, by --tasks; data by the same names
METRICS = {"cola": "matthews_correlation", "mrpc": "f1", "qqp": "f1", "stsb": "pearson"}  # the paper's; of the others accuracy
GRIDS: dict[str, tuple[tuple[float, ...], tuple[int, ...]]] = {"paper": ((1e-5, 2e-5, 5e-5), (2, 4, 8)), "small": ((2e-5, 1e-4), (8,))}
SEARCH = {"paper": (1e-5, 8), "small": (1e-4, 8)}  # the setting that words and templates are searched with

WORDS: dict[str, Mapping[str, str]] = {  # sst2
    "great/terrible": {"positive": "great", "negative": "terrible"},
    "good/bad": {"positive": "good", "negative": "bad"},
    "cat/dog": {"positive": "cat", "negative": "dog"},
    "dog/cat": {"positive": "dog", "negative": "cat"},
    "terrible/great": {"positive": "terrible", "negative": "great"},
}
_NLI = {"contradiction": "No", "neutral": "Maybe", "entailment": "Yes"}
TEMPLATES: dict[str, tuple[str, Mapping[str, str]]] = {  # snli_10k
    "S1 ? [M] , S2": ("*cls**sent-_0*?*mask*,*+sentl_1**sep+*", _NLI),
    "S1 . [M] , S2": ("*cls**sent-_0*.*mask*,*+sentl_1**sep+*", _NLI),
    "S1 ? [M] S2": ("*cls**sent-_0*?*mask**+sentl_1**sep+*", _NLI),
    "S1 S2 [M]": ("*cls**sent_0**+sent_1**mask**sep+*", _NLI),
    "S2 ? [M] , S1": ("*cls**sent-_1*?*mask*,*+sentl_0**sep+*", _NLI),
    "words permuted": ("*cls**sent-_0*?*mask*,*+sentl_1**sep+*", {"contradiction": "Maybe", "neutral": "Yes", "entailment": "No"}),
}


@dataclass(frozen=True)
class Arm:
    """A row of the table. ``candidates`` of a task are its framings by name; more than one are searched on the development rows first.

    ``trained``: by the grid; else the framing is used as it is. ``seeded``: its score varies with the seed. ``searches``: its template is
    searched for. ``whole``: it has all training rows and the task's own development rows, and runs as recipe full does. ``same``: the arm
    whose runs are these runs, too.
    """

    name: str
    candidates: Callable[[str, Task, argparse.Namespace], dict[str, Any]] = field(default=lambda name, task, args: {})
    trained: bool = True
    seeded: bool = True
    searches: bool = False
    whole: bool = False
    demonstrated: bool = False
    same: str = ""


def template(name: str) -> str:
    """The paper's manual template for a data set."""
    return f"lm-bff/{TASKS.get(name, name)}"


def contexts(name: str, args: argparse.Namespace) -> int:
    """How many sets of demonstrations are averaged: the paper's number, at most ``--contexts``."""
    return min(args.contexts, lm_bff.setting(template(name)).contexts)


def metric(name: str, task: Task) -> str:
    """The paper's metric of a data set. F1 is that of the class whose label word is Yes."""
    base = METRICS.get(TASKS.get(name, name), "accuracy")
    if base != "f1":
        return base
    (yes,) = (label for label, words in lm_bff.words_for(template(name), task.labels).items() if words == ("Yes",))
    return f"f1:{yes}"


def _manual(name: str, task: Task, args: argparse.Namespace) -> dict[str, Any]:
    return {"manual": Cloze(template(name))}


def _demonstrated(name: str, task: Task, args: argparse.Namespace) -> dict[str, Any]:
    return {"manual": Demonstrations(Cloze(template(name)), contexts=contexts(name, args))}


def _in_context(name: str, task: Task, args: argparse.Namespace) -> dict[str, Any]:
    shots = min(args.context_rows, len(task.train))
    return {"manual": Demonstrations(Cloze(template(name)), shots=shots, contexts=1, filter=None, place="before")}


def _plain(name: str, task: Task, args: argparse.Namespace) -> dict[str, Any]:
    return {"head": Head()}


def _auto_words(name: str, task: Task, args: argparse.Namespace) -> dict[str, Any]:
    """LM-BFF, section 5.1: the best assignments by zero-shot accuracy on the training rows. Six classes need fewer words each to try."""
    narrow = {"k": 30, "n": 100} if len(task.labels) > 3 else {}
    return {
        f"rank {rank}": Cloze(template(name), verbalizer=AutoWords(rank=rank, **narrow), bounds=bounds(task))
        for rank in range(args.candidates)
    }


def bounds(task: Task) -> tuple[float, float] | None:
    """The ends of the scale of similarity, 0 to 5, which few rows do not show."""
    return (0.0, 5.0) if task.kind == "regression" else None


ARMS = {
    arm.name: arm
    for arm in (
        Arm("majority", trained=False, seeded=False),
        Arm("zero-shot", _manual, trained=False, seeded=False),
        Arm("in-context", _in_context, trained=False),
        Arm("fine-tuning", _plain),
        Arm("prompt", _manual),
        Arm("prompt + demonstrations", _demonstrated),
        Arm("automatic words", _auto_words),
        Arm("automatic templates", searches=True),
        Arm("automatic templates + demonstrations", searches=True, demonstrated=True),
        Arm("fine-tuning, all rows", whole=True),
    )
}
# (better, worse): the order that the paper reports for RoBERTa-large.
ORDER = (
    ("zero-shot", "majority"),
    ("prompt", "zero-shot"),
    ("prompt", "in-context"),
    ("prompt", "fine-tuning"),
    ("prompt + demonstrations", "fine-tuning"),
    ("automatic templates", "fine-tuning"),
    ("fine-tuning, all rows", "fine-tuning"),
    ("fine-tuning, all rows", "prompt + demonstrations"),
)
EXCEPT = {  # where the paper's own order is the other one, or has nothing to compare with
    ("zero-shot", "majority"): ("stsb", "mrpc", "rte"),
    ("prompt", "fine-tuning"): ("trec6", "cola", "mrpc"),
    ("prompt + demonstrations", "fine-tuning"): ("trec6", "cola"),
    ("automatic templates", "fine-tuning"): ("trec6", "cola", "mrpc"),
    ("fine-tuning, all rows", "prompt + demonstrations"): ("cr",),
}


def variants() -> dict[str, tuple[str, Arm]]:
    """The arms of the sensitivity table: name -> (task, arm)."""
    found: dict[str, tuple[str, Arm]] = {}
    for name, words in WORDS.items():
        cloze = Cloze(template("sst2"), words=words)
        same = "prompt" if name == next(iter(WORDS)) else ""
        found[name] = ("sst2", Arm(f"words {name}", lambda name, task, args, c=cloze: {"given": c}, same=same))
    for name, (text, words) in TEMPLATES.items():
        cloze = Cloze(text, words=words, max_length=256)
        same = "prompt" if name == next(iter(TEMPLATES)) else ""
        found[name] = ("snli_10k", Arm(f"template {name}", lambda name, task, args, c=cloze: {"given": c}, same=same))
    return found
