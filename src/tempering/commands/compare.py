"""``temper compare``: recipes x sizes x seeds on one data set, into a study folder with its report."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tempering.commands import folder
from tempering.commands.console import duration, say, show_json, tell
from tempering.commands.inputs import Source, examined, quoted, warn
from tempering.commands.own_settings import read_recipes, recipe_names, shared_settings
from tempering.errors import RecipeError
from tempering.study.crossing import square

if TYPE_CHECKING:
    from tempering.plan import Plan
    from tempering.recipe import Recipe
    from tempering.studying import Study
    from tempering.tasks.task import Task


@dataclass(frozen=True)
class Request:
    """What was asked for; ``recipes`` and ``sizes`` as they were typed, ``settings`` hold for every recipe, or for the one before them."""

    source: Source
    recipes: str
    settings: tuple[str, ...]
    sizes: str
    seeds: int
    budget: int
    model: str
    seed: int
    metrics: tuple[str, ...]
    workers: int
    output_dir: Path
    decompose: bool = False
    quantize: str | None = None
    search_seeds: int | None = None


def run(request: Request, dry_run: bool, as_json: bool) -> None:
    """Check everything, run what is not yet done, write the report, and print the answer."""
    from tempering.tasks.metrics import check_metrics
    from tempering.tasks.sampling import nested_subsets

    folder.check_free(request.output_dir, resume=True, overwrite=False)
    if request.decompose:
        square(request.seeds)  # refuses too few seeds to cross
    if (request.search_seeds or 0) > request.seeds:
        raise RecipeError(
            f"--search-seeds {request.search_seeds}: expected at most the {request.seeds} of --seeds; give fewer, or more --seeds"
        )
    sizes = read_sizes(request.sizes)
    task = request.source.task(request.seed, hold_out_test=request.source.test is None)
    check_metrics(request.metrics, task.kind, task.labels)
    nested_subsets(task, list(sizes), request.seed)  # refuses a size that cannot be drawn
    recipes, plans = prepare(request, task)
    if dry_run:
        _dry(request, sizes, plans, as_json)
        return
    study = study_of(request, task, recipes, sizes)
    study.report(request.output_dir)
    show(study, request, as_json)


def read_sizes(words: str) -> tuple[int | None, ...]:
    """``32,128,all`` as numbers, None for all rows."""
    found: list[int | None] = []
    for word in filter(None, (word.strip() for word in words.split(","))):
        if word != "all" and not (word.isdecimal() and int(word) > 0):
            raise RecipeError(f"--sizes {words}: expected numbers of training rows, or all, found {word!r}; for example 32,128,all")
        found.append(None if word == "all" else int(word))
    if not found or len(set(found)) < len(found):
        raise RecipeError(f"--sizes {words}: expected each size once, as in 32,128,all")
    return tuple(found)


def prepare(request: Request, task: Task) -> tuple[list[Recipe], list[Plan]]:
    """The recipes and what each will do; one that cannot work is refused before anything runs."""
    from tempering.plan import explain, outline
    from tempering.study.about import comparable

    recipes = read_recipes(recipe_names(request.recipes), request.settings, task)
    doubled = {r.name for r in recipes if [other.name for other in recipes].count(r.name) > 1}
    if doubled or not recipes:
        what = f"found {sorted(doubled)[0]!r} twice; give each its own name" if doubled else "found none; see  temper list recipes"
        raise RecipeError(f"--recipes {request.recipes}: expected recipes of different names, {what}")
    comparable(recipes)
    plans = [explain(recipe, outline(request.model, request.quantize), task) for recipe in recipes]
    warn(examined(task, outline(request.model)), request.source)
    return recipes, plans


def _dry(request: Request, sizes: tuple[int | None, ...], plans: list[Plan], as_json: bool) -> None:
    tuned = len(plans) * len(sizes) * (len(square(request.seeds)) if request.decompose else request.seeds)
    counts = {"recipes": len(plans), "sizes": ["all" if s is None else str(s) for s in sizes], "seeds": request.seeds, "runs": tuned}
    if as_json:
        show_json(counts | {"budget": request.budget, "plans": [plan.as_dict() for plan in plans]})
        return
    for plan in plans:
        say(*plan.lines(), "")
    search = f"; before that, up to {request.budget} settings are tried for each recipe and size" if request.budget > 1 else ""
    search += f", with {request.search_seeds} seeds each" if search and request.search_seeds else ""
    seeds = f"{request.seeds} x {request.seeds} crossed seeds" if request.decompose else f"{request.seeds} seeds"
    say(f"{len(plans)} recipes x {len(sizes)} sizes x {seeds} = {tuned} runs{search}; steps above are for all rows")
    say(f"dry run: nothing was trained or written; {request.output_dir} is where the study would be")


def study_of(request: Request, task: Task, recipes: list[Recipe], sizes: tuple[int | None, ...]) -> Study:
    """Run the study, or what is left of it, with its progress on standard error."""
    from tempering.studying import compare

    try:
        with _progress() as shown:
            return compare(
                recipes,
                task,
                request.model,
                sizes=sizes,
                seeds=request.seeds,
                budget=request.budget,
                output_dir=request.output_dir,
                metrics=request.metrics,
                listener=shown,
                seed=request.seed,
                workers=request.workers,
                decompose=request.decompose,
                quantize=request.quantize,
                search_seeds=request.search_seeds,
            )
    except KeyboardInterrupt:
        tell(f"stopped; finished runs are kept in {request.output_dir}, and the same command goes on from there")
        raise


@contextmanager
def _progress() -> Iterator[Callable[[dict[str, Any]], None]]:
    """One line a finished run and, on a terminal, a bar; steps inside a run are not shown."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        row = progress.add_task("study", total=None)

        def shown(event: dict[str, Any]) -> None:
            if event["event"] == "cell":
                left = f", about {duration(event['remaining'])} left" if event.get("remaining") else ""
                progress.update(row, completed=event["done"], total=event["total"], description=f"{event['phase']}{left}")
                progress.console.print(cell_words(event), markup=False)
            elif event["event"] == "note":
                progress.console.print(f"note: {event['text']}", markup=False)

        yield shown


def cell_words(event: dict[str, Any]) -> str:
    """A finished run in one line: ``[3/24] lora, 128 rows, seed 0: accuracy 0.8123 in 4.2 s, about 80.1 s left``."""
    size = "all rows" if event["size"] == "all" else f"{event['size']} rows"
    search = {"search": "search: ", "crossed": "crossed: "}.get(event["phase"], "")
    head = f"[{event['done']}/{event['total']}] {search}{event['recipe']}, {size}, {event.get('streams') or 'seed ' + str(event['seed'])}"
    if event["status"] != "done":
        return f"{head}: failed, {event['reason']}"
    left = f", about {duration(event['remaining'])} left" if event.get("remaining") else ""
    score = f"{event['metric']} {event['score']:.4f} " if event["score"] is not None else ""
    return f"{head}: {score}in {duration(event['seconds'])}{left}"


def show(study: Study, request: Request, as_json: bool) -> None:
    """The answer on the screen, where to read it in full, and the command that goes on from it."""
    where = request.output_dir
    say(study.text("json" if as_json else "table").rstrip())
    if not as_json:
        say("", f"{where / 'report.html'} is the whole report; report.md and report.json lie beside it")
        shared = shared_settings(recipe_names(request.recipes), request.settings)
        own = " (and its own settings, without the name before them)" if len(shared) < len(request.settings) else ""
        said = f"temper fit {request.source.again} --recipe NAME{_model(request)}" + "".join(f" {quoted(word)}" for word in shared)
        say(f"next: fit the recipe you choose on all rows:  {said}{own}")


def _model(request: Request) -> str:
    """The model as it was typed."""
    packed = f" --quantize {request.quantize}" if request.quantize else ""
    return f" --model {quoted(request.model)}{packed}"
