"""``temper rank-models``, ``rank-tasks``, ``rank-prompts``: which model, first task or first prompt, before anything is fine-tuned."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tempering.commands.console import aligned, say, show_json, tell
from tempering.commands.inputs import Source
from tempering.errors import RecipeError

if TYPE_CHECKING:
    from tempering.ranking.rank import Ranking
    from tempering.stages.data_source import DataSource

SHOWN = {"logme": "LogME", "h_score": "H-score", "leep": "LEEP", "probe": "probe"}


def models(source: Source, listed: str, rows: int, by: str, seed: int, as_json: bool) -> None:
    """Print the models of ``listed`` (names between commas), best first."""
    from tempering.ranking.rank import rank_models

    names = [name.strip() for name in listed.split(",") if name.strip()]
    if len(names) < 2:
        raise RecipeError(f"--models {listed!r}: expected at least two names between commas, as in minilm,bert-base-uncased")
    task = source.task(seed)
    for note in task.notes:
        tell(note)
    _show(rank_models(names, task, rows=rows, by=by, seed=seed), "model", as_json)


def tasks(source: Source, candidates: list[str], model: str, rows: int, by: str, seed: int, as_json: bool) -> None:
    """Print the data sets ``candidates``, best first as intermediate training for ``source``."""
    from tempering.ranking.rank import rank_tasks

    _show(rank_tasks([_candidate(word) for word in candidates], source.task(seed), model, rows=rows, by=by, seed=seed), "task", as_json)


def prompts(target: str, sources: list[str], as_json: bool) -> None:
    """Print the folders ``sources``, the likest to ``target`` first, and how to start from that one."""
    from tempering.commands.inputs import quoted
    from tempering.tunings.saved_prompts import most_similar

    found = most_similar(target, sources)
    if as_json:
        show_json({"target": target, "sources": [one._asdict() for one in found]})
        return
    say(f"prompts like that of {target}, by the cosine of their means, best first:")
    say(*aligned((f"{one.similarity:.4f}", one.folder) for one in found))
    say(f"start from it with  --recipe prompt-tuning tuning.init=file tuning.file={quoted(found[0].folder)}")


def _candidate(word: str) -> str | DataSource:
    """A data set as a recipe names it: by its path, or as ``{path: snli.jsonl, label: gold_label}``."""
    from tempering.codec import parse_scalar
    from tempering.stages.data_source import named

    if not word.startswith("{"):
        return word
    try:
        return named(parse_scalar(word))  # type: ignore[no-any-return]
    except ValueError as error:
        raise RecipeError(f"candidate {word!r}: {error}") from None


def _show(found: Ranking, what: str, as_json: bool) -> None:
    if as_json:
        show_json(found.as_dict())
        return
    extra = [key for key in ("similarity",) if all(key in c.facts for c in found.candidates)]
    rows = [("", what, *SHOWN.values(), *extra, "seconds")]
    for i, c in enumerate(found.candidates, start=1):
        numbers = [*(c.scores[measure] for measure in SHOWN), *(c.facts[key] for key in extra)]
        rows.append((str(i), c.name, *map(_number, numbers), f"{c.seconds:.1f}"))
    wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
    say(f"{found.task}: {what}s by {SHOWN[found.by]}, best first (higher is better in every column)")
    for row in rows:
        say("  ".join(cell.ljust(w) if i == 1 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, wide, strict=True))).rstrip())
    say(*(f"note: {note}" for note in found.notes))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
