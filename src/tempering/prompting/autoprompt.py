"""AutoPrompt as a whole: label words if asked for, trigger words by gradient, and a recipe with the template that was found."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from tempering.backbone import Backbone
from tempering.errors import RecipeError
from tempering.framings.cloze import Cloze
from tempering.framings.gaps import label_words
from tempering.framings.templates import plain
from tempering.framings.templates.pieces import Soft, Template
from tempering.framings.templates.reading import parse
from tempering.framings.verbalizers.auto_words import AutoWords
from tempering.framings.verbalizers.manual import Manual
from tempering.prompting.scoring import check_kind, rows_on, score
from tempering.prompting.search import Search
from tempering.prompting.selecting import begun, with_cloze
from tempering.prompting.sketches import in_fields
from tempering.prompting.trigger_search import By, find_triggers, replace_slots
from tempering.prompting.trigger_search import Settings as Iterating
from tempering.prompting.wording import with_words
from tempering.recipe import Recipe
from tempering.registry import name_of
from tempering.tasks.task import Task
from tempering.train.progress import Listener, silent

SLOTS = {1: "{text} {soft:3} {mask}.", 2: "{text} {mask} {soft:4} {text_pair}"}  # of the paper's runs on SST-2 and on NLI
BARE = Cloze()
BATCH = 24  # rows in one pass, as in the reference's runs on SST-2


@dataclass(frozen=True)
class Settings:
    """Of the search: ``iterations`` swaps are tried, each of ``candidates`` tokens on ``rows`` training rows drawn anew.

    The reference takes 180, 100 and 720 on SST-2. ``by`` says what a swap must raise: accuracy, or minus the loss, which moves by less
    than a row. With ``auto_words`` the label words are found first, as AutoPrompt finds them.
    """

    candidates: int = 100
    rows: int = 100
    iterations: int = 50
    auto_words: bool = False
    by: By = "accuracy"

    @property
    def iterating(self) -> Iterating:
        """Rows as batches of `BATCH` at most, of equal size."""
        parts = -(-self.rows // BATCH)
        return Iterating(self.candidates, accumulation=parts, batch_size=-(-self.rows // parts), iterations=self.iterations, by=self.by)

    @property
    def readings(self) -> int:
        """Rows that the model reads at most, development rows aside; one pass in (candidates + 2) goes backward too."""
        one = self.iterating
        return self.iterations * (self.candidates + 2) * one.accumulation * one.batch_size


def find_autoprompt(
    task: Task,
    model: str,
    cloze: Cloze = BARE,
    settings: Settings = Settings(),
    recipe: Recipe | str = "cloze-zero-shot",
    seed: int = 0,
    listener: Listener = silent,
) -> Search:
    """Search the words for the ``{soft:n}`` slots of the template of ``cloze`` (`find_triggers`), and put them into ``recipe``.

    What ``cloze`` leaves at its default is as in the cloze of ``recipe``; without a template it is that of the paper. Training rows decide
    on swaps, development rows on which words are kept; the test split is never read. Several words a class count together, by the sum of
    their probabilities.
    """
    check_kind(task)
    if task.kind != "classification":
        raise RecipeError(f"{task.name} is of kind {task.kind}: AutoPrompt searches words that tell classes apart; search by method fill")
    recipe, task = Recipe.load(recipe), dataclasses.replace(task, test=None)
    own = begun(recipe, cloze)
    template = own.template or in_fields(SLOTS[len(task.train.examples[0].texts)], own.fields)
    cloze = dataclasses.replace(own, template=template, verbalizer=Manual("sum_prob"))
    if not cloze.soft:
        raise RecipeError(
            f"template {str(cloze.first)!r} has no slots to search words for; write {{soft:3}} where three of them go, as in  {SLOTS[1]}"
        )
    backbone, notes = Backbone.load(model, seed), list[str]()
    if settings.auto_words:
        found, notes = with_words(replace_slots(cloze), task, backbone, AutoWords("autoprompt"), seed)
        cloze = dataclasses.replace(cloze, words=found.words)
    if own.verbalizer not in (Manual(), cloze.verbalizer):
        notes.append(f"label words are read as the search reads them, and not by {name_of(own.verbalizer)[1]} as in the recipe")
    words = tuple(label_words.resolved(cloze.words, task, cloze.first, cloze.templates_for(task, backbone)[0].choices).items())
    cloze = dataclasses.replace(cloze, words=words)
    triggers = find_triggers(task, backbone, cloze, settings.iterating, seed, listener)
    swaps = f"{len(triggers.accepted)} of {settings.iterations} swaps taken"
    notes.append(f"the words of the template were searched by gradient ({swaps}) and chosen on {len(task.dev or ())} development rows")
    if triggers.empty:
        notes.append(f"{triggers.empty} of {len(triggers.ids)} slots were never swapped and are left out")
    if not triggers.exact:
        notes.append("as text the words found are other tokens than those searched, so that the template may score a little differently")
    made = dataclasses.replace(cloze, template=triggers.template)
    rows = rows_on(task, "dev", len(task.dev or ()), seed)
    scored = tuple(score(one, task, backbone, rows, seed) for one in (made, _without(cloze)))
    filled = with_cloze(recipe, made, name="found-triggers", description=f"{'; '.join(notes)}.")
    return Search(filled, scored, (), tuple(notes), settings.by)


def _without(cloze: Cloze) -> Cloze:
    """The cloze without its slots, to compare with."""
    pieces = tuple(piece for piece in parse(str(cloze.first)).skeleton() if not isinstance(piece, Soft))
    return dataclasses.replace(cloze, template=plain.write(Template(pieces)))
