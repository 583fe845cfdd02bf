"""The data doctor: what is wrong with the data before any training second is spent. Every finding names rows.

Texts are compared by hash with their white space evened out, so 200,000 rows take a second or two.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from tempering.contracts import Example
from tempering.tasks.findings import Finding, Severity
from tempering.tasks.labels import label_key
from tempering.tasks.profile import class_counts, summary
from tempering.tasks.strata import class_names, members_of
from tempering.tasks.table import show, some
from tempering.tasks.tagdoctor import broken_tags, silent_rows
from tempering.tasks.task import Split, Task

__all__ = ["Finding", "Lengths", "Severity", "examine", "summary"]

Lengths = Callable[[Sequence[Example]], Sequence[int]]

_FEW_ROWS = 8  # a class
_TINY_SPLIT = 100  # rows; one standard error of an accuracy is then up to 5 points
_SKEWED, _VERY_SKEWED = 3.0, 10.0  # most frequent class to rarest


def examine(task: Task, lengths: Lengths | None = None, max_length: int | None = None) -> list[Finding]:
    """All findings, gravest first.

    ``lengths`` gives the number of tokens of each example; with it and ``max_length`` (the model's limit) truncation is measured.
    """
    findings: list[Finding] = []
    for split in task.splits:
        findings += [*_empty(split), *_repeats(split, several=task.kind == "text")]
        if lengths is not None and max_length is not None:
            findings += _truncation(split, lengths, max_length, task.kind in ("tagging", "question_answering"))
    findings += [*_leaks(task), *_tiny(task)]
    if task.labels:
        findings += [*_missing_classes(task), *_balance(task), *_near_twins(task)]
    findings += [*broken_tags(task), *silent_rows(task)]
    grave = {"error": 0, "warning": 1, "note": 2}
    return sorted(findings, key=lambda finding: grave[finding.severity])


def _key(example: Example) -> tuple[str, ...]:
    return tuple(" ".join(text.split()) for text in example.texts)


def _rows(rows: Sequence[int]) -> str:
    return f"row{'s' if len(rows) > 1 else ''} {some([str(row) for row in sorted(rows)], 5)}"


def _label_set(example: Example) -> Hashable:
    if example.words:
        return tuple(example.label)
    if isinstance(example.label, tuple):
        return frozenset(label_key(label) for label in example.label)
    return label_key(example.label)


def _empty(split: Split) -> list[Finding]:
    rows = [example.row for example in split if not all(text.strip() for text in example.texts)]
    if not rows:
        return []
    severity: Severity = "error" if len(rows) == len(split) else "warning"
    message = f"{len(rows)} of {len(split)} {split.name} rows have an empty text ({_rows(rows)}); fill them in or delete them"
    return [Finding("empty-text", severity, message, tuple(rows), split.name)]


def _repeats(split: Split, several: bool = False) -> list[Finding]:
    """Texts that stand there again; with ``several`` one text may well have different labels, as a source has several targets."""
    groups: dict[tuple[str, ...], list[Example]] = defaultdict(list)
    for example in split:
        groups[_key(example)].append(example)
    repeated = [group for group in groups.values() if len(group) > 1 and any(text.strip() for text in group[0].texts)]
    conflicts = [group for group in repeated if len({_label_set(example) for example in group}) > 1]
    copies = [group for group in repeated if len({_label_set(example) for example in group}) == 1]
    findings = []
    if conflicts and not several:
        rows = [example.row for group in conflicts for example in group]
        said = " and ".join(f"{show(example.label, 30)} in row {example.row}" for example in _two_sides(conflicts[0]))
        message = f"{len(conflicts)} texts in {split.name} carry different labels (one has {said}); decide on one label each"
        findings.append(Finding("conflicting-labels", "warning", message, tuple(sorted(rows)), split.name, {"groups": _numbers(conflicts)}))
    if copies:
        rows = [example.row for group in copies for example in group[1:]]
        message = f"{len(rows)} of {len(split)} {split.name} rows repeat an earlier row ({_rows(rows)}); delete the copies"
        findings.append(Finding("duplicate-rows", "warning", message, tuple(sorted(rows)), split.name, {"groups": _numbers(copies)}))
    return findings


def _two_sides(group: list[Example]) -> tuple[Example, Example]:
    other = next(example for example in group if _label_set(example) != _label_set(group[0]))
    return group[0], other


def _numbers(groups: list[list[Example]]) -> list[list[int]]:
    return [[example.row for example in group] for group in groups]


def _leaks(task: Task) -> list[Finding]:
    findings = []
    splits = task.splits
    for position, later in enumerate(splits):
        for earlier in splits[:position]:
            seen: dict[tuple[str, ...], int] = {}
            for example in earlier:
                seen.setdefault(_key(example), example.row)
            pairs = [(seen[_key(example)], example.row) for example in later if _key(example) in seen]
            if pairs:
                findings.append(_leak(earlier, later, pairs))
    return findings


def _leak(earlier: Split, later: Split, pairs: list[tuple[int, int]]) -> Finding:
    share = len(pairs) / len(later)
    shown = some([f"{later.name} row {theirs} = {earlier.name} row {ours}" for ours, theirs in pairs], 3)
    advice = f"take them out of {earlier.name}, or scores on {later.name} are too good"
    message = f"{len(pairs)} of {len(later)} {later.name} rows ({share:.1%}) also occur in {earlier.name} ({shown}); {advice}"
    severity: Severity = "error" if share >= 0.5 else "warning"
    detail = {"other": earlier.name, "share": share, "pairs": [list(pair) for pair in pairs]}
    return Finding("split-leak", severity, message, tuple(row for _, row in pairs), later.name, detail)


def _tiny(task: Task) -> list[Finding]:
    findings = []
    for split in task.splits[1:]:
        if len(split) < _TINY_SPLIT:
            error = 50 / len(split) ** 0.5
            message = f"{split.name} has only {len(split)} rows, so one standard error of an accuracy is up to {error:.0f} points; add rows"
            findings.append(Finding(f"tiny-{split.name}", "warning", message, (), split.name, {"rows": len(split)}))
    return findings


def _missing_classes(task: Task) -> list[Finding]:
    findings = []
    known = class_names(task.kind, task.labels)
    for split in task.splits:
        counts = class_counts(task, split)
        absent = [label for label in known if not counts[label_key(label)]]
        if absent:
            severity: Severity = "error" if split.name == "train" else "warning"
            names = some([show(label, 30) for label in absent], 5)
            message = f"{len(absent)} of {len(known)} classes have no row in {split.name} ({names}); add some, or merge classes"
            findings.append(Finding("class-missing", severity, message, (), split.name, {"labels": absent}))
    return findings


def _balance(task: Task) -> list[Finding]:
    counts, known = class_counts(task, task.train), class_names(task.kind, task.labels)
    present = [label for label in known if counts[label_key(label)]]
    if not present:
        return []
    findings = []
    few = [label for label in present if counts[label_key(label)] < _FEW_ROWS]
    if few:
        rows = _with_any(task, {label_key(label) for label in few})
        names = some([f"{show(label, 30)}: {counts[label_key(label)]}" for label in few], 5)
        message = f"{len(few)} of {len(known)} classes have fewer than {_FEW_ROWS} training rows ({names}); add rows or merge classes"
        findings.append(Finding("few-rows-per-class", "warning", message, tuple(rows), "train", {"labels": few}))
    most, least = (pick(present, key=lambda label: counts[label_key(label)]) for pick in (max, min))
    high, low = counts[label_key(most)], counts[label_key(least)]
    if high >= _SKEWED * low:
        severity: Severity = "warning" if high >= _VERY_SKEWED * low and task.kind != "tagging" else "note"
        what = "in training" if task.kind == "tagging" else "training rows"
        shares = f"{show(most, 30)} has {high} {what} and {show(least, 30)} {low} ({high / low:.1f} : 1)"
        advice = "look at macro_f1 too" if task.kind == "tagging" else "look at macro_f1 beside accuracy, or weigh the classes"
        message = f"the classes are uneven: {shares}; {advice}"
        findings.append(Finding("imbalance", severity, message, (), "train", {"ratio": high / low, "most": most, "least": least}))
    return findings


def _with_any(task: Task, keys: set[Hashable]) -> list[int]:
    """The training rows that have one of the classes."""
    given = [[label] for label in task.train.labels] if task.kind == "classification" else members_of(task.kind, task.train.labels)
    return [e.row for e, members in zip(task.train, given, strict=True) if any(label_key(label) in keys for label in members)]


def _near_twins(task: Task) -> list[Finding]:
    alike: dict[str, list[Any]] = defaultdict(list)
    for label in class_names(task.kind, task.labels):
        if isinstance(label, str):
            folded = unicodedata.normalize("NFKC", label).casefold().replace("_", " ").replace("-", " ")
            alike[" ".join(folded.split())].append(label)
    counts = class_counts(task, task.train)
    findings = []
    for twins in alike.values():
        if len(twins) > 1:
            twins = sorted(twins, key=lambda label: -counts[label_key(label)])
            rare = {label_key(label) for label in twins[1:]}
            rows = _with_any(task, rare)
            names = some([f"{show(label, 30)} ({counts[label_key(label)]} rows)" for label in twins], 5)
            where = _rows(rows)
            message = f"the labels {names} differ only in case, spaces or Unicode form ({where}); write them alike if they mean the same"
            findings.append(Finding("label-near-twins", "warning", message, tuple(rows), "train", {"labels": twins}))
    return findings


def _truncation(split: Split, lengths: Lengths, max_length: int, windows: bool) -> list[Finding]:
    counts = list(lengths(split.examples))
    long = [(example.row, count) for example, count in zip(split, counts, strict=True) if count > max_length]
    if not long:
        return []
    share = len(long) / len(split)
    lost = sum(count - max_length for _, count in long) / sum(counts)
    size = f"{len(long)} of {len(split)} {split.name} rows ({share:.1%}) exceed {max_length} tokens (the longest has {max(counts)})"
    where = _rows([row for row, _ in long])
    if windows:
        message = f"{size} ({where}); they are read in windows that overlap, and nothing is lost"
        return [
            Finding("windows", "note", message, tuple(row for row, _ in long), split.name, {"share_rows": share, "longest": max(counts)})
        ]
    message = f"{size} and lose {lost:.1%} of all tokens ({where}); shorten them or raise max_length if the model can"
    severity: Severity = "warning" if max(share, lost) > 0.05 else "note"
    detail = {"share_rows": share, "share_tokens": lost, "longest": max(counts), "max_length": max_length}
    return [Finding("truncation", severity, message, tuple(row for row, _ in long), split.name, detail)]
