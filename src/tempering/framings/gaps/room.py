"""Whether answered examples fit beside the queries at all, and how many queries lose some of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tempering.contracts import Example
from tempering.errors import RecipeError
from tempering.framings.gaps.draws import Pool
from tempering.framings.gaps.shown import Beside
from tempering.framings.templates.gathering import Parts
from tempering.framings.templates.laying import size

if TYPE_CHECKING:
    from tempering.framings.demonstrations import Demonstrations

_SHORTER = "framing.framing.max_length, a smaller framing.floor"  # settings of the cloze inside, and of the demonstrations
ROWS = 256  # training rows whose prompts are looked at


def check_room(value: Demonstrations, way: Beside, pool: Pool, queries: Sequence[Parts]) -> None:
    """Refuse demonstrations where even the shortest of them, as few as may be, do not fit beside the shortest of ``queries``."""
    query = min(min(size(parts), way.alone.room) for parts in queries)
    needs = [way.least(i) for i in range(len(pool.examples))]
    single = value.shots is not None or value.place == "before"  # they go one by one, else one of each class at a time
    least = min(needs) if single else sum(min(n for n, c in zip(needs, pool.classes, strict=True) if c == k) for k in set(pool.classes))
    if query + least > way.whole.room:
        what = "the shortest example takes" if single else f"one example of each class, down to floor {value.floor}, takes"
        raise RecipeError(
            f"demonstrations: in template {str(way.whole.template)!r} the shortest query takes {query} tokens and {what} {least}, and"
            f" {way.whole.room} fit beside special ones in {way.whole.length}, so that no prompt would show any; let queries and examples"
            f" be shorter ({_SHORTER}), let the prompt be longer (framing.max_length) where the model can read it, or use framing cloze"
        )


def losses(
    value: Demonstrations, ways: Sequence[Beside], pool: Pool, examples: Sequence[Example], rng: np.random.Generator
) -> tuple[str, ...]:
    """A note where some of ``examples`` have no room beside them for all that is drawn, as in training but without the filter."""
    chosen = [examples[i] for i in rng.permutation(len(examples))[:ROWS]]
    drawn = [pool.draw(pool.candidates(e), value.per_class, value.shots, rng) for e in chosen]
    stay = np.array([[way.stay(*asked) for asked in zip(way.queries(chosen), drawn, strict=True)] for way in ways]).min(0)
    fewer = int((stay < [sum(map(len, rounds)) for rounds in drawn]).sum())
    if not fewer:
        return ()
    none = f", {bare} of them for a single one" if (bare := int((stay == 0).sum())) else ""
    told = (
        f"{fewer} of {len(chosen)} training rows ({fewer / len(chosen):.0%}) have no room for all their examples{none}, in prompts of"
        f" {ways[0].whole.length} tokens: let queries and examples be shorter ({_SHORTER}), or the prompt longer (framing.max_length) where"
        " the model can read it"
    )
    return (told,)
