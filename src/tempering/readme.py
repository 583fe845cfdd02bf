"""How to load a saved folder, in the words and lines of code that its README holds."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# The hub's name of the task (regression has that of classification), the class that loads a model, and what it is asked.
PLAIN = ("text-classification", "AutoModelForSequenceClassification", '["a text", "another text"]')
HUB = {
    "tagging": ("token-classification", "AutoModelForTokenClassification", '["a text", "another text"]'),
    "question_answering": ("question-answering", "AutoModelForQuestionAnswering", '[("a question?", "a text that answers it")]'),
}
HEADS = (PLAIN[1], *(auto for _, auto, _ in HUB.values()))  # classes that are told the number of labels
NAME = "README.md"
PLACE = '"path/to/this/folder"'
INSIDE = '"path/to/this/folder/base"'
OURS = '---\nlibrary_name: "tempering"\n'


def how_to_load(
    ways: Sequence[str], kind: str, labels: int, model: str, base: Mapping[str, Any] | None = None, auto: str = ""
) -> list[str]:
    """Paragraphs of Markdown: code for each of ``ways`` (libraries, see `tempering.saving.loads_with`), and what else has to be there.

    ``base`` is that of a folder which holds a change alone: {"fingerprint": ..., "inside": the folder has it, "quantize": ...}; ``auto``
    transformers' class for the folder, where that is not the usual one of the ``kind``.
    """
    _, usual, texts = HUB.get(kind, PLAIN)
    auto = auto or usual
    source = INSIDE if base and base.get("inside") else json.dumps(model)
    sized = f", num_labels={labels}" if auto in HEADS else ""
    code = {
        "tempering": f"import tempering\n\nlearner = tempering.load({PLACE})\nlearner.predict({texts})",
        "transformers": f"from transformers import {auto}, AutoTokenizer\n\n"
        f"model = {auto}.from_pretrained({PLACE})\ntokenizer = AutoTokenizer.from_pretrained({PLACE})",
        "peft": f"from peft import PeftModel\nfrom transformers import {auto}\n\n"
        f"base = {auto}.from_pretrained({source}{sized})\nmodel = PeftModel.from_pretrained(base, {PLACE})",
    }
    shown = [f"With {way}:\n\n{fenced(code[way], 'python')}" for way in ways if way in code]
    only = ["This model has parts that only `tempering.load` restores."] if list(ways) == ["tempering"] else []
    asks = "peft" in ways and auto not in HEADS and kind != "text"
    bare = (
        ["PEFT gives the language model alone: what it is asked and how an answer is read, only `tempering.load` restores."] if asks else []
    )
    return ["## How to load it", *shown, *only, *bare, *_needed(model, base)]


def _needed(model: str, base: Mapping[str, Any] | None) -> list[str]:
    """What has to be there beside the folder, where that holds no model of its own."""
    if not base:
        return []
    packed = f" Its matrices are packed in {base['quantize']} again." if base.get("quantize") else ""
    if base.get("inside"):
        return [f"The base model, which an earlier stage changed, lies in the folder `base`; what is beside it is the change.{packed}"]
    called = model if re.fullmatch(r"[\w./-]+", model) else fenced(model, "text", "`")
    said = (
        f"This folder holds only what was trained, and needs its base model: {called}, read from where it was"
        f" (fingerprint {str(base['fingerprint'])[:8]}). One with other weights is refused.{packed}"
    )
    return [said]


def fenced(code: str, language: str, least: str = "```") -> str:
    """``code`` as a block, or with ``least`` one backtick as a piece of a line, fenced by more backticks than stand in it."""
    longest = max((len(run) for run in re.findall(r"`+", code)), default=0)
    fence = "`" * max(len(least), longest + 1)
    return f"{fence} {' '.join(code.split())} {fence}" if len(least) == 1 else f"{fence}{language}\n{code.rstrip()}\n{fence}"


def is_ours(path: Path) -> bool:
    """Whether a README, or model card, is of this library."""
    return path.name == NAME and path.is_file() and path.read_text(encoding="utf-8", errors="replace").startswith(OURS)


def write(folder: Path, ways: Sequence[str], meta: Mapping[str, Any], model: str, auto: str) -> None:
    """Leave a short README in a saved ``folder``, whose ``tempering.json`` holds ``meta``; one that is not of this library stays."""
    path = folder / NAME
    if path.exists() and not is_ours(path):
        return
    kind, task = str(meta["task"]["kind"]), meta["task"]
    labels = 2 if kind == "question_answering" else len(task["labels"]) or 1
    base = None if meta["format"] == "full" else meta["base"] | {"inside": meta["base"]["changed"]}
    title = f"# A {kind.replace('_', ' ')} model, saved by [Tempering](https://pypi.org/project/tempering/)"
    parts = [title, *how_to_load(ways, kind, labels, model, base, auto)]
    path.write_text(f"{OURS}---\n\n" + "\n\n".join(parts) + "\n", encoding="utf-8")
