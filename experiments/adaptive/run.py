"""Domain- and task-adaptive training before fine-tuning, in the form of the table of Gururangan et al. 2020, on a small masked model.

    python experiments/adaptive/run.py [--tasks chemprot,ag_news_7k,imdb_2k,sst2] [--other-tasks ...] [--seeds 3] [--rows N] [--hours H]
        [--dapt-steps N] [--tapt-steps N] [--max-length 128] [--output runs/adaptive] [key=value for fine-tuning ...]

Arms: none; DAPT (masked LM on a corpus of the task's domain); TAPT (on the texts of the very rows that fine-tuning trains on, labels
unread); DAPT + TAPT; and a corpus of another domain (books), which the paper expects to be worse than none. All end in the same fine-tuning
(recipe full, with --min-steps and --learning-rate) with the same rows and seeds; adaptation has the rates of the shipped recipes dapt and
tapt. The domains: film reviews for imdb_2k and sst2; abstracts (the texts of ncbi_disease) for chemprot; news articles (the 515 of
hyperpartisan) for ag_news_7k. An adapted model is made once a seed and corpus, and kept in OUTPUT/models; a corpus never holds a
development or test text of any task that it serves. Perplexity is that of the masked LM on the task's development texts, before (once) and
after adaptation, with masks drawn once, for every arm the same. Test scores are read once a fit; differences are paired by seed, and each
claim is judged once, for all tasks together. An adaptation that is killed goes on from its last checkpoint.

The recipes' own amounts (one epoch of the corpus, 100 of the task's texts) are those without --dapt-steps and --tapt-steps; a step holds
256 texts, or with --batch N so many. Corpora differ in size: only with --dapt-steps does every one, that of the other domain among them,
move the model by as many updates; with these nothing is judged while it adapts. --rows cuts the task: fine-tuning and TAPT have the same
rows of a seed, and the table tells how many passes over its text each adaptation made. --other-tasks are those that books are tried on,
too. bf16=true holds for adaptation, too.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from cells import Cells, carry_out, cut, everywhere, last_stage, load, making, outcome
from domains import ARMS, DOMAINS, OTHER, TASKS, key, plan, read, stages
from options import LAST, MODEL, check, names, of_cells, with_last_stage, with_settings
from tables import report

from tempering.backbone import Backbone
from tempering.contracts import Example, Seeds
from tempering.fitting import fit
from tempering.recipe import Recipe
from tempering.stages.setup import assemble
from tempering.tasks import Task
from tempering.tasks.task import Split
from tempering.train.evaluate import Evaluator

PASSES = "passes.json"  # of an adapted model: how often it has read its corpus
SAVE_STEPS = 100  # steps of adaptation after which a killed one would go on
PLAIN_TEXT = ("imdb_reviews", "books")  # the rest is made of the texts of a labelled set


def corpus(name: str, args: argparse.Namespace) -> Path:
    """A text file, one document a line."""
    if name in PLAIN_TEXT:
        return Path(args.data / "unlabelled" / f"{name}.txt")
    path: Path = args.output / "corpora" / f"{name}.txt"
    with making(path) as wanted:
        if wanted:
            texts = [" ".join(" ".join(e.texts).split()) for e in Task.from_file(args.data / name).train]
            part = path.with_suffix(".part")
            part.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
            part.rename(path)
    return path


def stage(name: str, args: argparse.Namespace, text: Path | None) -> Recipe:
    """The first stage of recipe ``name``; TAPT reads the texts of the task that it is given."""
    batch = {"gradient_accumulation_steps": max(1, args.batch // 16), "framing.max_length": args.max_length}
    steps = {"dapt": args.dapt_steps, "tapt": args.tapt_steps}[name]
    settings = batch | {"save_steps": SAVE_STEPS} | everywhere(args.settings)
    settings |= ({"text": str(text)} if text else {}) | ({"max_steps": steps, "eval_strategy": "no"} if steps else {})
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
    model = str(args.model)
    for recipe, name, folder in folders(task, arm, seed, args):
        with making(folder) as wanted:  # tasks of one domain share it, and another command may be at it
            if wanted:
                cells.in_time()
                adapt(recipe, name, task, model, seed, folder, args)
        model = str(folder)
    return model


def folders(task: str, arm: str, seed: int, args: argparse.Namespace) -> list[tuple[str, str, Path]]:
    """(recipe, corpus, where the model is kept) of every adaptation of an arm, in order."""
    found, done = [], ""
    for recipe, name in stages(task, arm):
        done = f"{done}{recipe}-{name}-"
        found.append((recipe, name, args.output / "models" / f"{done}{seed}"))
    return found


def passes(task: str, arm: str, seed: int, args: argparse.Namespace) -> dict[str, float]:
    """How often each adaptation of an arm has read its corpus, by ``domains.read``."""
    made = folders(task, arm, seed, args)
    return {read(recipe, name): json.loads((folder / PASSES).read_text(encoding="utf-8")) for recipe, name, folder in made}


def adapt(recipe: str, name: str, task: str, model: str, seed: int, folder: Path, args: argparse.Namespace) -> None:
    """One adaptation of ``model``, to the corpus ``name``; it goes on where it was killed."""
    rows = cut(load(args.data, task), args.rows, seed)
    own, text = (guarded(name, args), corpus(name, args)) if recipe == "dapt" else (rows, None)
    work, part = (folder.with_name(f"{folder.name}.{kind}") for kind in ("run", "part"))
    made = stage(recipe, args, text)
    learner = fit(made, own, model, seed=seed, output_dir=work, resume=True)
    shutil.rmtree(part, ignore_errors=True)
    learner.save_pretrained(part, merge=True)
    found = learner.record["stage"]
    (part / PASSES).write_text(json.dumps(found["steps"] / made.stages[0].steps_per_epoch(found["rows"])), encoding="utf-8")
    part.rename(folder)
    shutil.rmtree(work)


def perplexity(task: Task, model: str, args: argparse.Namespace) -> float:
    """exp of the masked-LM loss on the development texts: the same texts and masks for every model."""
    seeds, made = Seeds.of(0), stage("tapt", args, None).stages[0]
    learner = assemble(made, Backbone.load(model, seeds.init), task, seeds)
    texts = [Example(e.texts, row=e.row) for e in list(task.dev or ())]
    return math.exp(Evaluator(texts, "text", (), (), 64)(learner.eval())[0]["loss"])


def run(cells: Cells, args: argparse.Namespace) -> None:
    """Every cell that is not there."""
    last = last_stage("full", args, {"framing.max_length": args.max_length})
    for task, arm, seed in plan(args):
        if key(task, arm, seed) in cells and f"before/{task}" in cells:
            continue
        rows = load(args.data, task, args.test_rows, args.dev_rows)
        cells.get(f"before/{task}", lambda t=rows: {"perplexity": perplexity(t, str(args.model), args)})
        model = adapted(task, arm, seed, args, cells)

        def made(t: Task = rows, m: str = model, s: int = seed, cell: tuple[str, str, int] = (task, arm, seed)) -> dict[str, Any]:
            found = outcome(fit(last, cut(t, args.rows, s), m, seed=s)) | {"passes": passes(*cell, args)}
            return found | ({"perplexity": perplexity(t, m, args)} if m != str(args.model) else {})

        cells.get(key(task, arm, seed), made)


def parsed(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    made = of_cells(__doc__, Path(__file__), model=MODEL, seeds=3, tasks=TASKS, table="results.md")
    made.add_argument("--arms", type=names, default=list(ARMS))
    made.add_argument("--other-tasks", type=names, default=None, help=f"tasks of the arm {ARMS[-1]}; default: all")
    made.add_argument("--rows", type=int, default=None, help="labelled training rows, whose texts TAPT reads; default: all")
    made.add_argument("--dapt-steps", type=int, default=None, help="default: one epoch of the corpus")
    made.add_argument("--tapt-steps", type=int, default=None, help="default: 100 epochs of those texts")
    made.add_argument("--batch", type=int, default=256, help="texts a step of masked LM, a multiple of 16")
    made.add_argument("--max-length", type=int, default=128)
    with_last_stage(made)
    with_settings(made, "fine-tuning")
    args = made.parse_args(given)
    args.other_tasks = list(TASKS) if args.other_tasks is None else args.other_tasks
    check(made, "--tasks", args.tasks, DOMAINS)
    check(made, "--other-tasks", args.other_tasks, DOMAINS)
    check(made, "--arms", args.arms, ARMS)
    return args


def main() -> None:
    """Run what is missing; write the tables."""
    args = parsed()
    shared = ("model", "rows", "dapt_steps", "tapt_steps", "batch", "max_length", "test_rows", *LAST, "settings")
    carry_out(args, shared, lambda cells: run(cells, args), report, tapt_reads="the labelled rows")


if __name__ == "__main__":
    main()
