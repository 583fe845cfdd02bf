"""Related words of each class: read from a file, made into candidates, weighed for relevance."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from tempering.errors import DataError, RecipeError
from tempering.framings.gaps.naming import by_class
from tempering.framings.verbalizers.base import Words
from tempering.framings.verbalizers.words import Ids, Table, WordCoder, given_words

TINY = 1e-12  # keeps a relevance finite where a word is related to its own class alone


def read_words(file: str, labels: Sequence[Any], absent_is_empty: bool = False) -> dict[str, tuple[str, ...]]:
    """Words by the class's name, from JSON or YAML (class: list, or words between commas) or text (a line a class, in class order)."""
    path = Path(file)
    if absent_is_empty and not path.exists():
        return {}
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"knowledgeable.file {file}: cannot be read ({error}); give a JSON, YAML or text file in UTF-8") from None
    found = _lines(file, text, labels) if path.suffix not in (".json", ".yaml", ".yml") else _mapping(file, text, labels)
    classes = {str(label) for label in labels}
    if wrong := sorted(classes ^ set(found)):
        place = "has no words for class" if wrong[0] in classes else "has words for"
        known = ", ".join(sorted(classes))
        raise DataError(f"knowledgeable.file {file}: {place} {wrong[0]!r}; expected exactly the classes of the task: {known}")
    return found


def _lines(file: str, text: str, labels: Sequence[Any]) -> dict[str, tuple[str, ...]]:
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) != len(labels):
        raise DataError(
            f"knowledgeable.file {file}: expected {len(labels)} lines of words, one a class in the order"
            f" {', '.join(map(str, labels))}, found {len(lines)}"
        )
    return {str(label): _split(line) for label, line in zip(labels, lines, strict=True)}


def _mapping(file: str, text: str, labels: Sequence[Any]) -> dict[str, tuple[str, ...]]:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    yaml = YAML(typ="safe", pure=True)
    yaml.version = (1, 2)
    try:
        found = json.loads(text) if file.endswith(".json") else yaml.load(text)
    except (json.JSONDecodeError, YAMLError) as error:
        raise DataError(f"knowledgeable.file {file}: not readable ({str(error).splitlines()[0]}); write  class: [word, word]") from None
    if not isinstance(found, Mapping):
        raise DataError(f"knowledgeable.file {file}: expected  class: [word, word]  for each class, found {type(found).__name__}")
    named = by_class(found, labels, f"knowledgeable.file {file}")
    return {str(k): _split(v) if isinstance(v, str) else tuple(map(str, v)) for k, v in named.items()}


def _split(line: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in line.split(",") if word.strip())


def candidates(coder: WordCoder, task: Any, words: Words, related: Mapping[str, tuple[str, ...]], max_pieces: int | None) -> Table:
    """The pieces of the given words and the related ones after them, in class order.

    Dropped are words the tokenizer does not know, words of more than ``max_pieces`` pieces, and words that two classes share, except
    where they are the first of a class. A class left without words is a `RecipeError`.
    """
    rows = []
    for label, given in given_words(task, words):
        known = (coder.encode(word) for word in (*given, *related.get(str(label), ())))
        row = [ids for ids in known if ids and coder.tokenizer.unk_token_id not in ids and len(ids) <= (max_pieces or len(ids))]
        if not row:
            raise RecipeError(
                f"knowledgeable verbalizer: none of the words of class {label!r} has at most {max_pieces} pieces that {coder.source}"
                " knows; raise max_pieces, or give it shorter words"
            )
        rows.append(list(dict.fromkeys(row)))
    firsts = Counter(row[0] for row in rows)
    if twice := [ids for ids, count in firsts.items() if count > 1]:
        raise RecipeError(f"knowledgeable verbalizer: two classes have the same first word ({coder.pieces(twice[0])}); give each its own")
    shared: Counter[Ids] = Counter(ids for row in rows for ids in row)
    return tuple(tuple(ids for i, ids in enumerate(row) if i == 0 or shared[ids] == 1) for row in rows)


def relevance(shown: Tensor, owner: Tensor, how: Literal["ratio", "log"]) -> Tensor:
    """R [words] from what the words show over the texts [texts, words]; the first word of a class stands for it (``owner`` as bool)."""
    firsts = owner.long().argmax(-1)
    unit = torch.nn.functional.normalize(shown, dim=0)
    near = unit.T @ unit[:, firsts]
    own = near[owner.T]
    classes = owner.shape[0]
    others = near[~owner.T].view(len(near), classes - 1)
    if how == "log":
        return own * ((classes - 1) / others.sum(-1).clamp(min=TINY)).log()
    p = 10 / (classes - 2 + 1e-2) + 1
    mean = (others.abs().amax(-1, keepdim=True)).clamp(min=TINY)  # taken out before the power: 1001 for two classes
    found = own / (mean[:, 0] * ((others.abs() / mean) ** p).mean(-1) ** (1 / p))
    return torch.where(own < 0, -torch.inf, found)
