"""``temper adapt``: a pretrained model, trained further on plain text before any task, into a folder that ``temper fit --model`` takes."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tempering.commands import folder
from tempering.commands.console import duration, say, show_json, tell
from tempering.commands.inputs import quoted
from tempering.commands.onward import onward
from tempering.errors import RecipeError

if TYPE_CHECKING:
    from tempering.backbone import Backbone
    from tempering.learner import Learner
    from tempering.recipe import Recipe
    from tempering.tasks.task import Task

MEASURES = {"masked_lm": ("pseudo_perplexity", "pseudo-perplexity (exp of the loss on masked tokens)"), "causal_lm": ("perplexity",) * 2}
ENOUGH = 1_000  # tokens: their losses vary by 2 to 3, so that the mean of so many is uncertain by 0.1, and its exp by a tenth


@dataclass(frozen=True)
class Request:
    """What was asked for. ``adapter`` keeps the tuning apart from the model even where it could be folded into it."""

    text: str
    recipe: str
    settings: tuple[str, ...]
    model: str
    seed: int
    output_dir: Path
    column: str | None = None
    resume: bool = False
    overwrite: bool = False
    adapter: bool = False
    dry_run: bool = False
    as_json: bool = False


def run(request: Request) -> None:
    """Check everything, train the first stage of the recipe on the text, write the folder, and say what came of it."""
    where = request.output_dir
    if not request.dry_run:
        folder.check_free(where, request.resume, request.overwrite)
        folder.check_apart(where, request.model)
        folder.check_foreign(where, request.overwrite)
    from tempering.plan import explain, outline
    from tempering.stages.sources import check_corpus
    from tempering.train.stream import source_of

    outlined = outline(request.model)
    recipe, why = first_stage(request, outlined)
    check_corpus(source_of(recipe.stages[0]))  # what holds no text is refused here, where it is no setting of a recipe
    task = no_task(request.text)
    plan = explain(recipe, outlined, task)
    if request.dry_run:
        show_json(plan.as_dict() | {"output_dir": str(where)}) if request.as_json else say(*([why] if why else []), *plan.lines())
        return
    if folder.finished(where) and not request.overwrite:
        facts = folder.read_metrics(where)
        _check_same(request, recipe, facts)
        tell(f"{where} is finished already: nothing to resume")
    else:
        if request.overwrite and not request.resume:
            folder.clear(where)
        learner = _train(request, recipe, task, why)
        facts = folder.write(learner, recipe, where, learner.tuning.merges and not request.adapter, why)
    _report(request, recipe, facts)


def first_stage(request: Request, outlined: Backbone) -> tuple[Recipe, str]:
    """The recipe's first stage alone, on the text that was given, and a line about what was changed for this kind of model."""
    from tempering.framings.causal_lm import CausalLM
    from tempering.recipe import Recipe, parse_settings
    from tempering.train.stream import OWN

    given = Recipe.load(request.recipe)
    stage = given.stages[0]
    if getattr(stage.framing, "supervised", True) or not hasattr(stage, "curate"):
        raise RecipeError(
            f"--recipe {request.recipe}: its first stage learns from labels, and there are none; take dapt, madx-language, or another"
            " recipe whose first stage is a masked_lm or causal_lm"
        )
    if stage.curate is not None:
        raise RecipeError(
            f"--recipe {request.recipe}: it chooses texts like those of a task, and there is no task here; use temper fit with it, or dapt"
        )
    text = f"./{request.text}" if request.text in OWN else request.text  # a path, though in a stage it would name texts of the task
    stage, why = replace(stage, text=text, column=request.column), ""
    if outlined.layout.kind == "decoder" and not isinstance(stage.framing, CausalLM):
        packed = bool(getattr(stage.framing, "packed", False))
        stage = replace(stage, framing=CausalLM(getattr(stage.framing, "max_length", None), packed))
        why = f"{request.model} reads from left to right: framing causal_lm in place of that of recipe {given.name}"
    recipe = Recipe(given.name, (stage,), (), given.description).override(parse_settings(request.settings))
    return recipe, why


def no_task(text: str) -> Task:
    """What stands for a task where there are only texts."""
    from tempering.tasks.task import Split, Task

    return Task(Path(text).name or "text", "text", (), Split("train", ()))


def _train(request: Request, recipe: Recipe, task: Task, why: str) -> Learner:
    from tempering.backbone import Backbone
    from tempering.contracts import Seeds
    from tempering.fitting import fit
    from tempering.train.progress import bar

    seeds = Seeds.of(request.seed)
    backbone = Backbone.load(request.model, seeds.init)
    if why:
        tell(why)
    with bar(recipe.name) as shown:
        try:
            learner = fit(recipe, task, backbone, seeds=seeds, output_dir=request.output_dir, resume=request.resume, listener=shown)
        except KeyboardInterrupt:
            if folder.unfinished(request.output_dir):
                tell(f"stopped; the same command with --resume goes on from {folder.unfinished(request.output_dir)}")
            raise
    learner.record["notes"] += [note for note in learner.framing.notes if note]
    learner.record["metrics"] = held_out(learner)
    learner.record["main_metric"] = next(iter(learner.record["metrics"].get("after", {})), "loss")
    return learner


def held_out(learner: Learner) -> dict[str, dict[str, float]]:
    """The loss on the held-out text before and after, and (pseudo-)perplexity where it has one; empty where no text was held out."""
    from tempering.stages.finishing import as_kept

    stage = learner.record["stage"]
    name, _ = measure(learner.record["framing"])
    after = as_kept(stage)
    if "before" not in stage or after is None:
        return {}
    losses = {"before": stage["before"]["loss"], "after": after["loss"]}
    return {when: ({} if name == "loss" else {name: _exp(loss)}) | {"loss": loss} for when, loss in losses.items()}


def measure(framing: Any) -> tuple[str, str]:
    """The name and the words of what ``framing`` is judged by: a loss that is no likelihood of tokens is nothing but a loss."""
    from tempering.registry import name_of

    return MEASURES.get(name_of(framing)[1], ("loss", "loss"))


def _exp(loss: float) -> float:
    return math.exp(loss) if loss < 700 else math.inf


def _check_same(request: Request, recipe: Recipe, facts: dict[str, Any]) -> None:
    """A finished folder answers for this very run, or the command is refused."""
    from tempering.contracts import Seeds
    from tempering.stages.sources import fingerprints

    mine, sources = {"recipe_key": recipe.key()}, fingerprints(recipe.stages)
    folder.check_same(request.output_dir, mine, facts, request.model, Seeds.of(request.seed), sources=sources)


def _rests_on(recipe: Recipe, facts: dict[str, Any]) -> str:
    """How much held-out text the figures are of, and whether that is too little; nothing of a folder that does not tell."""
    held = facts.get("held_out")
    if held is None:
        return ""
    said = f"; held out: {held['texts']:,} text{'' if held['texts'] == 1 else 's'}, {held['tokens']:,} tokens"
    judged = held["tokens"] * getattr(recipe.stages[0].framing, "probability", 1.0)
    if judged < held["tokens"]:
        said += f", of which about {judged:,.0f} are masked"
    return said + (" (too few to rely on the figures)" if judged < ENOUGH else "")


def _report(request: Request, recipe: Recipe, facts: dict[str, Any]) -> None:
    where = request.output_dir
    if request.as_json:
        show_json({"output_dir": str(where), **facts})
        return
    name, words = measure(recipe.stages[0].framing)
    if "after" in facts:
        say(f"{words} on held-out text: {facts['before'][name]:.4g} before, {facts['after'][name]:.4g} after{_rests_on(recipe, facts)}")
    else:
        nothing = "loss of it" if name == "loss" else "perplexity"
        also = "; see also documents=paragraph" if recipe.stages[0].documents == "file" else ""
        say(f"no text was held out, so there is no {nothing}: fewer than 20 different documents, or eval_strategy=no{also}")
    if facts["notes"]:
        say(*(f"note: {note}" for note in facts["notes"]))
    trained, whole = facts["trained_parameters"], facts["total_parameters"]
    say(
        f"trained {trained:,} of {whole:,} parameters in {facts['steps']:,} steps, {duration(facts['train_seconds'])}",
        f"{where} holds the model; it loads with {', '.join(facts['loads_with'])}",
    )
    if (where / "config.json").exists():
        say(f"next: temper fit DATA --model {quoted(where)}")
    else:
        say(f"it holds what was trained alone, on top of {request.model}", *onward(recipe, request.model, where))
