"""What the report says, in order, as text and tables: the HTML page, the Markdown file and the terminal all print this value."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tempering.report.course import course_table
from tempering.report.formats import Scale
from tempering.report.spread import parts_table, spread_table, spread_text
from tempering.report.tables import Table, cost_table, letter, pair_table, rows_label, score_table
from tempering.study.wording import NAMED

if TYPE_CHECKING:
    from tempering.study.decide import Conclusion, SizeResult
    from tempering.study.records import Record, StudyInfo


@dataclass(frozen=True, slots=True)
class Section:
    """One training size: its heading, what to take from it in sentences, and its tables (`tables`: those there are, in order)."""

    heading: str
    remarks: tuple[str, ...]
    scores: Table
    spread: Table | None
    costs: Table
    pairs: Table | None

    @property
    def tables(self) -> tuple[Table, ...]:
        """The tables there are, in the order they are shown."""
        return tuple(table for table in (self.scores, self.spread, self.costs, self.pairs) if table)


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
    course: Table | None = None
    parts: Table | None = None


def contents(conclusion: Conclusion, records: Sequence[Record]) -> Contents:
    """Put a conclusion and its records into words."""
    info, scale = conclusion.info, scale_of(conclusion)
    return Contents(
        title=info.title or "Study",
        sentences=tuple(conclusion.sentences),
        facts=_facts(info, scale),
        sections=tuple(_section(result, scale, info, first=i == 0) for i, result in enumerate(conclusion.sizes)),
        settings=_settings(records),
        findings=tuple(info.findings),
        failures=_failures(info, records),
        method=_method(conclusion, records, scale),
        course=course_table(records),
        parts=parts_table(conclusion, scale),
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
    test = f"{info.test_rows:,} test rows" if info.test_rows else "no test rows"
    return (
        ("Data", f"{info.data} ({info.kind}; {info.dev_rows:,} dev rows, {test})"),
        ("Model", info.model),
        ("Metric", f"{info.metric} ({better})"),
        (baseline_of(info).capitalize(), scale.value(info.majority)),
    )


def _section(result: SizeResult, scale: Scale, info: StudyInfo, first: bool) -> Section:
    heading = rows_label(result.size, result.rows)
    pairs = pair_table(result, scale) if result.pairs else None
    heading = heading[0].upper() + heading[1:]
    costs = cost_table(result, scale, info.cache_seconds if first else 0.0)
    scores = score_table(result, scale, split_of(info))
    return Section(heading, _remarks(result, scale), scores, spread_table(result, scale), costs, pairs)


def _remarks(result: SizeResult, scale: Scale) -> tuple[str, ...]:
    lines = []
    if len(result.tied) > NAMED:
        lines.append(f"Best mean: {result.tied[0]}. {len(result.tied) - 1} others may be the best as well; they are marked in the table.")
    elif len(result.tied) > 1:
        lines.append(f"Best mean: {result.tied[0]}. May be the best as well: {', '.join(result.tied[1:])}.")
    elif result.tied:
        lines.append(f"Best: {result.tied[0]}.")
    if len(result.groups) > 1 and len(result.cells) <= 5:  # with more, the letters in the table are easier to read
        named = "; ".join(f"{letter(i)}: {', '.join(group)}" for i, group in enumerate(result.groups))
        lines.append(f"Groups whose members cannot be told apart: {named}.")
    if math.isfinite(result.smallest_difference) and result.smallest_difference > 0:
        smallest = scale.difference(result.smallest_difference, signed=False)
        if scale.percent and result.smallest_difference >= 1:
            return (*lines, "These seeds and rows are too few to show a difference of any size; run more seeds.")
        lines.append(f"The smallest true difference that these seeds and rows show four times in five is about {smallest}.")
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


def failed(info: StudyInfo, records: Sequence[Record]) -> list[tuple[Record, str]]:
    """The runs that have no score, each with its reason: they failed, or their score is missing or not finite."""
    from tempering.study.decide import score_of

    silent = f"the run finished without a finite {info.metric} on {split_of(info)}"
    lost = [record for record in records if not math.isfinite(score_of(info, record))]
    return [(r, r.reason or (silent if r.status == "done" else "no reason was recorded")) for r in lost]


def _failures(info: StudyInfo, records: Sequence[Record]) -> Table | None:
    rows = tuple((r.recipe, r.size, str(r.seed), reason) for r, reason in failed(info, records))
    return Table("Runs that failed", ("recipe", "size", "seed", "reason"), rows, (False, True, True, False)) if rows else None


def _method(conclusion: Conclusion, records: Sequence[Record], scale: Scale) -> tuple[tuple[str, str], ...]:
    info, split = conclusion.info, split_of(conclusion.info)
    read = "read once, at the end" if split == "test" else "which also chose the best weights: optimistic, so give a test file"
    entries = [
        ("Scores", f"{info.metric} on the {split} split ({info.test_rows or info.dev_rows:,} rows), {read}."),
        ("Seeds", _seeds_text(conclusion)),
        ("Settings", _budget_text(info)),
        ("Collapsed", f"A run at or under the {baseline_of(info)}, {scale.value(info.majority)}. It stays in every mean."),
        ("Spread", spread_text(conclusion, split)),
        ("Intervals", _intervals_text(conclusion)),
        ("Comparisons", _comparisons_text(conclusion)),
        ("Versions", versions_text(records)),
        ("Fingerprint", info.fingerprint),
    ]
    return tuple((term, text) for term, text in entries if text)


def _seeds_text(conclusion: Conclusion) -> str:
    seeds = conclusion.info.seeds
    if seeds == 1:
        return "One seed: nothing is known about spread between seeds, and another seed may rank the recipes differently."
    fewest = min((len(cell.scores) + cell.failed for size in conclusion.sizes for cell in size.cells), default=seeds)
    count = f"{seeds} a recipe and size, the same for every recipe, so that recipes are paired."
    if fewest < seeds:
        count = f"{fewest} to {seeds} a recipe and size up to now; two recipes are paired by the seeds that both have."
    return f"{count} Each seed draws its own training rows, initial weights and order; smaller sizes are part of larger ones."


def _budget_text(info: StudyInfo) -> str:
    if info.budget <= 1:
        return "No search: every recipe ran with the setting written in it."
    tried = {0: "averaged over seeds", 1: "tried with the first seed"}.get(info.search_seeds, f"averaged over {info.search_seeds} seeds")
    same = f"Every recipe had the same budget of {info.budget} settings, chosen on the dev split alone, {tried}."
    return f"{same} {info.space_note}".rstrip()


def _intervals_text(conclusion: Conclusion) -> str:
    return _in_words(cell.interval.method for size in conclusion.sizes for cell in size.cells)


def _comparisons_text(conclusion: Conclusion) -> str:
    words = _in_words(pair.method for size in conclusion.sizes for pair in size.pairs)
    if not words:
        return ""
    return (
        "Paired by seed, all pairs of one size corrected together (Bonferroni): "
        f"the chance of any false claim at a size is at most 5 %. {words} "
        "Recipes whose interval includes zero cannot be told apart, which does not mean that they are equal. "
        "Which recipe may be the best takes fewer comparisons: one is behind when another is better at 5 % divided by the number "
        "of other recipes, so with 95 % confidence the best is among the marked ones."
    )


def _in_words(methods: Iterable[str]) -> str:
    """The statistics' own short names as sentences, each once; a name not known here stands as it is."""
    from tempering.study import intervals

    known = {
        intervals.CROSSED: "95 % intervals over seeds and test rows together: they speak of new seeds and of new rows of this kind.",
        intervals.SEEDS: "95 % t intervals over seeds: they speak of new seeds on this very test set.",
        intervals.ONE_SEED: "95 % intervals over test rows alone: one seed says nothing about other seeds.",
    }
    return " ".join(dict.fromkeys(known.get(method, f"{method[:1].upper()}{method[1:]}.") for method in methods if method))


def versions_text(records: Sequence[Record]) -> str:
    """Versions of the libraries the runs used; all of them where runs differ."""
    seen: dict[str, dict[str, None]] = {}
    for record in records:
        for name, version in record.versions.items():
            seen.setdefault(name, {})[version] = None
    return ", ".join(f"{name} {' / '.join(seen[name])}" for name in sorted(seen))
