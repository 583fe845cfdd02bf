"""The whole search: label words if asked for, candidate templates, the best of them fine-tuned, and a recipe that holds what was found."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tempering.backbone import Backbone
from tempering.errors import ModelError, RecipeError
from tempering.framings.cloze import Cloze
from tempering.framings.gaps import label_words
from tempering.framings.templates.reading import parse
from tempering.framings.verbalizers.auto_words import AutoWords
from tempering.prompting.fillers import Filler, MaskFiller, SpanFiller
from tempering.prompting.scoring import Scored, built, check_kind, ranked, rows_on, score
from tempering.prompting.selecting import Tuned, begun, check_dev, deciding, fine_tuned, with_cloze
from tempering.prompting.sketches import FORMS, in_fields
from tempering.prompting.templates_search import search
from tempering.prompting.wording import best_words
from tempering.recipe import Recipe
from tempering.stages.checks import labelled
from tempering.stages.use import check_head
from tempering.tasks.metrics import check_metrics
from tempering.tasks.task import Task
from tempering.train.progress import Listener, silent

BARE = Cloze()
PER_CLASS = 16


@dataclass(frozen=True)
class Settings:
    """``candidates`` templates are written by beams of ``beam``, the ``finalists`` best zero-shot are fine-tuned, the best ``keep`` kept.

    At most ``rows`` training rows rank candidates untrained, and of these 16 a class (LM-BFF has as many) write them, since every step of
    the beam reads them again; fine-tuning reads all. ``beam`` is 100 for an encoder-decoder by default, as in the paper, and 10 for masks.
    ``filler`` names an encoder-decoder of the T5 kind; without it the masked language model itself fills masks. With ``auto_words`` as
    many assignments of label words are fine-tuned first, under the template given. The paper fine-tunes all 100 candidates.
    """

    candidates: int = 100
    beam: int | None = None
    finalists: int = 10
    keep: int = 1
    rows: int = 100
    filler: str | None = None
    auto_words: bool = False


@dataclass(frozen=True)
class Search:
    """What was found: the ``recipe``, all candidates with their zero-shot scores, those that were fine-tuned (of templates ``tuned``, of
    label words ``worded``) by the ``metric`` of development rows, and ``notes``.
    """

    recipe: Recipe
    candidates: tuple[Scored, ...]
    tuned: tuple[Tuned, ...]
    notes: tuple[str, ...]
    metric: str
    worded: tuple[Tuned, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        scored, tuned, worded = ([found.as_dict() for found in some] for some in (self.candidates, self.tuned, self.worded))
        return {
            "recipe": self.recipe.to_plain(),
            "candidates": scored,
            "tuned": tuned,
            "worded": worded,
            "metric": self.metric,
            "notes": list(self.notes),
        }


def find_prompts(
    task: Task,
    model: str,
    cloze: Cloze = BARE,
    settings: Settings = Settings(),
    recipe: Recipe | str = "cloze",
    seed: int = 0,
    listener: Listener = silent,
) -> Search:
    """Search templates for ``task``; words are those of ``cloze``, or found before by `AutoWords` under its template.

    ``recipe`` must hold a cloze in its last stage: what ``cloze`` leaves at its default is as there. Candidates are fine-tuned, and the
    best is put, where that cloze stands (inside demonstrations, for one). Training rows write and rank the candidates of both,
    development rows choose among the fine-tuned: the test split is never read.
    """
    check_kind(task)
    recipe = Recipe.load(recipe)
    task, backbone = dataclasses.replace(task, test=None), Backbone.load(model, seed)
    cloze = _settled(begun(recipe, cloze), task, backbone)
    filler, how = _filler(settings, backbone, seed)
    _check(cloze, recipe, settings, task, backbone, seed)  # what cannot be is refused before anything is written or trained
    worded, notes = list[Tuned](), list[str]()
    if settings.auto_words:
        cloze, worded, notes = best_words(cloze, task, backbone, model, settings.finalists, recipe, seed, listener)
    words = label_words.resolved(cloze.words, task, cloze.first, cloze.templates_for(task, backbone)[0].choices)
    rows = rows_on(task, "train", settings.rows, seed)
    few = tuple(rows[: PER_CLASS * max(2, len(task.labels))])
    read = dataclasses.replace(task, train=dataclasses.replace(task.train, examples=few))
    written = search(read, words, filler, settings.candidates)
    if not written:
        raise RecipeError(f"no valid template was found by {how}; search with a larger --beam, or write one and give it by --template")
    listener({"event": "note", "text": f"{len(written)} templates written by {how}"})
    bare = dataclasses.replace(cloze, words=tuple(words.items()))
    tried = [dataclasses.replace(bare, template=t) for t in cloze.templates]
    tried += _readable([dataclasses.replace(bare, template=in_fields(c.template, cloze.fields)) for c in written], task, backbone, listener)
    scored = ranked([score(one, task, backbone, rows, seed) for one in dict.fromkeys(tried)], task)
    finalists = [dataclasses.replace(bare, template=s.templates[0]) for s in scored[: settings.finalists]]
    known = worded[:1] if len(cloze.templates) == 1 else []  # an ensemble's score is that of none of its templates
    tuned = _tuned(finalists, known, recipe, task, model, seed, listener) if len(finalists) > settings.keep else []
    best = [str(one.first) for one in ([t.cloze for t in tuned] or finalists)[: settings.keep]]
    metric = deciding(recipe, task)
    notes.append(f"templates were written by {how} and chosen on {len(task.dev or ())} development rows by {metric}")
    made = with_cloze(recipe, dataclasses.replace(bare, template=tuple(best)), name="found-prompts", description=_words(notes))
    return Search(made, tuple(scored), tuple(tuned), tuple(notes), metric, tuple(worded))


def _settled(cloze: Cloze, task: Task, backbone: Backbone) -> Cloze:
    """``cloze`` with a template, the generic one where it has none, which competes with those that are written."""
    if cloze.templates:
        return cloze
    made = cloze.settled(task, backbone)
    return dataclasses.replace(made, template=in_fields(str(made.first), made.fields))


def _check(cloze: Cloze, recipe: Recipe, settings: Settings, task: Task, backbone: Backbone, seed: int) -> None:
    """Refuse what scoring and fine-tuning would refuse once the templates are written."""
    if settings.finalists > max(1, settings.keep) or (settings.auto_words and settings.finalists > 1):
        check_dev(task)
    check_metrics([deciding(recipe, task)], task.kind, task.labels)
    with_cloze(recipe, cloze).check(labelled(task))
    first = dataclasses.replace(cloze, verbalizer=AutoWords(), words=()) if settings.auto_words else cloze
    if built(first, task, backbone, seed).framing.reads_lm_head:
        check_head(backbone)
    if backbone.layout.kind == "decoder" and "after" not in FORMS[len(task.train.examples[0].texts)]:
        raise ModelError(
            f"{backbone.source} ({backbone.layout.family}) reads from left to right, so that the mask must stand last, and templates that"
            " are written for pairs have the second text behind it; choose a masked language model such as roberta-base"
        )


def _readable(written: Sequence[Cloze], task: Task, backbone: Backbone, listener: Listener) -> list[Cloze]:
    """Those of ``written`` that the model can be asked by: one that reads from left to right sees nothing behind its mask."""
    found, why = list[Cloze](), list[str]()
    for one in written:
        try:
            built(one, task, backbone)
        except (ModelError, RecipeError) as wrong:
            why.append(str(wrong))
        else:
            found.append(one)
    if not found:
        raise RecipeError(f"none of {len(written)} templates that were written can be used; try more --candidates; the first: {why[0]}")
    if why:
        listener({"event": "note", "text": f"{len(why)} of {len(written)} templates cannot be used and are left out; the first: {why[0]}"})
    return found


def _tuned(
    finalists: Sequence[Cloze], known: Sequence[Tuned], recipe: Recipe, task: Task, model: str, seed: int, listener: Listener
) -> list[Tuned]:
    """``finalists`` fine-tuned, best on dev first. What is ``known`` since its label words were found competes and is not tuned again."""
    have = {str(parse(one.template)) for one in known}
    rest = [one for one in finalists if str(parse(str(one.first))) not in have]
    return ranked([*known, *fine_tuned(rest, recipe, task, model, seed, listener)], task, deciding(recipe, task))


def _filler(settings: Settings, backbone: Backbone, seed: int) -> tuple[Filler, str]:
    """What writes templates, and what to call it."""
    if settings.filler is not None:
        return SpanFiller(Backbone.load(settings.filler, seed), settings.beam or 100), f"{settings.filler} (span filling, as LM-BFF does)"
    return MaskFiller(
        backbone, settings.beam or 10
    ), f"{backbone.source} itself, filling masks (no encoder-decoder was named: not LM-BFF's T5)"


def _words(notes: Sequence[str]) -> str:
    return f"{'; '.join(notes)}."
