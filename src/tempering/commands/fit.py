"""``temper fit``: one recipe on one data set, into a model folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tempering.commands import folder
from tempering.commands.console import duration, say, score_words, show_json, tell
from tempering.commands.inputs import Source, examined, quoted, read_recipe, warn
from tempering.commands.tries import ONE, Several
from tempering.errors import RecipeError

if TYPE_CHECKING:
    from tempering.contracts import Seeds
    from tempering.learner import Learner
    from tempering.plan import Plan
    from tempering.recipe import Recipe
    from tempering.tasks.task import Task
    from tempering.train.progress import Listener


@dataclass(frozen=True)
class Place:
    """Where the results go and what may happen to what is there."""

    output_dir: Path
    resume: bool = False
    overwrite: bool = False
    merge: bool = False
    dry_run: bool = False
    as_json: bool = False


@dataclass(frozen=True)
class Request:
    """What was asked for. ``seeds`` holds the seeds that were set alone, None where derived from ``seed``."""

    source: Source
    recipe: str
    settings: tuple[str, ...]
    model: str
    seed: int
    seeds: dict[str, int | None]
    metrics: tuple[str, ...]
    report_to: tuple[str, ...]
    place: Place
    several: Several = ONE
    quantize: str | None = None


@dataclass(frozen=True)
class Ready:
    """What was found good before the first step: only then is the output folder touched."""

    task: Task
    recipe: Recipe
    why: str
    seeds: Seeds
    plan: Plan


def run(request: Request) -> None:
    """Check everything, train, write the folder, and say what came of it."""
    place, where = request.place, request.place.output_dir
    if not place.dry_run:
        folder.check_free(where, place.resume, place.overwrite)
        folder.check_apart(where, request.model)
        folder.check_foreign(where, place.overwrite)
    ready = prepare(request)
    if place.dry_run:
        _dry(request, ready)
        return
    if folder.finished(where) and not place.overwrite:
        facts = folder.read_metrics(where)
        _check_same(request, ready, facts)
        tell(f"{where} is finished already: nothing to resume")
    else:
        if place.overwrite and not place.resume:
            folder.clear(where)
        learner = _train(request, ready)
        learner.record["majority"] = baseline(ready.task)
        facts = folder.write(learner, ready.recipe, where, place.merge, ready.why)
    _report(place, facts)


def prepare(request: Request) -> Ready:
    """Data, recipe, metrics, trackers and model, each refused in one sentence where it cannot serve."""
    from tempering.contracts import Seeds
    from tempering.tasks.metrics import check_metrics

    seeds = Seeds.of(request.seed, **request.seeds)
    split_seed = request.seeds["sampling"]
    task = request.source.task(request.seed if split_seed is None else split_seed)
    check_metrics(request.metrics, task.kind, task.labels)
    _check_trackers(request.report_to)
    from tempering.plan import explain, outline  # torch comes only once the data is known to be good

    recipe, why = read_recipe(request.recipe, request.settings, task)
    if request.place.merge:
        _check_merges(recipe)
    outlined = outline(request.model, request.quantize)
    _check_packed(request)
    plan = explain(recipe, outlined, task)
    request.several.check()
    warn(examined(task, outlined), request.source)
    return Ready(task, recipe, why, seeds, plan)


def _check_trackers(names: tuple[str, ...]) -> None:
    from importlib.util import find_spec

    for name in names:
        from tempering.train.progress import TRACKERS

        if name not in TRACKERS:
            raise RecipeError(f"--report-to {name}: there is no such tracker; choose one of {', '.join(TRACKERS)}")
        if find_spec(name) is None:
            raise RecipeError(f"--report-to {name}: {name} is not installed; pip install 'tempering[{name}]'")


def _check_packed(request: Request) -> None:
    """Refuse what a packed model cannot take part in."""
    if request.quantize and request.place.merge:
        raise RecipeError(f"--merge: the matrices of a model in {request.quantize} are packed and take nothing in; leave --merge out")
    if request.quantize and request.several.tries > 1:
        raise RecipeError(f"--tries {request.several.tries}: several tries run on a whole model; leave --quantize or --tries out")


def _check_merges(recipe: Recipe) -> None:
    """Refuse a merge that the end of the run would refuse: by the parts of the last stage's tuning that cannot."""
    from tempering.registry import name_of
    from tempering.stages.setup import parts_of

    tuning = recipe.stages[-1].tuning
    fixed = list(dict.fromkeys(name_of(part)[1] for part in parts_of(tuning) if not part.merges)) or [name_of(tuning)[1]]
    if not tuning.merges:
        raise RecipeError(
            f"--merge: recipe {recipe.name} ends with tuning {' and '.join(fixed)}, which cannot be folded into the weights; leave --merge"
            " out, or take a recipe such as lora"
        )


def baseline(task: Task) -> dict[str, float]:
    """The main metric, by split, of one who never reads the text; left out where nothing could beat it, or for values."""
    from tempering.tasks.metrics import compute, default_metric

    held = [s for s in (task.dev, task.test) if s is not None and task.labels and len(set(s.labels)) > 1]  # of one label: all are right
    main = default_metric(task.kind, task.labels)
    return {s.name: compute(task.kind, task.labels, s.labels, task.majority(s))[main] for s in held}


def _dry(request: Request, ready: Ready) -> None:
    where = request.place.output_dir
    if request.place.as_json:
        show_json(ready.plan.as_dict() | {"output_dir": str(where), "why": ready.why})
        return
    say(*([ready.why] if ready.why else []), *ready.plan.lines(), *(f"note: {note}" for note in ready.task.notes))
    state = "is finished already" if folder.finished(where) else "has an unfinished run" if folder.unfinished(where) else "would be written"
    say(f"dry run: nothing was trained or written; {where} {state}")


def _train(request: Request, ready: Ready) -> Learner:
    place = request.place
    from tempering.backbone import Backbone
    from tempering.fitting import fit
    from tempering.train.progress import both

    if request.several.tries > 1:
        with _listeners(request, ready) as (shown, sent):
            return request.several.fit(ready.recipe, ready.task, request.model, ready.seeds, place, request.metrics, both(shown, sent))
    backbone = Backbone.load(request.model, ready.seeds.init, request.quantize)
    if ready.why:
        tell(ready.why)
    with _listeners(request, ready) as (shown, sent):
        try:
            return fit(
                ready.recipe,
                ready.task,
                backbone,
                seed=request.seed,
                seeds=ready.seeds,
                output_dir=place.output_dir,
                resume=place.resume,
                metrics=request.metrics,
                listener=both(shown, sent),
            )
        except KeyboardInterrupt:
            if folder.unfinished(request.place.output_dir):
                tell(f"stopped; the same command with --resume goes on from {folder.unfinished(request.place.output_dir)}")
            raise


@contextmanager
def _listeners(request: Request, ready: Ready) -> Iterator[tuple[Listener, Listener]]:
    from tempering.train.progress import bar, trackers

    settings = {"recipe": ready.recipe.name, "model": request.model, "seed": request.seed, "data": request.source.data}
    with bar(ready.recipe.name) as shown, trackers(request.report_to, request.place.output_dir / "logs", settings) as sent:
        yield shown, sent


def _check_same(request: Request, ready: Ready, facts: dict[str, Any]) -> None:
    """A finished folder answers for this very run, or the command is refused."""
    from tempering.stages.sources import fingerprints

    first = facts["tries"][0]["seeds"] if "tries" in facts else facts.get("seeds")  # of several tries the first has the seeds asked for
    found = facts | {"seeds": first, "number of tries": len(facts.get("tries", [0]))}
    mine = {"recipe_key": ready.recipe.key(), "data": ready.task.fingerprint(), "number of tries": request.several.tries}
    sources = fingerprints(ready.recipe.stages)
    folder.check_same(request.place.output_dir, mine, found, request.model, ready.seeds, request.quantize, sources)


def _report(place: Place, facts: dict[str, Any]) -> None:
    where, main = place.output_dir, facts["main_metric"]
    if place.as_json:
        show_json({"output_dir": str(where), **facts})
        return
    scores: dict[str, dict[str, float]] = {split: facts[split] for split in ("dev", "test") if split in facts}
    trained, whole = facts["trained_parameters"], facts["total_parameters"]
    say(
        score_words(scores, main) or "the last stage read no labels, so there is no score",
        *_no_better(scores, main, facts["majority"], trained),
        f"trained {trained:,} of {whole:,} parameters in {duration(facts['train_seconds'])}, {duration(facts['seconds'])} with evaluation",
        f"{where} holds the model; it loads with {', '.join(facts['loads_with'])}",
        f"next: temper predict {quoted(where)} NEW.csv --output predictions.csv",
    )


def _no_better(scores: dict[str, dict[str, float]], main: str, majority: dict[str, float], trained: int) -> list[str]:
    """A warning where a model learned, or without a ``trained`` weight knows, no more than which label is the most frequent."""
    split = "test" if "test" in scores else "dev"
    if main not in scores.get(split, {}) or split not in majority or scores[split][main] > majority[split]:
        return []
    known = f"always saying the most frequent label scores {majority[split]:.4f} on {split}"
    if not trained:
        hint = "give other label words, another template or more shots (where it shows examples), or take a recipe that trains"
        return [f"this model is of no use as it stands: {known}, and its last stage trains nothing; {hint}"]
    return [f"this model learned nothing of use: {known}; train longer, raise learning_rate, or try another recipe"]
