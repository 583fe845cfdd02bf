"""Which rows are drawn as demonstrations: some of all, or as many of each class; and what is looked at before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tempering.contracts import Example
from tempering.errors import DataError, RecipeError
from tempering.framings.asked.prompt_text import Pattern
from tempering.framings.asked.scoring import encoded
from tempering.framings.lm_head import random_head

if TYPE_CHECKING:
    from tempering.backbone import Backbone
    from tempering.framings.asked.prompted import PromptedModule


def drawn(rows: int, shots: int, rng: np.random.Generator, method: str) -> tuple[int, ...]:
    """Numbers of ``shots`` of ``rows`` rows, in random order (Zhao et al. 2021)."""
    if shots > rows:
        raise RecipeError(f"{method}: shots={shots}, but there are {rows} labelled training rows; give shots of at most that")
    return tuple(int(i) for i in rng.permutation(rows)[:shots])


def drawn_by_class(targets: Sequence[int], labels: Sequence[Any], shots: int, rng: np.random.Generator, method: str) -> tuple[int, ...]:
    """Numbers of ``shots`` rows of each class, in random order (Gao et al. 2021; Lu et al. 2022)."""
    have = Counter(targets)
    short = [(label, have[c]) for c, label in enumerate(labels) if have[c] < shots]
    if short:
        raise RecipeError(
            f"{method}: shots={shots} of each class, but label {short[0][0]!r} has {short[0][1]} training rows; give fewer shots, or"
            " per_class: false"
        )
    taken: Counter[int] = Counter()
    chosen: list[int] = []
    for i in rng.permutation(len(targets)):
        taken[targets[i]] += 1
        chosen += [int(i)] if taken[targets[i]] <= shots else []
    return tuple(chosen)


def check_texts(examples: Sequence[Example], pattern: Pattern) -> None:
    """Refuse a pair where the template has one slot, and a single text where it has two."""
    need = 1 + pattern.pair
    for e in examples:
        if len(e.texts) != need:
            raise DataError(
                f"row {e.row}: template {pattern.source!r} asks for {'a pair of texts' if need == 2 else 'one text'}, found {len(e.texts)};"
                " give another template"
            )


def shortest(sizes: Sequence[int], classes: Sequence[Any] | None, shots: int) -> tuple[int, ...]:
    """Numbers of the ``shots`` smallest of ``sizes``, in all, or of each of the ``classes``."""
    taken: Counter[Any] = Counter()
    chosen = []
    for i in sorted(range(len(sizes)), key=lambda i: sizes[i]):
        which = None if classes is None else classes[i]
        taken[which] += 1
        chosen += [i] if taken[which] <= shots else []
    return tuple(chosen)


def check_room(module: PromptedModule) -> None:
    """Refuse demonstrations that would leave no query room beside them; where each query finds its own, even the shortest rows."""
    value, limit, blank = module.value, module.reader.limit, Example(("",) * (1 + module.pattern.pair), "")
    contexts = [context for context in module.contexts if context]
    found = not contexts and value.shots > 0 and len(module.pool) > 0
    if found:
        rows = encoded(module.reader.tokenizer, [module.pattern.filled(e.texts, module.word_of(e.label)) for e in module.pool])
        contexts = [shortest([len(ids) for ids in rows], [e.label for e in module.pool] if value.per_class else None, value.shots)]
    for context in contexts:
        need = module._ask(blank.texts, context, 0, module.answers_of(blank)).length
        if need >= limit:
            most = max(0, int(limit * len(context) / need) - 1)
            raise RecipeError(
                f"{module.method}: {'even the shortest ' if found else ''}{len(context)} demonstrations in the template"
                f" {module.pattern.source!r} take {need} tokens, and the context holds {limit}; show at most {most} (shots), or take"
                " shorter rows or a model with a longer context"
            )


def fresh_head(backbone: Backbone) -> tuple[str, ...]:
    """A note where the head that names tokens was drawn at random and nothing has trained it."""
    if not random_head(backbone):
        return ()
    return (
        f"{backbone.source} holds no language-model head, so one was drawn at random and answers are as random; take a checkpoint with it",
    )


def prompt_length(module: PromptedModule, lengths: Sequence[int]) -> int:
    """An estimate, before any row is drawn, of the longest prompt in tokens for rows of ``lengths``.

    The longest row and demonstrations of mean length, each in its template with an answer, cut to what the reader takes: what does not
    fit is dropped.
    """
    shots = module.value.shots * (len(module.answers) if module.value.per_class else 1)
    blank = Example(("",) * (1 + module.pattern.pair), "")
    template = module._ask(blank.texts, (), 0, module.answers_of(blank)).length
    wanted = template + max(lengths) + shots * (template + sum(lengths) / len(lengths))
    return int(min(module.reader.limit, wanted))
