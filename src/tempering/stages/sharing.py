"""What several processes cannot share: refused before the first stage, so that none has trained for nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tempering.errors import RecipeError
from tempering.registry import name_of
from tempering.stages.acting import Framings
from tempering.train.device import launched
from tempering.train.memory import coupling_of


def check_shared(stages: Sequence[Any]) -> None:
    """Refuse stages that train in one process alone, where a launcher has started several.

    A stage or a framing says why in ``unshared``; a stabilizer that compares the rows of a batch has ``couples_rows``.
    """
    for i, stage in enumerate(stages if launched() > 1 else ()):
        framings = stage.framing if isinstance(stage.framing, Framings) else (stage.framing,)
        found = [(name_of(part)[1], part.unshared) for part in (stage, *framings) if getattr(part, "unshared", "")]
        found += [(name, "compares the rows of a batch") for name in coupling_of([(name_of(s)[1], s) for s in stage.live])]
        if found:
            raise RecipeError(
                f"stages.{i}: {found[0][0]} {found[0][1]}, so that processes cannot share it, and {launched()} were started; start it"
                " without a launcher, in one process"
            )
