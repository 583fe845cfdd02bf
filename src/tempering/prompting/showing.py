"""Rendered prompts as a person reads them: where the mask and the label word are, how many tokens, and what was cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from tempering.contracts import Example
from tempering.framings.templates.encoder import TemplateEncoder
from tempering.framings.templates.laying import Laid, size
from tempering.learner import Learner


@dataclass(frozen=True)
class Shown:
    """A prompt: ``text`` with its masks and trained vectors in brackets; ``tokens`` of ``limit``, ``cut`` tokens of the texts left out."""

    row: int
    label: Any
    word: str
    template: str
    text: str
    tokens: int
    limit: int
    cut: int

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def shown(learner: Learner, examples: Sequence[Example]) -> list[Shown]:
    """Every example under every template of a cloze that was built on a task and prepared."""
    module = learner.framing
    found = []
    for text in module.texts:
        whole = replace(text, limits=())
        sizes = [size(parts) for parts in whole.parts(examples)]
        for example, laid, tokens in zip(examples, text.encode(examples), sizes, strict=True):
            word = _word(module, example)
            marked = _marked(text, laid, word)
            kept = len(laid.ids) + (len(laid.places.masks) if text.causal else 0) - (text.length - text.room)
            found.append(
                Shown(example.row, example.label, word, str(text.template), marked, len(laid.ids), text.length, max(0, tokens - kept))
            )
    return found


def _word(module: Any, example: Example) -> str:
    """The first label word of the row's class; empty for a value or a row without a label."""
    words = {str(label): given for label, given in module.words.items()}
    return str(words[str(example.label)][0]) if str(example.label) in words else ""


def _marked(text: TemplateEncoder, laid: Laid, word: str) -> str:
    """Running text, with ``[mask: word]`` where the model names a word and ``[soft]`` where trained vectors stand."""
    marks = dict.fromkeys(laid.places.soft, "[soft]")
    if text.causal:
        return f"{_said(text, laid.ids)} {_mask(word)}"
    marks |= dict.fromkeys(laid.places.masks[:1], _mask(word)) | dict.fromkeys(laid.places.masks[1:], "[mask]")
    parts, run = [], list[int]()
    for place, token in enumerate(laid.ids):
        if place not in marks:
            run.append(token)
            continue
        parts += [_said(text, run), marks[place]]
        run = []
    return " ".join(part for part in (*parts, _said(text, run)) if part)


def _mask(word: str) -> str:
    return f"[mask: {word}]" if word else "[mask]"


def _said(text: TemplateEncoder, ids: Sequence[int]) -> str:
    return str(text.coder.tokenizer.decode(list(ids), skip_special_tokens=False)).strip() if ids else ""
