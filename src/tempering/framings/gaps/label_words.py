"""The label words of a recipe: however they are given, a word or several for each class of the task."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from tempering.errors import RecipeError
from tempering.framings.gaps.choices import given_to
from tempering.framings.gaps.naming import by_class
from tempering.framings.gaps.poles import HIGH, LOW
from tempering.framings.templates import lm_bff

Pairs = tuple[tuple[Any, Any], ...]


def normal(given: Any) -> Any:
    """``words`` of a recipe as a value that hashes: pairs (label, its words) from a mapping, or the words in the order of the labels."""
    if isinstance(given, Mapping):
        return tuple((label, _several(words)) for label, words in given.items())
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise ValueError("words must map each label to its word, as in  {negative: terrible}, or list them in the order of the labels")
    if len({_is_pair(entry) for entry in given}) > 1:
        raise ValueError("words name the label of some entries and not of others; map each label to its word, as in  {negative: terrible}")
    return tuple((e[0], _several(e[1])) if _is_pair(e) else e if isinstance(e, str) else _several(e) for e in given)


def _is_pair(entry: Any) -> bool:
    return isinstance(entry, list | tuple) and len(entry) == 2 and isinstance(entry[1], list | tuple)


def is_mapping(words: Any) -> bool:
    """Whether every entry names its label."""
    return bool(words) and all(_is_pair(entry) for entry in words)


def labels_of(words: Any, template: str | None, choices: Sequence[str] = ()) -> tuple[Any, ...]:
    """The labels that a recipe gives words for, in its order; without words those of LM-BFF's setting, or the template's own choices."""
    if is_mapping(words):
        return tuple(label for label, _ in words)
    if not words and template is not None and template.startswith(lm_bff.PREFIX):
        return tuple(names[0] for _, names in lm_bff.setting(template).classes)
    return tuple(f"class {i}" for i in range(len(words))) or tuple(choices)


def _several(words: Any) -> tuple[str, ...]:
    found = (words,) if isinstance(words, str) else tuple(words) if isinstance(words, list | tuple) else (words,)
    wrong = [w for w in found if not isinstance(w, str)]
    if wrong or not found:
        raise ValueError(f"a label word is text; write it in quotes, found {wrong[0] if wrong else 'none'!r}")
    return found


def resolved(words: Any, task: Any, template: str | None, choices: Sequence[str], needed: bool = True) -> dict[Any, tuple[str, ...]]:
    """The words of each class (of a value: of the poles low and high), in the order of the classes.

    Those given; else those that come with the template (`given_to`; of a value: low first); else the labels' names. Where they are not
    ``needed``, since the verbalizer finds its own, a name need not be a word.
    """
    classes = (LOW, HIGH) if task.kind == "regression" else tuple(task.labels)
    if is_mapping(words):
        return _by_class(dict(words), classes, task.kind == "regression")
    if words:
        return _in_order(words, classes, "words")
    if template is not None and template.startswith(lm_bff.PREFIX):
        return lm_bff.words_for(template, classes)
    if choices and needed:
        in_order = _in_order(tuple(choices), classes, "answer_choices of the template")
        named = {} if task.kind == "regression" else given_to(classes, choices, template)
        return {label: _several(named.get(label, words)) for label, words in in_order.items()}
    if not needed:
        return {label: (str(label),) for label in classes}
    return {label: (spoken(label),) for label in classes} if task.kind != "regression" else _no_poles()


def _by_class(words: dict[Any, tuple[str, ...]], classes: Sequence[Any], poles: bool) -> dict[Any, tuple[str, ...]]:
    """A mapping in the order of the classes, however it was written; words for what is no class come last, and are refused where read."""
    place = {label: i for i, label in enumerate(classes)}
    named = by_class(words, classes)
    if poles and place.keys() != named.keys():
        raise RecipeError(
            f"words: a value lies between the poles {LOW} and {HIGH}, found words for {', '.join(map(str, words))}; write"
            " words: {low: 'No', high: 'Yes'}"
        )
    return {label: named[label] for label in sorted(named, key=lambda label: place.get(label, len(place)))}


def _in_order(words: Sequence[Any], classes: Sequence[Any], what: str) -> dict[Any, tuple[str, ...]]:
    if len(words) != len(classes):
        raise RecipeError(
            f"{what}: expected one entry for each of {', '.join(map(str, classes))}, found {len(words)}; give words as  label: word"
        )
    return {label: _several(word) for label, word in zip(classes, words, strict=True)}


def spoken(label: Any) -> str:
    """A label as a word: ``very_negative`` becomes "very negative"."""
    said = re.sub(r"[_\s]+", " ", str(label)).strip()
    if isinstance(label, int | float) or said.replace(".", "").isdigit() or not said:
        raise RecipeError(f"label {label!r} is no word that a model could put at a mask; give words, as in  words: {{{label}: terrible}}")
    return said


def _no_poles() -> dict[Any, tuple[str, ...]]:
    raise RecipeError(
        "a value is read off two label words, one for each end of its scale; give words, as in  words: {low: 'No', high: 'Yes'}"
    )
