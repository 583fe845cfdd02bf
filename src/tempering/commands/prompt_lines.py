"""What ``temper prompts`` prints: prompts, tables of scores, and what a search found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tempering.backbone import Backbone
    from tempering.prompting.scoring import Scored
    from tempering.prompting.search import Search
    from tempering.prompting.showing import Shown
    from tempering.tasks.task import Task


def prompt_lines(seen: Sequence[Shown], backbone: Backbone) -> list[str]:
    """Every prompt with its row, label and count of tokens."""
    found = [f"prompts as {backbone.source} reads them:"]
    for s in seen:
        cut = f", {s.cut} tokens of the texts cut" if s.cut else ""
        found += [f"  row {s.row}, label {s.label}, {s.tokens} of {s.limit} tokens{cut}", f"    {s.text}"]
    return found


def score_lines(scored: Sequence[Scored], task: Task, where: str, typed: Mapping[str, str] = MappingProxyType({})) -> list[str]:
    """A table, best first; a template of ``typed`` stands under the name there, any other in one line."""
    from tempering.tasks.metrics import default_metric

    main = default_metric(task.kind, task.labels)
    rows = [(main, "loss", "predicted", "template", "words")]
    for s in scored:
        said = " ".join(f"{label}:{share:.0%}" for label, share in s.predicted.items()) or "-"
        words = ", ".join(f"{label}={'|'.join(found)}" for label, found in s.words.items())
        shown = " + ".join(typed.get(template, " ".join(template.split())) for template in s.templates)
        rows.append((f"{s.metrics[main]:.4f}", f"{s.metrics['loss']:.4f}", said, shown, words))
    wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = ["  ".join(cell.ljust(w) for cell, w in zip(row, wide, strict=True)).rstrip() for row in rows]
    return [f"scores on {scored[0].rows} {where}:", *(f"  {line}" for line in table)]


def search_lines(found: Search, task: Task) -> list[str]:
    """The best candidates untrained, all that were fine-tuned, and the notes."""
    from tempering.prompting.selecting import told

    main = found.metric
    lines = score_lines(found.candidates[:10], task, "training rows, nothing trained, the ten best candidates")
    if found.worded:
        lines += ["", "label words fine-tuned, on the development rows:"]
        lines += [f"  {main} {t.metrics[main]:.4f}  loss {t.metrics['loss']:.4f}  {told(t.words)}" for t in found.worded]
    if found.tuned:
        lines += ["", "templates fine-tuned, on the development rows:"]
        lines += [f"  {main} {t.metrics[main]:.4f}  loss {t.metrics['loss']:.4f}  {t.template}" for t in found.tuned]
    return [*lines, "", *found.notes]
