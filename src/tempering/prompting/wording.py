"""Label words found by the model, before templates are searched: by its own word alone, or the best of several once fine-tuned."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from tempering.backbone import Backbone
from tempering.errors import RecipeError
from tempering.framings.cloze import Cloze
from tempering.framings.verbalizers.auto_words import AutoWords, AutoWordsModule
from tempering.framings.verbalizers.manual import Manual
from tempering.framings.verbalizers.words import WordCoder
from tempering.prompting.scoring import untrained
from tempering.prompting.selecting import Tuned, fine_tuned
from tempering.recipe import Recipe
from tempering.tasks.task import Task
from tempering.train.progress import Listener

WAYS = {
    "lm_bff": "by zero-shot training accuracy",
    "values": "by Pearson's r of what they say zero-shot of the training rows",
    "petal": "by likelihood ratio",
    "autoprompt": "by a linear map of the states at the mask",
}


def with_words(cloze: Cloze, task: Task, backbone: Backbone, how: AutoWords, seed: int) -> tuple[Cloze, list[str]]:
    """The cloze with the label words that ``how`` finds by the untrained model, and a note of them."""
    verbalizer = _chosen(cloze, task, backbone, how, seed)
    word = verbalizer.coder.word
    found = {label: tuple(word(ids[0]) for ids in row) for label, row in zip(verbalizer.labels, verbalizer.table, strict=True)}
    return dataclasses.replace(cloze, words=tuple(found.items())), [f"label words chosen {WAYS[how.method]}: {found}"]


def best_words(
    cloze: Cloze, task: Task, backbone: Backbone, model: str, count: int, recipe: Recipe, seed: int, listener: Listener
) -> tuple[Cloze, list[Tuned], list[str]]:
    """The cloze with the label words that are best on dev once the model is fine-tuned with them, all that were tried, and a note.

    Tried are the ``count`` assignments of words that are best untrained on the training rows (Gao et al. 2021, section 5.1, which tries
    100). One whose words the tokenizer reads otherwise than they were found is passed over.
    """
    verbalizer = _chosen(cloze, task, backbone, AutoWords(), seed)
    if not getattr(cloze.verbalizer, "needs_words", True):  # it would find its own, and not read these
        cloze = dataclasses.replace(cloze, verbalizer=Manual())
    coder, labels = verbalizer.coder, verbalizer.labels
    read = [found.ids for found in verbalizer.found if _reads(found.ids, coder)]
    tried = [
        dataclasses.replace(cloze, words=tuple((c, (coder.word(i),)) for c, i in zip(labels, ids, strict=True))) for ids in read[:count]
    ]
    if not tried:
        raise RecipeError("--auto-words: no words were found that the tokenizer reads back as they are; give some by --words")
    tuned = fine_tuned(tried, recipe, task, model, seed, listener, "words") if len(tried) > 1 else []
    best = tuned[0].cloze if tuned else tried[0]
    ranked = f", then on {len(task.dev or ())} development rows among the best {len(tuned)}, fine-tuned" if tuned else ""
    way = WAYS["values" if task.kind == "regression" else "lm_bff"]
    return best, tuned, [f"label words chosen {way}{ranked}: {Tuned(best, {}, 0.0).words}"]


def _reads(ids: Sequence[int], coder: WordCoder) -> bool:
    return all(coder.encode(coder.word(i)) == (i,) for i in ids)


def _chosen(cloze: Cloze, task: Task, backbone: Backbone, how: AutoWords, seed: int) -> AutoWordsModule:
    """The verbalizer once it has chosen, by the untrained model."""
    found: AutoWordsModule = untrained(dataclasses.replace(cloze, verbalizer=how, words=()), task, backbone, seed).framing.verbalizer
    return found
