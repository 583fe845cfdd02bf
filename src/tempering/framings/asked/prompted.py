"""What framings share that put answered examples before a query: which ones, in which words, and how much of it fits."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from tempering.contracts import Batch, Example, Kind, Prediction, Prompt, Scores
from tempering.errors import RecipeError
from tempering.framings.asked.asking import Asked, Reader
from tempering.framings.asked.drawing import check_room, check_texts, drawn, drawn_by_class, fresh_head
from tempering.framings.asked.prompt_text import FORMATS, Pattern, Prompting, label_words, unnamed
from tempering.framings.module import FramingBase
from tempering.framings.output_head import language_head
from tempering.framings.text import pad, tensors

if TYPE_CHECKING:
    from tempering.backbone import Backbone
    from tempering.learner import Learner


class PromptedModule(FramingBase):
    """Queries with demonstrations before them. Weights: ``bias`` [classes] on the log-probabilities, zero unless a stage trains it.

    ``pool`` holds the training rows that may be shown, ``contexts`` the numbers of those that are, in order, a query being asked under
    each of the contexts.
    """

    method: ClassVar[str] = ""
    deterministic = True
    reads_lm_head = True
    kinds: ClassVar[tuple[Kind, ...]] = ("classification",)

    def __init__(self, value: Prompting, task: Any, backbone: Backbone, back: bool = False) -> None:
        super().__init__()
        self.reader = Reader.of(backbone, self.method, value.max_length, value.cache)
        if task.kind not in self.kinds:
            raise RecipeError(f"{self.method} cannot serve a task of kind {task.kind!r}: it serves {' and '.join(self.kinds)}; use head")
        table: Any = backbone.embeddings.weight
        language_head(backbone).requires_grad_(bool(table.requires_grad))  # it goes with the matrix it is tied to
        self.kind: Kind = task.kind
        self.labels = tuple(task.labels)
        self.value, self.back = value, back
        self.pool: tuple[Example, ...] = ()
        self.contexts: list[tuple[int, ...]] = [()]
        self.asked, self.fewer, self.shorter = 0, 0, 0
        self._target = task.target
        self._read_template(value.template or self._plain(task))
        self.words = label_words(value.words, self.labels, FORMATS.get(value.template or ""))
        if next(iter(task.train), None) is not None:  # a plan without data has labels that nobody gave
            self.reader.check_words([word for found in self.words for word in found], self.method)
        self.bias = nn.Parameter(torch.zeros(len(self.answers) or 1))

    @property
    def answers(self) -> tuple[Any, ...]:
        """What is predicted, in the order of the scores."""
        return self.labels

    def _plain(self, task: Any) -> str:
        """The plain format, for one text or two as the task has."""
        first = next(iter(task.train), None)
        pair = first is not None and len(first.texts) == 2
        return ("channel" if self.back else "plain") + ("_pair" if pair else "")

    def _read_template(self, name: str) -> None:
        found = FORMATS.get(name)
        self.pattern = Pattern.of(found.template if found else name)
        self.instruction = (found.instruction if found else "") if self.value.instruction is None else self.value.instruction
        if self.back == self.pattern.answer_last:
            order, need = ("after", "before") if self.back else ("before", "last, after")
            raise RecipeError(
                f"{self.method}: template {self.pattern.source!r} has a text {order} {{answer}}, but scoring"
                f" {'channel' if self.back else self.method} needs the answer {need} every text; move {{answer}} there"
            )

    def prepare(self, learner: Learner, examples: Sequence[Example], rng: np.random.Generator) -> None:
        """Choose the demonstrations from the training rows, check that they fit, and put the first full prompt into the record."""
        check_texts(examples, self.pattern)
        self._choose(learner, [e for e in examples if e.label is not None], rng)
        check_room(self)
        self.notes = (*fresh_head(learner.backbone), *unnamed(self.instruction, self.words, self.labels))
        if examples:
            learner.record["prompt"] = self.text_of(examples[0])
            self.notes += (f"the prompt of the first row: {learner.record['prompt']!r}",)
            learner.record["demonstrations"] = [e.row for e in self.shown_rows()]

    @abstractmethod
    def _choose(self, learner: Learner, examples: Sequence[Example], rng: np.random.Generator) -> None:
        """Fill ``pool`` and ``contexts``."""

    def draw(self, examples: Sequence[Example], rng: np.random.Generator) -> tuple[int, ...]:
        """Numbers of ``shots`` rows of ``examples`` in random order, in all or of each class."""
        if not self.value.per_class:
            return drawn(len(examples), self.value.shots, rng, self.method)
        return drawn_by_class([self._target(e.label) for e in examples], self.labels, self.value.shots, rng, self.method)

    def shown_rows(self) -> list[Example]:
        """Every row that some context shows, each once."""
        return [self.pool[i] for i in sorted({i for context in self.contexts for i in context})]

    def render(self, examples: Sequence[Example], support: Sequence[Example], rng: np.random.Generator) -> list[list[Prompt]]:
        """One prompt an example and context. A demonstration that is the query itself is left out."""
        check_texts(examples, self.pattern)
        shown = self.shown_for(examples)
        return [[self.prompt_of(e, found, c) for c, found in enumerate(mine)] for e, mine in zip(examples, shown, strict=True)]

    def shown_for(self, examples: Sequence[Example]) -> Iterator[list[tuple[int, ...]]]:
        """The demonstrations of each query, a tuple a context."""
        texts = [e.texts for e in self.pool]
        for example in examples:
            same = {i for i, found in enumerate(texts) if found == example.texts}
            yield [tuple(i for i in context if i not in same) for context in self.contexts]

    def prompt_of(self, example: Example, shown: tuple[int, ...], context: int) -> Prompt:
        """The query under one context, whose demonstrations are ``shown``."""
        asked = self._fitting(example.texts, shown, context, self.answers_of(example))
        return Prompt(asked.ids, None, self.index_of(example), extra=asked)

    def index_of(self, example: Example) -> int | None:
        """The class of ``example``, if it has a label."""
        return None if example.label is None else int(self._target(example.label))

    def _fitting(self, texts: Sequence[str], shown: tuple[int, ...], context: int, answers: Sequence[str]) -> Asked:
        """The query with as many demonstrations as fit: whole ones go, the farthest first; without any, the longest text is cut."""
        self.asked += 1
        found, kept, given = self._ask(texts, shown, context, answers), shown, tuple(texts)
        while found.length > self.reader.limit:
            if kept:
                kept = self._without_farthest(kept)
            else:
                given = self.reader.shortened(given, found.length - self.reader.limit)
            found = self._ask(given, kept, context, answers)
        self.fewer += kept != shown
        self.shorter += given != tuple(texts)
        return found

    def _without_farthest(self, shown: tuple[int, ...]) -> tuple[int, ...]:
        """Without the first demonstration; with ``per_class``, without the first of each class, so that all keep the same count."""
        if not self.value.per_class:
            return shown[1:]
        first: dict[Any, int] = {}
        for place, i in enumerate(shown):
            first.setdefault(self._target(self.pool[i].label), place)
        return tuple(i for place, i in enumerate(shown) if place not in first.values())

    def _ask(self, texts: Sequence[str], shown: tuple[int, ...], context: int, answers: Sequence[str]) -> Asked:
        before, after = self.pattern.asked(texts)
        return self.reader.ask(self.fixed(shown) + before, answers, after, shown, context)

    def answers_of(self, example: Example) -> list[str]:
        """The answers that are scored for ``example``: the words of every class."""
        return [word for found in self.words for word in found]

    def fixed(self, shown: Sequence[int]) -> str:
        """The text that stands before the query: instruction and demonstrations."""
        told = [self.pattern.filled(self.pool[i].texts, self.word_of(self.pool[i].label)) for i in shown]
        return "".join(part + self.value.separator for part in ([self.instruction] if self.instruction else []) + told)

    def word_of(self, label: Any) -> str:
        """How a demonstration says its label."""
        return self.words[int(self._target(label))][0]

    def text_of(self, example: Example) -> str:
        """The whole prompt of ``example`` in its first context, as text."""
        shown = next(self.shown_for([example]))[0]
        before, after = self.pattern.asked(example.texts)
        return self.fixed(shown) + before + ("<answer>" + after if self.reader.masked else "")

    def collate(self, prompts: Sequence[Prompt], rng: np.random.Generator) -> Batch:
        """The padded ids, by which prompts are told apart; what the model reads is in ``extra``. Targets if every row has one."""
        known = all(p.target is not None for p in prompts)
        targets = torch.tensor([p.target for p in prompts]) if known else None
        weights = torch.tensor([p.weight for p in prompts]) if any(p.weight != 1.0 for p in prompts) else None
        ids = tensors(pad(prompts, int(self.reader.tokenizer.pad_token_id or 0)))
        return Batch(ids, targets, weights, extra={"asked": [p.extra for p in prompts]})

    def part(self, batch: Batch, rows: slice) -> Batch:
        """Some of the rows, with what is asked in them."""
        extra = {"asked": batch.extra["asked"][rows]}
        return replace(super().part(replace(batch, extra={}), rows), extra=extra)

    def groups(self, batch: Batch) -> Iterator[tuple[list[int], list[Asked], str]]:
        """Rows of a batch that begin alike, with the text they begin with. Retrieved demonstrations are nobody else's."""
        found: dict[str, list[int]] = {}
        asked: list[Asked] = batch.extra["asked"]
        for i, one in enumerate(asked):
            found.setdefault(self.common_text(one), []).append(i)
        for text, rows in found.items():
            yield rows, [asked[i] for i in rows], text

    def common_text(self, asked: Asked) -> str:
        """What ``asked`` begins with that others begin with too."""
        return self.fixed(asked.shown) + self.pattern.opening

    def begun(self, prompt: Prompt) -> str:
        """Instruction and demonstrations, whose keys and values are kept for the queries after them."""
        return self.common_text(prompt.extra)

    def state_text(self) -> str:
        """Pattern, words and everything else that prompts depend on beside the data, for `trunk_key`."""
        return f"{self.value!r} pattern={self.pattern.source!r} words={self.words!r} limit={self.reader.limit}"

    def keep(self) -> dict[str, Any]:
        """The template, the rows that may be shown, and the contexts."""
        rows = [{"texts": list(e.texts), "label": e.label, "row": e.row} for e in self.pool]
        return {
            "template": self.pattern.source,
            "instruction": self.instruction,
            "pool": rows,
            "contexts": [list(c) for c in self.contexts],
        }

    def recall(self, kept: dict[str, Any]) -> None:
        """Take them back."""
        self.pattern, self.instruction = Pattern.of(kept["template"]), kept["instruction"]
        self.pool = tuple(Example(tuple(row["texts"]), row["label"], row["row"]) for row in kept["pool"])
        self.contexts = [tuple(context) for context in kept["contexts"]]

    def facts(self) -> dict[str, float]:
        """How many demonstrations a query has, and the shares of queries that had fewer of them or were cut, for want of room."""
        total = max(1, self.asked)
        shown = float(len(self.contexts[0]) if self.contexts else 0)
        return {"demonstrations": shown, "queries_with_fewer": self.fewer / total, "queries_cut": self.shorter / total}

    def decode(self, scores: Scores) -> list[Prediction]:
        """The likeliest answer, and the probability of each."""
        rows = scores.only.logits.detach().float().mean(0).softmax(-1)
        return [Prediction(self.answers[i], dict(zip(self.answers, row, strict=True))) for i, row in _best(rows)]


def _best(rows: Tensor) -> Iterator[tuple[int, list[float]]]:
    return zip(rows.argmax(-1).tolist(), rows.tolist(), strict=True)
