"""``temper probe-facts``: what a pretrained model knows of facts, by the words it puts into gaps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tempering.commands.console import say, show_json
from tempering.errors import DataError

if TYPE_CHECKING:
    from tempering.prompting.facts import Probe


@dataclass(frozen=True)
class Request:
    """What the user asked for; ``columns`` names those of subject, object and relation where their names are unusual."""

    facts: str
    model: str
    templates: tuple[str, ...]
    relations: str | None
    columns: dict[str, str | None]
    among: Path | None
    show: int


def run(request: Request, as_json: bool) -> None:
    """Print a line for each relation, and what the model says of a few of its facts."""
    from tempering.backbone import Backbone
    from tempering.prompting.fact_files import read_relations
    from tempering.prompting.facts import probe_relations

    relations = read_relations(request.facts, request.templates, request.relations, request.columns)
    allowed = _words(request.among) if request.among else []
    backbone = Backbone.load(request.model)
    found = probe_relations(backbone, relations, allowed, request.show)
    if as_json:
        show_json({"model": backbone.source} | found.as_dict())
        return
    say(*_lines(found, backbone.source))


def _words(path: Path) -> list[str]:
    """Words, one a line."""
    try:
        words = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--among {path}: expected a text file with a word a line, found {error}; correct the path") from None
    if not any(words):
        raise DataError(f"--among {path}: holds no word; write one a line, or leave --among out")
    return [word for word in words if word]


def _lines(found: Probe, model: str) -> list[str]:
    rows: list[tuple[str, ...]] = [("P@1", "P@10", "MRR", "facts", "left out", "relation", "template")]
    for one in found.relations:
        numbers = (f"{one.p_at_1:.4f}", f"{one.p_at_10:.4f}", f"{one.mrr:.4f}", str(one.facts), str(one.left_out))
        rows.append((*numbers, one.relation or "-", one.template))
    if len(found.relations) > 1:
        total = (str(sum(one.facts for one in found.relations)), str(sum(one.left_out for one in found.relations)))
        rows.append((*(f"{found.mean(m):.4f}" for m in ("p_at_1", "p_at_10", "mrr")), *total, "mean", "of all relations, each alike"))
    wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [f"facts that {model} names, nothing trained (objects of several tokens are left out):"]
    lines += [
        "  " + "  ".join(c.ljust(w) if i > 4 else c.rjust(w) for i, (c, w) in enumerate(zip(row, wide, strict=True))).rstrip()
        for row in rows
    ]
    for one in found.relations:
        lines += [f"  {a.subject}: {a.object} at rank {a.rank}; said {', '.join(a.said)}" for a in one.shown]
    return [*lines, *(f"note: {name}: no object is one token, so that it is skipped" for name in found.skipped)]
