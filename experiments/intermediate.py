"""Does training on other labelled data first help? Intermediate training, several tasks at once, and many tasks, against none.

    python experiments/intermediate.py [--seeds 3] [--rows N] [--source-rows N] [--first-steps N] [--max-length N] [--hours H]
        [--arms none,stilts,multi-task-alone,multi-task] [--output runs/intermediate] [key=value for the last stage of every arm ...]
    python experiments/intermediate.py --arms none,muppet --many-rows 300 --table experiments/intermediate-many.md ...    # 19 at once

Arms: ``none`` is fine-tuning on a single task (recipe full, with --min-steps and --learning-rate); ``multi-task-alone`` one model
trained on rte, mrpc, stsb and snli_10k at once, as it comes out, for at least as many steps, each of four batches. The others end in
the stage of ``none``, with the same rows and seeds, after another one: ``stilts`` trains on snli_10k first (Phang et al. 2018; for rte,
mrpc, stsb); ``multi-task`` on the four at once; ``muppet`` on all of MANY at once, with R3F and losses over log n (Aghajanyan et al. 2021:
fewer than about 15 data sets are known to hurt). First stages learn at RATES, not at the rates of their recipes, which are for larger
models and longer training; what they reach on the development rows of their own data stands under the table. A first stage runs once a
seed, and goes on from its last checkpoint where it was killed; the bodies it leaves in OUTPUT/bodies serve every target. The test split is
read once a model; differences to none are paired by seed, and each arm is judged once, by the mean over its targets. Rows of a first stage
that hold a development or test text of another data set are left out: mrpc and stsb share hundreds of pairs, snli_10k and stsb captions,
mr and sst5 sentences. --rows cuts every target's training rows, by seed, also where it is one of several tasks; --source-rows those of the
source of stilts, --many-rows those of the other data sets of muppet. bf16=true holds for first stages, too.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from cells import Cells, carry_out, cut, everywhere, last_stage, load, making, outcome
from intermediate_arms import ALONE, ARMS, FOUR, LEAST_ROWS, MANY, RATES, key, plan, rows_for, sources, targets
from intermediate_table import table
from options import LAST, MODEL, check, names, of_cells, with_last_stage, with_settings

from tempering.backbone import Backbone
from tempering.contracts import Example, Seeds
from tempering.corpora.worker import text_hash
from tempering.exporting import save_body
from tempering.fitting import evaluate, fit
from tempering.framings.head import Head
from tempering.recipe import Recipe
from tempering.stages.setup import Surroundings, leave, positive_class
from tempering.streams import seeds_before
from tempering.tasks import Task
from tempering.tasks.metrics import default_metric
from tempering.train.several import MEAN, SeveralEvaluator

FIRST = "first.json"  # beside a body: what its first stage reached, and what the heads of the four tasks score by themselves
MIXED = 8  # micro-batches of a step of muppet: mostly of different tasks, and more steps for the same rows than with one of each


@cache
def judged(data: Path) -> dict[str, frozenset[int]]:
    """Hashes of the development and test texts of every data set there is."""
    tasks = {name: load(data, name) for name in MANY if (data / name).exists()}
    return {n: frozenset(h for split in (t.dev, t.test) for e in split or () for h in hashes(e)) for n, t in tasks.items()}


def hashes(example: Example) -> set[int]:
    """One a text, whatever its case."""
    return {text_hash(text.lower()) for text in example.texts}


def as_folder(name: str, rows: int | None, seed: int, args: argparse.Namespace) -> Path:
    """The data set as a folder with ``rows`` training rows, the very ones that `cut` gives, without its test split. Rows with a text that
    another data set is judged by are left out.
    """
    folder: Path = args.output / "data" / f"{name}-{rows or 'all'}-{seed}"
    with making(folder) as wanted:
        if wanted:
            part = folder.with_name(f"{folder.name}.part")
            part.mkdir(parents=True, exist_ok=True)
            others = frozenset[int]().union(*(found for other, found in judged(args.data).items() if other != name))
            task = load(args.data, name, dev_rows=args.dev_rows)
            chosen = [e for e in cut(task, rows, seed).train if not hashes(e) & others]
            for split, examples in (("train", chosen), ("dev", list(task.dev or ()))):
                lines = (args.data / name / f"{split}.jsonl").read_text(encoding="utf-8").split("\n")
                (part / f"{split}.jsonl").write_text("".join(f"{lines[e.row - 1]}\n" for e in examples), encoding="utf-8")
            part.rename(folder)
    return folder


def first_stage(arm: str, folders: Sequence[str], args: argparse.Namespace) -> Any:
    """The first stage of the recipe of that name on the data in ``folders``; of the settings those that hold everywhere."""
    recipe, length = Recipe.load(arm), args.max_length
    settings: dict[str, Any] = dict(RATES)
    if arm == "stilts":
        settings |= {"data": folders[0], "framing.max_length": length}
    else:
        settings["tasks"] = [{"data": folder, "framing": {"head": {"max_length": length}}} for folder in folders]
        settings |= {"gradient_accumulation_steps": MIXED} if arm == "muppet" else {"min_steps": args.min_steps}
    settings |= {"max_steps": args.first_steps} if args.first_steps else {}
    return recipe.override({f"stages.0.{name}": value for name, value in settings.items()} | everywhere(args.settings, "stages.0.")).stages[
        0
    ]


def body(arm: str, seed: int, args: argparse.Namespace, cells: Cells) -> str:
    """The folder of the body that the first stage of ``arm`` leaves; the pretrained model where there is none."""
    if arm == "none":
        return str(args.model)
    folder: Path = args.output / "bodies" / f"{arm}-{seed}"
    with making(folder) as wanted:  # every target starts from it, and another command may be at it
        if wanted:
            cells.in_time()
            make_body(arm, seed, folder, args)
    found = json.loads((folder / FIRST).read_text(encoding="utf-8"))["stage"]
    cells.get(f"first stage/{arm}/{seed}", lambda: found)
    return str(folder)


def make_body(arm: str, seed: int, folder: Path, args: argparse.Namespace) -> None:
    """Run a first stage and leave its body in ``folder``; it goes on where it was killed."""
    found = [str(as_folder(name, rows_for(name, arm, args), seed, args)) for name in sources(arm)]
    stage, seeds = first_stage(arm, found, args), Seeds.of(seed)
    backbone = Backbone.load(args.model, seeds.init)
    work, part = (folder.with_name(f"{folder.name}.{kind}") for kind in ("run", "part"))
    learner = stage.run(backbone, Task.from_file(found[0]), seeds_before(seeds, 0), around=Surroundings(work, resume=True))
    told = {"stage": reached(learner), "alone": alone(learner, found, args) if arm == "multi-task" else {}}
    leave(stage, backbone)
    shutil.rmtree(part, ignore_errors=True)
    save_body(backbone, part)
    (part / FIRST).write_text(json.dumps(told), encoding="utf-8")
    part.rename(folder)
    shutil.rmtree(work, ignore_errors=True)


def reached(learner: Any) -> dict[str, Any]:
    """What a first stage scored on its own development rows, after its first epoch and at its best, and in how many steps."""
    stage = learner.record["stage"]
    best = next(found for found in stage["history"] if found["step"] == stage["best_step"])
    main = MEAN if MEAN in best else "accuracy"
    return {"dev": best[main], "early": stage["history"][0][main], "steps": stage["steps"]}


def alone(learner: Any, folders: Sequence[str], args: argparse.Namespace) -> dict[str, Any]:
    """What the heads of a first stage on the four tasks score by themselves."""
    scores = {}
    for folder, name in zip(folders, FOUR, strict=True):
        task, part = load(args.data, name, args.test_rows, args.dev_rows), Path(folder).name
        view = SeveralEvaluator({}, {part: {"framing": Head(), "positive": positive_class(task)}}).view(learner, part)
        found, main = evaluate(view, task), default_metric(task.kind, task.labels)
        scores[name] = {"score": found["test"][main], "dev": found["dev"][main], "metrics": found, "main_metric": main}
    return scores


def run(cells: Cells, args: argparse.Namespace) -> None:
    """Every cell that is not there."""
    last = last_stage("full", args, {"framing.max_length": args.max_length})
    for task, arm, seed in plan(args):
        if arm == ALONE and key(task, arm, seed) not in cells:
            found = json.loads(Path(body("multi-task", seed, args, cells), FIRST).read_text(encoding="utf-8"))["alone"]
            cells.get(key(task, arm, seed), lambda f=found, t=task: f[t])
        elif key(task, arm, seed) not in cells:
            start = body(arm, seed, args, cells)
            rows = cut(load(args.data, task, args.test_rows, args.dev_rows), args.rows, seed)
            cells.get(key(task, arm, seed), lambda m=start, t=rows, s=seed: outcome(fit(last, t, m, seed=s)))


def parsed(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    made = of_cells(__doc__, Path(__file__), model=MODEL, seeds=3, tasks=FOUR, table="intermediate.md")
    made.add_argument("--arms", type=names, default=list(ARMS[:4]))
    made.add_argument("--rows", type=int, default=None, help="training rows of each target; default: all")
    made.add_argument("--source-rows", type=int, default=None, help="of the source of stilts; default: all")
    made.add_argument("--many-rows", type=int, default=None, help=f"of each other data set of muppet, {LEAST_ROWS} at least; default: all")
    made.add_argument("--first-steps", type=int, default=None, help="steps of the first stage; default: the recipe's epochs")
    made.add_argument("--max-length", type=int, default=None, help="tokens a text, in all stages; default: the model's")
    with_last_stage(made)
    with_settings(made, "the last stage of every arm")
    args = made.parse_args(words)
    check(made, "--arms", args.arms, ARMS)
    if "muppet" in args.arms and args.many_rows is not None and args.many_rows < LEAST_ROWS:
        made.error(f"--many-rows {args.many_rows}: muppet needs {LEAST_ROWS} at least, one for each class of clinc150")
    return args


def main() -> None:
    """Run what is missing; write the table."""
    args = parsed()
    shared = ("model", "rows", "source_rows", "many_rows", "first_steps", "max_length", "test_rows", *LAST, "settings")
    carry_out(args, shared, lambda cells: run(cells, args), table, targets=targets(args))  # bodies hang on them


if __name__ == "__main__":
    main()
