"""What only tags and answers can have wrong with them."""

from __future__ import annotations

from tempering.tags import entities, scheme_of
from tempering.tasks.findings import Finding
from tempering.tasks.table import some
from tempering.tasks.task import Task

_RARE = 0.1  # of the rows


def broken_tags(task: Task) -> list[Finding]:
    """Tags that broke their scheme and were repaired when they were read."""
    findings = []
    for split, told in task.split_record.get("tags", {}).get("repaired", {}).items():
        rows, scheme = told["rows"], task.split_record["tags"]["scheme"]
        where = some([str(row) for row in rows], 5)
        message = (
            f"{told['words']} tags in {len(rows)} rows of the {split} file break the scheme {scheme} (rows {where}; first {told['first']});"
            " they are read as conlleval reads them: correct them if that is not what they mean"
        )
        findings.append(Finding("broken-tags", "warning", message, tuple(rows), split, {"words": told["words"]}))
    return findings


def silent_rows(task: Task) -> list[Finding]:
    """Splits where next to no row has an entity, or an answer."""
    entity = task.kind == "tagging" and scheme_of(task.labels) != "plain"
    if not entity and task.kind != "question_answering":
        return []
    findings = []
    for split in task.splits:
        speaking = sum(bool(entities(label) if entity else label) for label in split.labels)
        if speaking < _RARE * len(split):
            what = "an entity" if entity else "an answer"
            message = (
                f"only {speaking} of {len(split)} {split.name} rows have {what}; a model may learn to say nothing: add rows that have one"
            )
            findings.append(Finding("silent-rows", "error" if not speaking else "warning", message, (), split.name, {"rows": speaking}))
    return findings
