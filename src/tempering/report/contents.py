"""What the report says, in order, as text and tables: the HTML page, the Markdown file and the terminal all print this value."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tempering.report.formats import Scale
from tempering.report.tables import Table, cost_table, letters, pair_table, rows_label, score_table

if TYPE_CHECKING:
    from tempering.study.decide import Conclusion, SizeResult
    from tempering.study.records import Record, StudyInfo


@dataclass(frozen=True, slots=True)
class Section:
    """One training size: its heading, what to take from it in sentences, and its tables."""

    heading: str
    remarks: tuple[str, ...]
    scores: Table
    costs: Table
    pairs: Table | None


@dataclass(frozen=True, slots=True)
class Contents:
    """The whole report in words. ``facts`` and ``method`` are (term, text) pairs; empty parts are None or ()."""

    title: str
    sentences: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    sections: tuple[Section, ...]
    settings: Table | None
    findings: tuple[str, ...]
    failures: Table | None
    method: tuple[tuple[str, str], ...]


def contents(conclusion: Conclusion, records: Sequence[Record]) -> Contents:
    """Put a conclusion and its records into words."""
    info, scale = conclusion.info, scale_of(conclusion)
    return Contents(
        title=info.title or "Study",
        sentences=tuple(conclusion.sentences),
        facts=_facts(info, scale),
        sections=tuple(_section(result, scale, split_of(info)) for result in conclusion.sizes),
        settings=_settings(records),
        findings=tuple(info.findings),
        failures=_failures(records),
        method=_method(conclusion, records, scale),
    )


def scale_of(conclusion: Conclusion) -> Scale:
    """How the study's main metric is shown, from all its scores."""
    info = conclusion.info
    seen = [score for result in conclusion.sizes for cell in result.cells for score in cell.scores]
    return Scale.of(info.metric, info.higher_is_better, [*seen, info.majority])


def split_of(info: StudyInfo) -> str:
    """The split the scores belong to: "test", or "dev" in a study without test rows."""
    return "test" if info.test_rows else "dev"


def baseline_of(info: StudyInfo) -> str:
    """What the baseline predictor is called."""
    return "mean-value baseline" if info.kind == "regression" else "majority baseline"


def _facts(info: StudyInfo, scale: Scale) -> tuple[tuple[str, str], ...]:
    better = "higher is better" if info.higher_is_better else "lower is better"
    return (
        ("Data", f"{info.data} ({info.kind}; {info.dev_rows:,} dev rows, {info.test_rows:,} test rows)"),
        ("Model", info.model),
        ("Metric", f"{info.metric} ({better})"),
        (baseline_of(info).capitalize(), scale.value(info.majority)),
    )


def _section(result: SizeResult, scale: Scale, split: str) -> Section:
    heading = rows_label(result.size, result.rows)
    pairs = pair_table(result, scale) if result.pairs else None
    return Section(heading[0].upper() + heading[1:], _remarks(result, scale), score_table(result, scale, split), cost_table(result, scale), pairs)


def _remarks(result: SizeResult, scale: Scale) -> tuple[str, ...]:
    tied = ", ".join(result.tied)
    lines = []
    if len(result.tied) > 1:
        lines.append(f"Cannot be told apart from the best: {tied}.")
    elif result.tied:
        lines.append(f"Best: {tied}.")
    named = [f"{letters(group[0], [group])}" for group in result.groups if group]
    if named and len(result.groups) > 1:
        groups = "; ".join(f"{chr(97 + i)}: {', '.join(group)}" for i, group in enumerate(result.groups))
        lines.append(f"Groups whose members cannot be told apart: {groups}.")
    if result.smallest_difference == result.smallest_difference and result.smallest_difference > 0:
        smallest = scale.difference(result.smallest_difference, signed=False)
        lines.append(f"The smallest difference these seeds and rows can show is about {smallest}.")
    return tuple(lines)


def _settings(records: Sequence[Record]) -> Table | None:
    """Equal settings of a recipe are one row that names its sizes and seeds."""
    where: dict[tuple[str, str], dict[str, list[int]]] = {}
    for record in records:
        if record.setting:
            key = (record.recipe, setting_text(record.setting))
            where.setdefault(key, {}).setdefault(record.size, []).append(record.seed)
    if not where:
        return None
    rows = tuple((recipe, text, _places(sizes)) for (recipe, text), sizes in where.items())
    return Table("Chosen settings", ("recipe", "setting", "used for"), rows, (False, False, False))


def setting_text(setting: dict[str, Any]) -> str:
    """A setting on one line: "learning_rate=5e-05, tuning.r=8"."""
    return ", ".join(f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in sorted(setting.items()))


def _places(sizes: dict[str, list[int]]) -> str:
    """Which runs, in words; sizes with the same seeds are named together."""
    by_seeds: dict[str, list[str]] = {}
    for size, seeds in sizes.items():
        by_seeds.setdefault(ranges(seeds), []).append(size)
    return "; ".join(f"size {', '.join(names)}, seed {seeds}" for seeds, names in by_seeds.items())


def ranges(seeds: Iterable[int]) -> str:
    """Whole numbers with runs shortened: 0, 1, 2, 4 is "0-2, 4"."""
    spans: list[list[int]] = []
    for seed in sorted(set(seeds)):
        if spans and seed == spans[-1][1] + 1:
            spans[-1][1] = seed
        else:
            spans.append([seed, seed])
    return ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in spans)


def _failures(records: Sequence[Record]) -> Table | None:
    rows = tuple((r.recipe, r.size, str(r.seed), r.reason or "no reason was recorded") for r in records if r.status != "done")
    return Table("Runs that failed", ("recipe", "size", "seed", "reason"), rows, (False, True, True, False)) if rows else None


def _method(conclusion: Conclusion, records: Sequence[Record], scale: Scale) -> tuple[tuple[str, str], ...]:
    info, split = conclusion.info, split_of(conclusion.info)
    read = "read once, at the end" if split == "test" else "which also chose the best weights, so these scores are optimistic: give a test file"
    entries = [
        ("Scores", f"{info.metric} on the {split} split ({info.test_rows or info.dev_rows:,} rows), {read}."),
        ("Seeds", _seeds_text(info.seeds)),
        ("Settings", _budget_text(info.budget)),
        ("Collapsed", f"A run at or under the {baseline_of(info)}, {scale.value(info.majority)}. It stays in every mean."),
        ("Intervals", _distinct(cell.interval.method for size in conclusion.sizes for cell in size.cells)),
        ("Comparisons", _distinct(pair.method for size in conclusion.sizes for pair in size.pairs)),
        ("Versions", versions_text(records)),
        ("Fingerprint", info.fingerprint),
    ]
    return tuple((term, text) for term, text in entries if text)


def _seeds_text(seeds: int) -> str:
    if seeds == 1:
        return "One seed: nothing can be said about spread, and no difference can be tested."
    return (
        f"{seeds} a recipe and size, the same for every recipe, so that recipes are paired. "
        "Each seed draws its own training rows, initial weights and order; smaller sizes are part of larger ones."
    )


def _budget_text(budget: int) -> str:
    if budget <= 1:
        return "No search: every recipe ran with the setting written in it."
    return f"Every recipe had the same budget of {budget} settings, chosen on the dev split alone, averaged over seeds."


def _distinct(texts: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(text for text in texts if text))


def versions_text(records: Sequence[Record]) -> str:
    """Versions of the libraries the runs used; all of them where runs differ."""
    seen: dict[str, dict[str, None]] = {}
    for record in records:
        for name, version in record.versions.items():
            seen.setdefault(name, {})[version] = None
    return ", ".join(f"{name} {' / '.join(seen[name])}" for name in sorted(seen))
