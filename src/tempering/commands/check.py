"""``temper check``: the data doctor."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from tempering.commands.console import aligned, say, show_json
from tempering.commands.inputs import Source, examined, outlined

if TYPE_CHECKING:
    from tempering.tasks.doctor import Finding


def run(source: Source, model: str | None, as_json: bool, strict: bool) -> int:
    """Print what the data is and what is wrong with it; 1 with ``strict`` and a finding that makes results meaningless, else 0."""
    from tempering.tasks.profile import summary

    task = source.task()
    backbone = outlined(model or "minilm", given=model is not None)
    findings, counts = examined(task, backbone), summary(task)
    if as_json:
        limit = backbone.max_length if backbone else None
        show_json({"task": counts, "notes": list(task.notes), "max_length": limit, "findings": [asdict(f) for f in findings]})
    else:
        say(*_summary_lines(counts), *(f"note: {note}" for note in task.notes), *_finding_lines(findings))
        if backbone is not None:
            say(f"lengths were measured with the tokenizer of {backbone.source}, which reads {backbone.max_length} tokens at most")
    return int(strict and any(f.severity == "error" for f in findings))


def _summary_lines(counts: dict[str, Any]) -> list[str]:
    used = ", ".join(f"{role} = {name}" for role, name in counts["columns"].items())
    classes = f", {counts['classes']} labels" if counts["classes"] else ""
    splits = aligned((split, _split(found)) for split, found in counts["splits"].items())
    return [f"{counts['name']}: {counts['kind']}{classes} ({used})", *splits]


def _split(found: dict[str, Any]) -> str:
    words = found["words"]
    parts = [f"{found['rows']:,} rows", f"{words['mean']:.0f} words a row (95 % have at most {words['p95']:.0f})"]
    if "classes" in found:
        shown = sorted(found["classes"].items(), key=lambda pair: -pair[1])
        more = f", and {len(shown) - 8} more" if len(shown) > 8 else ""
        parts.append(", ".join(f"{label}: {rows:,}" for label, rows in shown[:8]) + more)
    if "values" in found:
        v = found["values"]
        parts.append(f"values {v['min']:g} to {v['max']:g}, mean {v['mean']:.3g}")
    return "; ".join(parts)


def _finding_lines(findings: list[Finding]) -> list[str]:
    if not findings:
        return ["nothing wrong was found"]
    count = {s: sum(f.severity == s for f in findings) for s in ("error", "warning", "note")}
    head = ", ".join(f"{n} {s}{'s' if n > 1 else ''}" for s, n in count.items() if n)
    return [f"findings: {head}", *aligned((f.severity, f.message) for f in findings)]
