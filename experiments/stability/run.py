"""The theory of stability, reproduced on synthetic sets: every claim a plot and a line that says whether it holds.

    python experiments/stability/run.py [--sets 240] [--only NAME,...] [--output experiments/stability]

Writes results.md and figures/*.svg. Minutes on one core; the same numbers every time.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import matplotlib
import torch
from claims import CLAIMS, WORLDS
from judging import Claim, Measured, Verdict, judge

STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "stability",
    "font.size": 9,
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e7eb",
}
BLUE, RED = "#0067a8", "#d55e00"


def draw(claim: Claim, found: Measured, verdict: Verdict, path: Path) -> None:
    """The geometric mean over sets with the range of 8 sets in 10, and the bound where there is one; both axes logarithmic."""
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.9, 2.9), layout="constrained")
        axes = figure.subplots()
        logs = found.values.log()
        middle, low, high = (x.exp().tolist() for x in (logs.mean(0), logs.quantile(0.1, 0), logs.quantile(0.9, 0)))
        axes.fill_between(found.levels, low, high, color=BLUE, alpha=0.15, linewidth=0, label="8 sets in 10")
        axes.plot(found.levels, middle, "o-", color=BLUE, markersize=4.5, linewidth=1.6, label="mean over sets")
        if found.bounds is not None:
            axes.plot(found.levels, found.bounds.log().mean(0).exp().tolist(), "--", color=RED, linewidth=1.6, label="bound")
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xticks(found.levels, [f"{x:g}" for x in found.levels])
        axes.minorticks_off()
        axes.yaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda y, _: f"{y:.3g}"))
        axes.yaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=_subs(*axes.get_ylim())))
        axes.set_xlabel(claim.level)
        axes.set_title(f"{claim.name}: slope {verdict.slope:.2f}, {'holds' if verdict.holds else 'fails'}", fontsize=9, loc="left")
        axes.set_ylabel(_folded(claim.quantity))
        axes.legend(frameon=False, fontsize=8)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})


def _subs(low: float, high: float) -> tuple[float, ...]:
    """Marks inside a decade, where few decades are shown."""
    if high / low < 5:
        return (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)
    return (1.0, 2.0, 5.0) if high / low < 100 else (1.0,)


def _folded(text: str) -> str:
    """A long label on two lines."""
    middle = text.find(" ", len(text) // 2)
    return text if len(text) < 28 or middle < 0 else f"{text[:middle]}\n{text[middle + 1 :]}"


def line_of(claim: Claim, verdict: Verdict) -> str:
    """The verdict in one line of a table."""
    inside = "" if math.isnan(verdict.inside) else f"{100 * verdict.inside:.0f} %"
    asked = (
        f"{claim.slope[0]:g} to {claim.slope[1]:g}" if math.isfinite(sum(claim.slope)) else ("below" if claim.slope[1] <= 0 else "above")
    )
    if not math.isfinite(sum(claim.slope)):
        edge = claim.slope[1] if math.isinf(claim.slope[0]) else claim.slope[0]
        asked = f"{asked} {edge:g}"
    words = f"{claim.quantity[0].upper()}{claim.quantity[1:]} {claim.says}"
    slope = f"{verdict.slope:.2f} ({verdict.low:.2f} to {verdict.high:.2f})"
    state = "holds" if verdict.holds else "**fails**"
    return f"| [{claim.name}](figures/{claim.name}.svg) | {words} | {asked} | {slope} | {inside} | {state} |"


METHOD = (
    "The slope is that of log(quantity) against log(what is varied), fitted in every set; mean over sets with its 95 % t interval. A claim "
    "holds when the whole interval lies where the claim says, and, where there is a bound, no single measurement exceeds it. Claims are "
    "after Fu, So and Collier 2023 (arXiv 2301.09820) as far as its public summaries state them. The bound 2 L / (mu n) for exact "
    "minimizers of a mu-strongly convex objective F with L-Lipschitz losses l, w' that of the set without one row, takes a line: "
    "(mu / 2) |w' - w|^2 <= F(w') - F(w) <= (l(w') - l(w)) / n <= (L / n) |w' - w|. After T gradient steps of a size eta up to 1 / beta, "
    "(1 - eta mu)^T times both distances to the start is added. The bound published for head tuning, as far as it is known here, is "
    "C log log t / log t + nu max{2 (1 + B / gamma) / (lambda n), (B + sqrt(B^2 + 8 n lambda (1 + B / gamma))) / (2 n lambda)} for t "
    "steps, margin gamma and features no longer than B. It is not drawn: nothing says what its constants C, lambda and nu are, and with "
    "these free no measurement could exceed it. Only its directions are judged: falling in the rows n, the steps t and the margin gamma. "
    "For full fine-tuning no bound is proved here, and the published one is not compared, as its exact expression is not known."
)


def report(results: list[tuple[Claim, Verdict]], sets: int) -> str:
    """The whole of results.md."""
    held = sum(verdict.holds for _, verdict in results)
    parts = [
        "# Stability of fine-tuning on synthetic sets",
        "Written by `python experiments/stability/run.py`; do not edit.",
        f"{held} of {len(results)} claims hold on {sets} synthetic sets each. {METHOD}",
    ]
    for world in WORLDS:
        mine = [(claim, verdict) for claim, verdict in results if claim.world == world]
        if not mine:
            continue
        rows = [line_of(*pair) for pair in mine]
        head = "| claim | what is said | slope claimed | slope found (95 %) | within bound | |\n| --- | --- | --- | --- | ---: | --- |"
        parts += [f"## {world[0].upper()}{world[1:]}", WORLDS[world], "\n".join([head, *rows])]
        failed = [f"- {claim.name}: {claim.why or 'no reason is known'}" for claim, verdict in mine if not verdict.holds]
        parts += ["Why what fails does:", "\n".join(failed)] if failed else []
        parts.append("\n".join(f"![{claim.name}](figures/{claim.name}.svg)" for claim, _ in mine))
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Measure, judge, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else "")
    parser.add_argument("--sets", type=int, default=240)
    parser.add_argument("--only", default="", help="names of claims, parted by commas")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent)
    args = parser.parse_args()
    torch.set_num_threads(1)  # the products are small; more threads only wait for each other
    asked = [name for name in args.only.split(",") if name]
    if unknown := set(asked) - {claim.name for claim in CLAIMS}:
        parser.error(f"--only: there is no claim {', '.join(sorted(unknown))}; there are {', '.join(claim.name for claim in CLAIMS)}")
    results = []
    for claim in (claim for claim in CLAIMS if not asked or claim.name in asked):
        started = time.perf_counter()
        found = claim.measure(args.sets)
        verdict = judge(claim, found)
        draw(claim, found, verdict, args.output / "figures" / f"{claim.name}.svg")
        state = "holds" if verdict.holds else "FAILS"
        slope = f"slope {verdict.slope:+.3f} ({verdict.low:+.3f} to {verdict.high:+.3f})"
        print(f"{state} {claim.name}: {slope}, {time.perf_counter() - started:.1f} s", flush=True)
        results.append((claim, verdict))
    (args.output / "results.md").write_text(report(results, args.sets), encoding="utf-8")


if __name__ == "__main__":
    main()
