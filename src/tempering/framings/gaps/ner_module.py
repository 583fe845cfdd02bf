"""`ClozeNER` at run time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tempering.contracts import Example, Kind, Prediction, Prompt, Rendered, Scores, Span
from tempering.errors import DataError
from tempering.framings.around import Around
from tempering.framings.gaps.candidates import Sentence, SpanWalk, Stretch, apart, how_many, speaks_for, stretches
from tempering.framings.gaps.cloze_module import ClozeModule
from tempering.framings.spans.windows import Offsets, ranges
from tempering.framings.templates.laying import size
from tempering.framings.templates.pieces import Field
from tempering.framings.token_head import words_of
from tempering.learner import Learner
from tempering.tags import OUTSIDE, Entity, entities, scheme_of, types_of, written

if TYPE_CHECKING:
    from tempering.backbone import Backbone
    from tempering.framings.cloze import Cloze
    from tempering.framings.cloze_ner import ClozeNER

NOTHING: Stretch = (0, 0)  # what a text without words is asked about: nothing comes of it
TEXT, SPAN = "text", "span"
_CHUNK = 2048  # prompts that are made at once


@dataclass(frozen=True)
class SpanTask:
    """The task of naming one stretch: class 0 is "no entity", the others are the types."""

    labels: tuple[str, ...]
    name: str = "spans"
    kind: ClassVar[Kind] = "classification"
    train: ClassVar[tuple[Example, ...]] = ()

    def target(self, label: Any) -> int:
        """The class of a label."""
        return self.labels.index(label)


class ClozeNERModule(Around):
    """All weights are those of the cloze, ``cloze``, which names one stretch of words at a time. A row is a stretch."""

    windows = True
    walks = True
    smooths = True
    kind: Kind = "tagging"

    def __init__(self, value: ClozeNER, cloze: Cloze, task: Any, backbone: Backbone) -> None:
        super().__init__()
        self.value = value
        self.labels = tuple(task.labels)
        self.scheme = scheme_of(self.labels)
        self.classes = (OUTSIDE, *types_of(self.labels))
        self.offsets = Offsets.of(backbone, value.max_length, None, "cloze_ner")
        self.cloze = ClozeModule(cloze, SpanTask(self.classes), backbone)
        self.reads_lm_head, self.notes = self.cloze.reads_lm_head, self.cloze.notes
        named = [p.name for p in self.cloze.text.template.skeleton() if isinstance(p, Field)]
        self._texts, self._spans = named.count(TEXT), named.count(SPAN)
        self._own = size(self.cloze.text.parts([Example(("", ""))])[0])  # tokens of the template itself

    def sentences(self, examples: Sequence[Example]) -> list[Sentence]:
        """The texts of ``examples`` with the tokens of their words and, where they are tagged, their entities."""
        for example in examples:
            if len(example.texts) != 1:
                raise DataError(f"row {example.row}: expected one text to find entities in, found {len(example.texts)}")
        found = self.offsets.tokens([e.texts[0] for e in examples])
        return [self._sentence(e, len(ids), offsets) for e, (ids, offsets) in zip(examples, found, strict=True)]

    def _sentence(self, example: Example, total: int, offsets: Sequence[tuple[int, int]]) -> Sentence:
        words = words_of(example)
        known = None if example.label is None else {(x.first, x.last): self.classes.index(x.type) for x in entities(example.label)}
        return Sentence(example.texts[0], tuple(words), tuple(ranges(offsets, words)), total, example.row, known)

    def render(self, examples: Sequence[Example], support: Sequence[Example], rng: np.random.Generator) -> list[list[Prompt]]:
        """A prompt for every stretch of up to ``max_span`` words; a text without words has one of weight 0.

        With ``support`` (training) one prompt a text that holds its `Sentence` only: `walk` makes prompts of those that are trained on.
        """
        found = self.sentences(examples)
        if support:
            return [[Prompt((), weight=float(bool(s.words)), extra=s)] for s in found]
        asked = [(s, x) for s in found for x in stretches(len(s.words), self.value.max_span) or [NOTHING]]
        made = iter([p for at in range(0, len(asked), _CHUNK) for p in self._laid(asked[at : at + _CHUNK])])
        return [[next(made) for _ in range(max(1, how_many(len(s.words), self.value.max_span)))] for s in found]

    def _laid(self, asked: Sequence[tuple[Sentence, Stretch]]) -> list[Prompt]:
        shown = [self.shown(sentence, stretch) for sentence, stretch in asked]
        made = [self.cloze.prompt(laid, e) for laid, e in zip(self.cloze.text.encode(shown), shown, strict=True)]
        return [
            Prompt(p.input_ids, p.token_type_ids, p.target, float(x != NOTHING), p.extra) for p, (_, x) in zip(made, asked, strict=True)
        ]

    def shown(self, sentence: Sentence, stretch: Stretch) -> Example:
        """What the template is filled with for a stretch: the text, or what of it around the stretch fits, and the stretch itself."""
        known = sentence.entities
        label = None if known is None else self.classes[known.get(stretch, 0)]
        if stretch == NOTHING:
            return Example((sentence.text if sentence.total <= self.cloze.text.room else "", ""), label, sentence.row)
        return Example((sentence.around(stretch, self._room(sentence, stretch)), sentence.says(stretch)), label, sentence.row)

    def _room(self, sentence: Sentence, stretch: Stretch) -> int:
        """Tokens of the text that fit beside the stretch."""
        return (self.cloze.text.room - self._own - self._spans * sentence.size(stretch)) // max(1, self._texts)

    def _size(self, sentence: Sentence, stretch: Stretch) -> int:
        """Tokens that the text takes in a prompt. Not those of the stretch: entities are short, and batches would be of one class."""
        return self._texts * min(sentence.total, self._room(sentence, stretch))

    def walk(self, prompts: Sequence[Prompt]) -> SpanWalk:
        """The entities of all texts, and other stretches drawn from them. Texts without a single entity are a `DataError`."""
        found = self._walk([p.extra for p in prompts])
        if not found.true:
            raise DataError(
                f"cloze_ner: expected training rows with entities of at most {self.value.max_span} words, found none in {len(prompts)}"
                " rows; give rows with entities, or a larger max_span"
            )
        return found

    def _walk(self, sentences: Sequence[Sentence]) -> SpanWalk:
        return SpanWalk(sentences, lambda s, x: self._laid([(s, x)])[0], self._size, self.value.max_span, self.value.negatives)

    def costs(self, examples: Sequence[Example]) -> str:
        """How many prompts an epoch and a prediction make of ``examples``."""
        most = self.value.max_span
        said = f"a prediction makes one of every stretch of up to {most} words"
        if not examples:
            return f"{said}, {most} n - {most * (most - 1) // 2} for a text of n >= {most} words"
        found = self.sentences(examples)
        walk, every = self._walk(found), [how_many(len(s.words), most) for s in found]
        said = f"{said}, {sum(every) / len(every):.0f} a text on average and {max(every)} at most"
        return f"{len(walk):,} an epoch, of {len(walk.true):,} entities and {walk.share:,} other stretches of words; {said}"

    def length_hint(self, lengths: Sequence[int], limit: int) -> int:
        """The longest prompt for rows of so many tokens: the text, the template's own words, a stretch of it."""
        return min(limit, max(1, self._texts) * max(lengths) + self._own + self.value.max_span) if lengths else limit

    def trunk_key(self) -> str:
        """The cloze's, and how long a stretch may be. (Not used: stretches are drawn anew.)"""
        return f"cloze_ner max_span={self.value.max_span} {self.cloze.trunk_key()}"

    def combine(self, asked: Rendered, scores: Scores) -> list[Prediction]:
        """Tags, entities in characters and chances of every word, read off the stretches of each text."""
        chances = scores.only.logits.detach().double().mean(0).softmax(-1).split(list(asked.counts))
        return [self._prediction(words_of(e), mine.cpu().numpy()) for e, mine in zip(asked.examples, chances, strict=True)]

    def _prediction(self, words: Sequence[tuple[int, int]], chances: np.ndarray) -> Prediction:
        found = stretches(len(words), self.value.max_span)
        taken = apart(found, chances[: len(found)])
        types = [self.classes[int(chances[i].argmax())] for i in taken]
        tags = written([Entity(t, *found[i]) for t, i in zip(types, taken, strict=True)], len(words), self.scheme)
        said = (
            Span(words[found[i][0]][0], words[found[i][1] - 1][1], t, float(chances[i].max())) for t, i in zip(types, taken, strict=True)
        )
        speakers = speaks_for(len(words), found, chances, taken)
        each = tuple(self._each(w, *found[i], chances[i]) for w, i in enumerate(speakers))
        return Prediction(tags, {}, tuple(said), each)

    def _each(self, word: int, first: int, last: int, chances: np.ndarray) -> dict[Any, float]:
        """What a stretch says of one of its words: the chance of a type is that of the tag which the word would have in it."""
        found: dict[Any, float] = dict.fromkeys(self.labels, 0.0) | {OUTSIDE: float(chances[0])}
        for type_, chance in zip(self.classes[1:], chances[1:], strict=True):
            tag = written([Entity(type_, first, last)], last, self.scheme)[word]
            found[tag] = float(chance)
        return found

    def prepare(self, learner: Learner, examples: Sequence[Example], rng: np.random.Generator) -> None:
        """The verbalizer chooses from an epoch's stretches; entities that are too long to be found become a note."""
        found = self.sentences(examples)
        walk, most = self._walk(found), self.value.max_span
        self.cloze.prepare(self._inner(learner), [self.shown(*walk.at(i)) for i in range(len(walk))], rng)
        every = sum(len(s.entities or {}) for s in found)
        long = f"{every - len(walk.true)} of {every} training entities have more than max_span={most} words: neither learned nor found"
        self.notes = (*self.cloze.notes, *([long] if every > len(walk.true) else []))
        if examples:
            self.notes = (*self.notes, f"prompts: {self.costs(examples)}")

    def finish(self, learner: Learner, examples: Sequence[Example], rng: np.random.Generator) -> None:
        """The verbalizer's own last step, on an epoch's stretches."""
        walk = self._walk(self.sentences(examples))
        self.cloze.finish(self._inner(learner), [self.shown(*walk.at(i)) for i in range(len(walk))], rng)

    def _inner(self, learner: Learner) -> Learner:
        """The same model under the cloze alone, to which a stretch with its text is an example."""
        return Learner(learner.backbone, self.cloze, learner.tuning).train(learner.training)

    def keep(self) -> dict[str, Any]:
        """What the cloze keeps."""
        return self.cloze.keep()

    def recall(self, kept: dict[str, Any]) -> None:
        """Give it back to the cloze."""
        self.cloze.recall(kept)
