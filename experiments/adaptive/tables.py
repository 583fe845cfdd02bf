"""What adaptive/results.md says of finished runs: scores, perplexities, and what of the published order holds."""

from __future__ import annotations

import argparse
from pathlib import Path

from cells import Cells, gap, markdown, paired, spread
from domains import ARMS, DOMAINS, ORDER, OTHER, groups, key, read, stages, tasks_of
from options import MODEL
from verdicts import HOW, JOINED, counted, together, verdicts

SMALL = (
    "hyperpartisan has 515 articles: DAPT for ag_news_7k moves the model as often as that for other tasks only where --dapt-steps says how"
    " often."
)
PUBLISHED = (
    " The published claims are of TAPT of 100 passes over the task's text, and of DAPT of one pass over 2 to 8 billion tokens of the"
    " domain. A verdict here is on as many passes as the first table says, and says nothing of theirs where these are fewer."
)
SEEN = (
    "minilm-mlm read both imdb_reviews.txt and books.txt when its masked-LM head was trained. What DAPT on reviews can add, and what books"
    " can harm, is therefore smaller here than for a model that has read neither."
)


def perplexities(cells: Cells, task: str, arm: str, args: argparse.Namespace) -> list[float]:
    """By seed."""
    found = [cells.done.get(key(task, arm, seed)) for seed in range(args.seeds)]
    return [c["perplexity"] for c in found if c]


def passes(cells: Cells, args: argparse.Namespace) -> str:
    """By task, how often the model has read the text that an arm adapts it to: a table, or nothing where there are no such arms."""
    made = {one for task in args.tasks for arm in args.arms for one in stages(task, arm)}
    arms = [arm for arm in ("DAPT", "TAPT", ARMS[-1]) if any(stages(task, arm)[0] in made for task in args.tasks)]
    rows = [[task, *(_passes(cells, task, read(*stages(task, arm)[0])) for arm in arms)] for task in args.tasks]
    return markdown(["task", *(f"passes over the text of {arm}" for arm in arms)], rows) if arms else ""


def _passes(cells: Cells, task: str, what: str) -> str:
    found = [c["passes"][what] for k, c in cells.done.items() if k.startswith(f"{task}/") and what in c.get("passes", {})]
    mean = sum(found) / len(found) if found else 0.0
    return (f"{mean:.1f}" if mean >= 1 else f"{mean:.2f}") if found else ""


def order(cells: Cells, args: argparse.Namespace) -> tuple[str, list[list[str]], list[list[str]]]:
    """What of the published order holds: a sentence, a row for each claim, and one for each claim and task."""
    scores = {a: {t: cells.scores(key(t, a, s) for s in range(args.seeds)) for t in tasks_of(a, args)} for a in args.arms}
    pairs = [pair for pair in ORDER if set(pair) <= set(args.arms)]
    said = verdicts({pair: together(scores[pair[0]], scores[pair[1]], groups(pair, args)) for pair in pairs})
    tasks = {pair: [task for group in groups(pair, args) for task in group] for pair in pairs}
    each = [[*pair, task, gap(paired(scores[pair[0]][task], scores[pair[1]][task]))] for pair in pairs for task in tasks[pair]]
    sentence = f"Of the published order ({len(pairs)} claims): {counted([one[-1] for one in said.values()])}."
    return sentence, [[*pair, ", ".join(tasks[pair]), *said[pair]] for pair in pairs], each


def report(cells: Cells, args: argparse.Namespace) -> str:
    """The whole of results.md."""
    scores, ppl, adapts = [], [], [arm for arm in args.arms if arm != "none"]
    for task in args.tasks:
        metric = next((c["main_metric"] for k, c in cells.done.items() if k.startswith(f"{task}/")), "")
        scores.append([task, metric, *(spread(cells.scores(key(task, a, s) for s in range(args.seeds))) for a in args.arms)])
        before = spread([c["perplexity"] for k, c in cells.done.items() if k == f"before/{task}"], 1)
        ppl.append([task, before, *(spread(perplexities(cells, task, a, args), 1) for a in adapts)])
    sentence, claims, each = order(cells, args)
    return "\n\n".join(
        [
            f"# Adaptive training, {Path(args.model).name}",
            *(part for part in (about(args), passes(cells, args)) if part),
            "## Test score",
            markdown(["task", "metric", *args.arms], scores),
            "## Perplexity of the masked LM on the development texts, before and after adaptation",
            markdown(["task", "before", *(f"after {arm}" for arm in adapts)], ppl),
            "## What of the published order holds",
            f"{sentence} {HOW}{JOINED}{PUBLISHED}",
            markdown(["said to be better", "than", "tasks", "difference of the means", "p", ""], claims),
            "On each task, without a verdict: the difference, paired by seed, with its 95 % interval alone.",
            markdown(["said to be better", "than", "task", "difference"], each) + "\n",
        ]
    )


def about(args: argparse.Namespace) -> str:
    """How the figures came about."""
    amounts = ", ".join(f"{name} {getattr(args, f'{name}_steps') or 'as many as the recipe says'}" for name in ("dapt", "tapt"))
    told = (
        f"Written by `python experiments/adaptive/run.py`. {args.rows or 'All'} labelled rows, whose texts TAPT reads, {args.seeds} seeds;"
        f" steps of adaptation: {amounts}, of {args.batch} texts; of fine-tuning {args.min_steps} at least, rate {args.learning_rate:g};"
        f" at most {args.max_length} tokens. Mean ± standard deviation over seeds (95 % interval of the mean)."
    )
    domains = "Corpora: " + ", ".join(f"{name} for {task}" for task, name in DOMAINS.items()) + f"; {OTHER} is the other domain. {SMALL}"
    return f"{told}\n\n{domains}" + (f" {SEEN}" if Path(args.model).name == MODEL.name else "")
