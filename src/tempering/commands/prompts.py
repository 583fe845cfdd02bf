"""``temper prompts``: what prompts look like to a model, how well they do before anything is trained, and a search for better ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tempering.commands.console import say, show_json, tell
from tempering.commands.inputs import Source, quoted
from tempering.commands.prompt_lines import prompt_lines, score_lines, search_lines
from tempering.errors import RecipeError

if TYPE_CHECKING:
    from tempering.backbone import Backbone
    from tempering.framings.cloze import Cloze
    from tempering.prompting.autoprompt import Settings as AutoPrompt
    from tempering.prompting.scoring import Scored
    from tempering.prompting.search import Settings
    from tempering.prompting.showing import Shown
    from tempering.prompting.trigger_search import By
    from tempering.recipe import Recipe
    from tempering.tasks.task import Task

FILE = Path("recipe.yaml")


@dataclass(frozen=True)
class Request:
    """What the user asked for. Every template is tried with every set of label words."""

    source: Source
    templates: tuple[str, ...]
    words: tuple[str, ...]
    model: str
    rows: int
    on: str
    show: int
    seed: int
    settings: tuple[str, ...] = ()  # of the cloze, where no recipe takes them


def run(request: Request, as_json: bool) -> None:
    """Show a few prompts and the zero-shot scores of every candidate; prompts alone where the model has no head to score them by."""
    from tempering.backbone import Backbone
    from tempering.prompting.scoring import built, ranked, reads_drawn_head, rows_on, score, untrained
    from tempering.prompting.showing import shown

    task = _task(request)
    clozes = candidates(request, task)
    rows = rows_on(task, request.on, request.rows, request.seed)
    backbone = Backbone.load(request.model, request.seed)
    learners = [built(cloze, task, backbone, request.seed) for cloze in clozes]
    if any(map(reads_drawn_head, learners)):
        _unscored(request, backbone, [s for learner in learners for s in shown(learner, rows[: request.show])], as_json)
        return
    seen = [s for cloze in clozes for s in shown(untrained(cloze, task, backbone, request.seed), rows[: request.show])]
    scored = ranked([score(cloze, task, backbone, rows, request.seed) for cloze in clozes], task)
    if as_json:
        show_json({"model": backbone.source, "on": request.on, "prompts": [s.as_dict() for s in seen], "scores": _plain(scored)})
        return
    where = f"{request.on} rows, {backbone.source}, nothing trained"
    say(*prompt_lines(seen, backbone), "", *score_lines(scored, task, where, _typed(request)))
    for note in dict.fromkeys(note for s in scored for note in s.notes):
        tell(f"note: {note}")


def _unscored(request: Request, backbone: Backbone, seen: Sequence[Shown], as_json: bool) -> None:
    """Show prompts, and say why they are not scored."""
    why = (
        f"no zero-shot scores: {backbone.source} ({backbone.layout.family}) holds no weights of a language-model head, and one drawn at"
        " random would name words at random; give a masked language model, as in  --model roberta-base"
    )
    if as_json:
        show_json({"model": backbone.source, "on": request.on, "prompts": [s.as_dict() for s in seen], "scores": [], "notes": [why]})
        return
    say(*prompt_lines(seen, backbone), "", why)


def search(request: Request, settings: Settings, recipe: str, changes: Sequence[str], output: Path | None, as_json: bool) -> None:
    """Search templates (and label words) and write the recipe that holds the best."""
    from tempering.prompting.search import find_prompts

    target, task, cloze, chosen = _begun(request, recipe, changes, output)
    found = find_prompts(task, request.model, cloze, settings, chosen, request.seed, _notes)
    target.write_text(found.recipe.to_yaml(), encoding="utf-8")
    if as_json:
        show_json(found.as_dict() | {"output": str(target)})
        return
    say(*search_lines(found, task), _written(target, request))


def triggers(request: Request, settings: AutoPrompt, recipe: str, changes: Sequence[str], output: Path | None, as_json: bool) -> None:
    """Search the words of a template by gradient and write the recipe that holds them."""
    from tempering.prompting.autoprompt import find_autoprompt

    target, task, cloze, chosen = _begun(request, recipe, changes, output)
    tell(f"note: the model reads {settings.readings:,} rows at most; fewer --iterations, --candidates or --rows make it shorter")
    found = find_autoprompt(task, request.model, cloze, settings, chosen, request.seed, _notes)
    target.write_text(found.recipe.to_yaml(), encoding="utf-8")
    if as_json:
        show_json(found.as_dict() | {"output": str(target)})
        return
    lines = score_lines(found.candidates, task, f"dev rows, {request.model}, nothing trained, with the words found and without them")
    say(*lines, "", *found.notes, _written(target, request))


def refuse_search_words(given: Mapping[str, object], where: str = "a search; add --search") -> None:
    """Refuse options that only ``where`` reads."""
    if odd := [name for name, value in given.items() if value]:
        raise RecipeError(f"{odd[0]} is for {where}, or leave it out")


def of_recipes(settings: Sequence[str]) -> dict[str, bool]:
    """The settings that are none of the cloze. A field of the cloze by its bare name is refused."""
    from tempering.codec import fields_of
    from tempering.framings.cloze import Cloze

    others = [setting for setting in settings if not setting.startswith("framing.")]
    if odd := [setting for setting in others if setting.partition("=")[0] in fields_of(Cloze)]:
        raise RecipeError(f"{odd[0]}: a setting of the cloze begins with framing.; write framing.{odd[0]}")
    return dict.fromkeys(others, True)


def refuse_method(method: str) -> None:
    """Refuse a way to search that there is not."""
    if method not in ("fill", "autoprompt"):
        raise RecipeError(f"--method {method!r}: expected fill (a model writes templates) or autoprompt (words are searched by gradient)")


def refuse_two_sources_of_words(words: Sequence[str] | None, automatic: bool) -> None:
    """Refuse label words that the search for label words would not read."""
    if words and automatic:
        raise RecipeError("--words gives the label words, and --auto-words looks for others; leave one of them out")


def measure(given: str | None) -> By:
    """What a swap of AutoPrompt must better."""
    if given not in (None, "accuracy", "loss"):
        raise RecipeError(f"--by {given!r}: expected accuracy (a swap raises it) or loss (a swap lowers it)")
    return "loss" if given == "loss" else "accuracy"


def check_settings(settings: Sequence[str], templates: Sequence[str], words: Sequence[str]) -> None:
    """Refuse settings that say what an option says too."""
    for option, key, given in (("--template", "framing.template", templates), ("--words", "framing.words", words)):
        if given and any(setting.partition("=")[0] == key for setting in settings):
            raise RecipeError(f"{option} and {key} say the same; leave one of them out")


def _begun(request: Request, recipe: str, changes: Sequence[str], output: Path | None) -> tuple[Path, Task, Cloze, Recipe]:
    """(where the recipe goes, the task, the prompt to begin at, the recipe to put it into) of a search."""
    from tempering.commands.inputs import read_recipe

    target = output or FILE
    if target.exists():
        raise RecipeError(f"--output {target}: there is such a file; name another, or remove it")
    if not target.parent.is_dir():
        raise RecipeError(f"--output {target}: there is no folder {target.parent}; make it first")
    task = _task(request)
    clozes = candidates(request, task)
    if len(clozes) > 1:
        raise RecipeError(f"--search begins at one prompt, and {len(clozes)} are given; give --words once and --template once at most")
    return target, task, clozes[0], read_recipe(recipe, changes, task)[0]


def _written(target: Path, request: Request) -> str:
    use = f"temper fit {request.source.again} --recipe {quoted(target)} --model {quoted(request.model)}"
    return f"written: {target}; use it with  {use}"


def candidates(request: Request, task: Task) -> list[Cloze]:
    """A cloze for every template and every set of words; a mistake in one is told by its option."""
    words = [read_words(given, task) for given in request.words] or [()]
    return [_cloze(template, some, request.settings) for template in (request.templates or (None,)) for some in words]


def _cloze(template: str | None, words: Any, settings: Sequence[str]) -> Cloze:
    from tempering.codec import checked
    from tempering.framings.cloze import Cloze
    from tempering.overriding import Change, override
    from tempering.recipe import parse_settings

    made: Cloze = checked(Cloze, {"template": template, "words": words}, "prompts")
    changes = [Change(tuple(key.split(".")[1:]), value, key) for key, value in parse_settings(settings).items()]
    return override(made, changes) if changes else made


def read_words(given: str, task: Task) -> Any:
    """Label words as they are typed: ``terrible,great`` in the order of the labels, or ``negative=terrible|bad,positive=great``."""
    from tempering.framings.gaps.poles import HIGH, LOW

    classes: tuple[Any, ...] = (LOW, HIGH) if task.kind == "regression" else task.labels
    parts = [part.strip() for part in given.split(",") if part.strip()]
    named = [part.partition("=") for part in parts if "=" in part]
    if named and len(named) < len(parts):
        raise RecipeError(f"--words {given!r}: name every label or none, as in  negative=terrible,positive=great")
    if not named:
        if len(parts) != len(classes):
            order = ", ".join(map(str, classes))
            raise RecipeError(f"--words {given!r}: expected a word for each of {order}, in this order, found {len(parts)}")
        return tuple((label, tuple(part.split("|"))) for label, part in zip(classes, parts, strict=True))
    known = {str(label): label for label in classes}
    if odd := [name.strip() for name, _, _ in named if name.strip() not in known]:
        raise RecipeError(f"--words {given!r}: {odd[0]!r} is no label of the data; its labels are {', '.join(known)}")
    if bare := [name for name in known if name not in {name.strip() for name, _, _ in named}]:
        raise RecipeError(f"--words {given!r}: no word for {bare[0]!r}; give one for each of {', '.join(known)}")
    return tuple((known[name.strip()], tuple(said.split("|"))) for name, _, said in named)


def _task(request: Request) -> Task:
    """The task without its test rows: prompts are never chosen on them."""
    task = request.source.task(request.seed)
    for note in task.notes:
        tell(note)
    return dataclasses.replace(task, test=None)


def _typed(request: Request) -> dict[str, str]:
    """The templates that stand in files, and how the user named them: what a file holds may be many lines."""
    from tempering.framings.cloze import readable
    from tempering.framings.templates.reading import FILES
    from tempering.recipe import parse_settings

    more = parse_settings(request.settings).get("framing.template", ())
    named = (*request.templates, *([more] if isinstance(more, str) else more))
    return {readable(one): one for one in named if str(one).startswith(tuple(FILES))}


def _plain(scored: Sequence[Scored]) -> list[dict[str, Any]]:
    return [s.as_dict() for s in scored]


def _notes(event: dict[str, Any]) -> None:
    if event["event"] == "note":
        tell(event["text"])
