"""Domain- and task-adaptive training before fine-tuning, in the form of the table of Gururangan et al. 2020, on a small masked model.

    python experiments/adaptive/run.py [--tasks chemprot,ag_news_7k,imdb_2k,sst2] [--seeds 3] [--rows N] [--hours H]
        [--dapt-steps N] [--tapt-steps N] [--max-length 128] [--output runs/adaptive] [key=value for fine-tuning ...]

Arms: none; DAPT (masked LM on a corpus of the task's domain); TAPT (on the texts of the task's own training split, labels unread); DAPT +
TAPT; and a corpus of another domain (books), which the paper expects to be worse than none. All end in the same fine-tuning (recipe full)
with the same rows and seeds; stages and rates are those of the shipped recipes dapt and tapt. The domains: film reviews for imdb_2k and
sst2; abstracts (the texts of ncbi_disease) for chemprot; news articles (the 515 of hyperpartisan) for ag_news_7k. An adapted model is made
once a seed and corpus, and kept in OUTPUT/models; a corpus never holds a development or test text of any task that it serves. Perplexity
is that of the masked LM on the task's development texts, with masks drawn once, for every arm the same. Test scores are read once a fit;
differences to none are paired by seed. An adaptation that is killed goes on from its last checkpoint.

The recipes' own amounts (one epoch of the corpus, 100 of the task's texts) are those without --dapt-steps and --tapt-steps; a step holds
256 texts, or with --batch N so many. Corpora differ in size: only with --dapt-steps does every one, that of the other domain among them,
move the model by as many updates. --rows cuts the labelled rows of fine-tuning, not the texts that TAPT reads. bf16=true holds for
adaptation, too.
"""

from __future__ import annotations

import argparse
import math
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from cells import Cells, carry_out, cut, difference, everywhere, load, markdown, outcome, paired, spread, verdict
from options import MODEL, check, names, of_cells, with_settings

from tempering.backbone import Backbone
from tempering.contracts import Example, Seeds
from tempering.fitting import fit
from tempering.recipe import Recipe, parse_settings
from tempering.stages.setup import assemble
from tempering.tasks import Task
from tempering.tasks.task import Split
from tempering.train.evaluate import Evaluator

TASKS = ("chemprot", "ag_news_7k", "imdb_2k", "sst2")
ARMS = ("none", "DAPT", "TAPT", "DAPT + TAPT", "other domain")
DOMAINS = {"chemprot": "ncbi_disease", "ag_news_7k": "hyperpartisan", "imdb_2k": "imdb_reviews", "sst2": "imdb_reviews"}
OTHER = "books"
SAVE_STEPS = 50  # steps of adaptation after which a killed one would go on
PLAIN_TEXT = ("imdb_reviews", "books")  # the rest is made of the texts of a labelled set
SMALL = (
    "hyperpartisan has 515 articles: DAPT for ag_news_7k moves the model as often as that for other tasks only where --dapt-steps says how"
    " often."
)
SEEN = (
    "minilm-mlm read both imdb_reviews.txt and books.txt when its masked-LM head was trained. What DAPT on reviews can add, and what books"
    " can harm, is therefore smaller here than for a model that has read neither."
)
ORDER = (  # (better, worse) in the paper
    ("DAPT", "none"),
    ("TAPT", "none"),
    ("DAPT + TAPT", "none"),
    ("DAPT + TAPT", "DAPT"),
    ("DAPT + TAPT", "TAPT"),
    ("DAPT", "other domain"),
)


def plan(args: argparse.Namespace) -> list[tuple[str, str, int]]:
    """(task, arm, seed), seed by seed, so that what is done of an unfinished run is paired."""
    return [(task, arm, seed) for seed in range(args.seeds) for task in args.tasks for arm in args.arms]


def key(task: str, arm: str, seed: int) -> str:
    """The name of a cell."""
    return f"{task}/{arm}/{seed}"


def stages(task: str, arm: str) -> list[tuple[str, str]]:
    """What an arm does before fine-tuning: (recipe, corpus) in order; a corpus named as the task is its own training texts."""
    dapt, tapt = ("dapt", DOMAINS[task]), ("tapt", task)
    return {"none": [], "DAPT": [dapt], "TAPT": [tapt], "DAPT + TAPT": [dapt, tapt], "other domain": [("dapt", OTHER)]}[arm]


def corpus(name: str, args: argparse.Namespace) -> Path:
    """A text file, one document a line."""
    if name in PLAIN_TEXT:
        return Path(args.data / "unlabelled" / f"{name}.txt")
    path: Path = args.output / "corpora" / f"{name}.txt"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        texts = [" ".join(" ".join(e.texts).split()) for e in Task.from_file(args.data / name).train]
        path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return path


def stage(name: str, args: argparse.Namespace, text: Path | None) -> Recipe:
    """The first stage of recipe ``name``; TAPT reads the task's own texts."""
    batch = {"gradient_accumulation_steps": max(1, args.batch // 16), "framing.max_length": args.max_length}
    steps = {"dapt": args.dapt_steps, "tapt": args.tapt_steps}[name]
    settings = batch | {"save_steps": SAVE_STEPS} | everywhere(args.settings)
    settings |= ({"text": str(text)} if text else {}) | ({"max_steps": steps, "eval_steps": steps} if steps else {})
    whole = Recipe.load(name)
    return Recipe(name, whole.stages[:1]).override(settings)


def guarded(name: str, args: argparse.Namespace) -> Task:
    """What stands for the task while the corpus ``name`` is read, whose model several tasks share: no development or test text of any of
    them is trained on.
    """
    tasks = [load(args.data, task) for task in TASKS if name in (DOMAINS[task], OTHER) and (args.data / task).exists()]
    judged = tuple(example for task in tasks for split in (task.dev, task.test) for example in split or ())
    return replace(tasks[0], test=Split("test", judged))


def adapted(task: str, arm: str, seed: int, args: argparse.Namespace, cells: Cells) -> str:
    """The model that fine-tuning of an arm starts from: a folder, made stage by stage where it is not there."""
    model, done = str(args.model), ""
    for recipe, name in stages(task, arm):
        done = f"{done}{recipe}-{name}-"
        folder: Path = args.output / "models" / f"{done}{seed}"
        if not folder.exists():
            cells.in_time()
            own, text = (guarded(name, args), corpus(name, args)) if recipe == "dapt" else (load(args.data, task), None)
            work, part = (folder.with_name(f"{folder.name}.{kind}") for kind in ("run", "part"))
            learner = fit(stage(recipe, args, text), own, model, seed=seed, output_dir=work, resume=True)
            shutil.rmtree(part, ignore_errors=True)
            part.parent.mkdir(parents=True, exist_ok=True)
            learner.save_pretrained(part, merge=True)
            part.rename(folder)
            shutil.rmtree(work)
        model = str(folder)
    return model


def perplexity(task: Task, model: str, args: argparse.Namespace) -> float:
    """exp of the masked-LM loss on the development texts: the same texts and masks for every model."""
    seeds, made = Seeds.of(0), stage("tapt", args, None).stages[0]
    learner = assemble(made, Backbone.load(model, seeds.init), task, seeds)
    texts = [Example(e.texts, row=e.row) for e in list(task.dev or ())]
    return math.exp(Evaluator(texts, "text", (), (), 64)(learner.eval())[0]["loss"])


def run(cells: Cells, args: argparse.Namespace) -> None:
    """Every cell that is not there."""
    last = Recipe.load("full").override({"framing.max_length": args.max_length} | parse_settings(args.settings))
    for task, arm, seed in plan(args):
        if key(task, arm, seed) in cells:
            continue
        model, rows = adapted(task, arm, seed, args, cells), load(args.data, task, args.test_rows)

        def made(t: Task = rows, m: str = model, s: int = seed) -> dict[str, Any]:
            return outcome(fit(last, cut(t, args.rows, s), m, seed=s)) | {"perplexity": perplexity(t, m, args)}

        cells.get(key(task, arm, seed), made)


def perplexities(cells: Cells, task: str, arm: str, args: argparse.Namespace) -> list[float]:
    """By seed."""
    found = [cells.done.get(key(task, arm, seed)) for seed in range(args.seeds)]
    return [c["perplexity"] for c in found if c]


def words(cells: Cells, args: argparse.Namespace) -> tuple[str, list[list[str]]]:
    """What of the published order holds, in a sentence, with its table."""
    claims = [(task, *pair) for task in args.tasks for pair in ORDER if set(pair) <= set(args.arms)]
    tests, said, rows = max(1, len(claims)), [], []
    for task, better, worse in claims:
        pair = paired(*(cells.scores(key(task, arm, s) for s in range(args.seeds)) for arm in (better, worse)))
        said.append(verdict(pair, tests))
        rows.append([task, better, worse, difference(pair, tests), said[-1]])
    told = "; ".join(f"{said.count(one)} of {len(claims)} {one}" for one in dict.fromkeys(said))
    return f"Of the published order ({len(ORDER)} claims on each task): {told}.", rows


def report(cells: Cells, args: argparse.Namespace) -> str:
    """The whole of results.md."""
    scores, ppl = [], []
    for task in args.tasks:
        metric = next((c["main_metric"] for k, c in cells.done.items() if k.startswith(f"{task}/")), "")
        scores.append([task, metric, *(spread(cells.scores(key(task, a, s) for s in range(args.seeds))) for a in args.arms)])
        ppl.append([task, *(spread(perplexities(cells, task, a, args), 1) for a in args.arms)])
    sentence, order = words(cells, args)
    amounts = ", ".join(f"{name} {getattr(args, f'{name}_steps') or 'as many as the recipe says'}" for name in ("dapt", "tapt"))
    about = (
        f"Written by `python experiments/adaptive/run.py`. {args.rows or 'All'} labelled rows, {args.seeds} seeds; steps: {amounts}, of"
        f" {args.batch} texts; at most {args.max_length} tokens. Mean ± standard deviation over seeds (95 % interval of the mean)."
    )
    domains = "Corpora: " + ", ".join(f"{name} for {task}" for task, name in DOMAINS.items()) + f"; {OTHER} is the other domain. {SMALL}"
    return "\n\n".join(
        [
            f"# Adaptive training, {Path(args.model).name}",
            about,
            f"{domains} {SEEN}" if Path(args.model).name == MODEL.name else domains,
            "## Test score",
            markdown(["task", "metric", *args.arms], scores),
            "## Perplexity of the masked LM on the development texts (none: before any adaptation)",
            markdown(["task", *args.arms], ppl),
            "## What of the published order holds",
            sentence + " Differences are paired by seed; p values are multiplied by the number of claims.",
            markdown(["task", "said to be better", "than", "difference", ""], order) + "\n",
        ]
    )


def parsed(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    made = of_cells(__doc__, Path(__file__), model=MODEL, seeds=3, tasks=TASKS, table="results.md")
    made.add_argument("--arms", type=names, default=list(ARMS))
    made.add_argument("--rows", type=int, default=None, help="labelled training rows; default: all")
    made.add_argument("--dapt-steps", type=int, default=None, help="default: one epoch of the corpus")
    made.add_argument("--tapt-steps", type=int, default=None, help="default: 100 epochs of the task's texts")
    made.add_argument("--batch", type=int, default=256, help="texts a step of masked LM, a multiple of 16")
    made.add_argument("--max-length", type=int, default=128)
    with_settings(made, "fine-tuning")
    args = made.parse_args(given)
    check(made, "--tasks", args.tasks, DOMAINS)
    check(made, "--arms", args.arms, ARMS)
    return args


def main() -> None:
    """Run what is missing; write the tables."""
    args = parsed()
    shared = ("model", "rows", "dapt_steps", "tapt_steps", "batch", "max_length", "test_rows", "settings")
    carry_out(args, shared, lambda cells: run(cells, args), report)


if __name__ == "__main__":
    main()
