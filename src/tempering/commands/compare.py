"""``temper compare``: recipes x sizes x seeds on one data set, into a study folder with its report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tempering.commands import folder
from tempering.commands.console import say, show_json, tell
from tempering.commands.inputs import Source, examined, quoted, read_recipe, warn
from tempering.errors import RecipeError

if TYPE_CHECKING:
    from tempering.plan import Plan
    from tempering.recipe import Recipe
    from tempering.studying import Study
    from tempering.tasks.task import Task


@dataclass(frozen=True)
class Request:
    """What was asked for; ``recipes`` and ``sizes`` as they were typed, ``settings`` hold for every recipe."""

    source: Source
    recipes: str
    settings: tuple[str, ...]
    sizes: str
    seeds: int
    budget: int
    model: str
    seed: int
    output_dir: Path


def run(request: Request, dry_run: bool, as_json: bool) -> None:
    """Check everything, run what is not yet done, write the report, and print the answer."""
    folder.check_free(request.output_dir, resume=True, overwrite=False)
    sizes = read_sizes(request.sizes)
    task = request.source.task(request.seed, hold_out_test=request.source.test is None)
    recipes, plans = prepare(request, task)
    if dry_run:
        _dry(request, sizes, plans, as_json)
        return
    study = study_of(request, task, recipes, sizes)
    study.report(request.output_dir)
    if as_json:
        from tempering.report import render

        say(render(study.info, study.records(), "json").rstrip())
        return
    show(study, request.output_dir)


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

    names = [name for name in (name.strip() for name in request.recipes.split(",")) if name]
    recipes = [read_recipe(name, request.settings, task)[0] for name in names]
    doubled = {r.name for r in recipes if [other.name for other in recipes].count(r.name) > 1}
    if doubled or not recipes:
        what = f"found {sorted(doubled)[0]!r} twice; give each its own name" if doubled else "found none; see  temper list recipes"
        raise RecipeError(f"--recipes {request.recipes}: expected recipes of different names, {what}")
    plans = [explain(recipe, outline(request.model), task) for recipe in recipes]
    warn(examined(task, outline(request.model)), request.source)
    return recipes, plans


def _dry(request: Request, sizes: tuple[int | None, ...], plans: list[Plan], as_json: bool) -> None:
    tuned = len(plans) * len(sizes) * request.seeds
    counts = {"recipes": len(plans), "sizes": ["all" if s is None else str(s) for s in sizes], "seeds": request.seeds, "runs": tuned}
    if as_json:
        show_json(counts | {"budget": request.budget, "plans": [plan.as_dict() for plan in plans]})
        return
    for plan in plans:
        say(*plan.lines(), "")
    search = f"; before that, {request.budget} settings are tried for each recipe and size" if request.budget else ""
    say(f"{len(plans)} recipes x {len(sizes)} sizes x {request.seeds} seeds = {tuned} runs{search}; steps above are for all rows")
    say(f"dry run: nothing was trained or written; {request.output_dir} is where the study would be")


def study_of(request: Request, task: Task, recipes: list[Recipe], sizes: tuple[int | None, ...]) -> Study:
    """Run the study, or what is left of it, with its progress on standard error."""
    from tempering.studying import compare
    from tempering.train.progress import bar

    try:
        with bar("study") as shown:
            return compare(
                recipes,
                task,
                request.model,
                sizes=sizes,
                seeds=request.seeds,
                budget=request.budget,
                output_dir=request.output_dir,
                listener=shown,
            )
    except KeyboardInterrupt:
        tell(f"stopped; finished runs are kept in {request.output_dir}, and the same command goes on from there")
        raise


def show(study: Study, where: Path) -> None:
    """The answer on the screen, and where to read it in full."""
    from tempering.report import render

    say(render(study.info, study.records(), "table").rstrip(), "", *written(where))


def written(where: Path) -> list[str]:
    """Where the report lies and what to type next."""
    return [
        f"{where}/report.html is the whole report; report.md and report.json lie beside it",
        f"next: temper report {quoted(where)} --format md, or fit the recipe you choose:  temper fit DATA --recipe NAME",
    ]
