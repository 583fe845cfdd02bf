"""What scoring and writing share at run time: sources and targets as tokens, and batches of them."""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence
from operator import is_
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tempering.contracts import Batch, Example, Kind, Prediction, Prompt
from tempering.errors import RecipeError
from tempering.framings.module import FramingBase
from tempering.framings.output_head import ensure_output_head, output_matrix
from tempering.framings.templates.checking import unread
from tempering.framings.text import pad, tensors
from tempering.framings.wrapping import Wrapping
from tempering.framings.writing.cutting import cut_sources, cut_targets
from tempering.framings.writing.encoding import Parts
from tempering.framings.writing.source import NAMES, Source, fields_of
from tempering.framings.writing.states import end_id, output_head
from tempering.framings.writing.targets import Names, Sets, Targets, Values, example_of, targets_of

if TYPE_CHECKING:
    import numpy as np

    from tempering.backbone import Backbone
    from tempering.framings.text_to_text import TextToText
    from tempering.learner import Learner

CUE = "\nAnswer:"  # ends the source of a causal model, which would else go on with the source
TARGET = 128  # tokens of a target, where no more are asked for


class Writing(FramingBase, ABC):
    """Base of `LabelScorer` and `TextWriter`. It has no weights of its own: the output matrix is the backbone's (``backbone.lm_head``)."""

    deterministic = True
    reads_lm_head = True
    form = "text"

    def __init__(self, framing: TextToText, task: Any, backbone: Backbone) -> None:
        super().__init__()
        self.kind: Kind = task.kind
        self.labels = tuple(task.labels)
        self.framing = framing
        self.source_only = backbone.opened  # an encoder-decoder reads the source apart
        self.limit = limit = backbone.max_length
        self.room = min(framing.max_target_length or TARGET, limit if self.source_only else limit // 2)
        length = min(framing.max_source_length or limit, limit if self.source_only else limit - self.room)
        if length < 2 or self.room < 2:
            raise RecipeError(
                f"text_to_text: max_source_length and max_target_length leave {length} and {self.room} tokens of the {limit} that"
                f" {backbone.source} reads; give at least 2 to each"
            )
        cue = ("" if self.source_only else CUE) if framing.cue is None else framing.cue
        self.tokenizer = backbone.tokenizer
        self.source = Source(backbone.tokenizer, framing.source, cue, length, task.kind)
        self.targets: Targets = targets_of(task, dict(framing.words), framing.step)
        self.around = Wrapping.of(backbone.tokenizer, target=True)
        self.end, self.pad_id = end_id(backbone), int(backbone.tokenizer.pad_token_id or 0)
        output_head(backbone)
        self._check_words(task)
        texts = max((len(e.texts) for e in list(task.train)[:1]), default=0)
        note = unread(framing.source, fields_of(framing.source), NAMES, texts, "source") if framing.source else ""
        self.notes = (note,) if note else ()
        self._ready: tuple[Sequence[Example], list[Prompt]] | None = None  # prompts of the training rows, for whoever asks for them first

    def _check_words(self, task: Any) -> None:
        """Refuse words of classes that the tokenizer lacks, and targets of them that would lose their end."""
        names = self._names(task)
        if names is None:
            return
        for label, word in zip(names.labels, names.words, strict=True):
            if self.tokenizer.unk_token_id in self.bare(word) and self.tokenizer.unk_token_id != self.end:  # GPT-2 has one token for both
                raise RecipeError(
                    f"text_to_text.words: {word!r}, written for label {label!r}, is no word of this model's tokenizer"
                    f" ({self._shown(word)}); give it one that is, as in  {example_of(label)}"
                )
        rows = [e for e in (*task.train, *(task.dev or ())) if e.label is not None] if isinstance(self.targets, Sets) else ()
        most = self.limit if self.source_only else self.limit // 2
        for text in dict.fromkeys((*names.words, *map(self.targets.text, rows))):
            if (needed := len(self._whole(text))) > self.room:
                more = f"give max_target_length={needed}, or shorter words" if needed <= most else "give shorter words"
                raise RecipeError(
                    f"text_to_text: {text!r} takes {needed} tokens with the one that ends it ({self._shown(text)}), more than"
                    f" max_target_length={self.room}; {more}"
                )

    def _names(self, task: Any) -> Names | None:
        """The classes with their words; None without rows and given words, where labels only stand in for those of the data (a plan)."""
        names = self.targets.names if isinstance(self.targets, Sets) else self.targets
        return names if isinstance(names, Names) and (len(task.train) or self.framing.words) else None

    def _shown(self, text: str) -> str:
        return " ".join(map(str, self.tokenizer.convert_ids_to_tokens(self.bare(text))))

    def ids(self, text: str) -> list[int]:
        """The tokens of a target, the one that ends it last; a longer one than there is room for loses its end."""
        return self._fitted(self._whole(text))

    def _fitted(self, whole: list[int]) -> list[int]:
        return [*whole[:-1][: self.room - 1], self.end]

    def _whole(self, text: str) -> list[int]:
        given = [*self.around.before, *self.bare(text), *self.around.after] if self.source_only else self.bare(text)
        given = given[:-1] if given and given[-1] == self.end else given
        return [*given, self.end]

    def _cut(self, text: str) -> Parts:
        """A target: special tokens may stand in words that the recipe gives, and in no text of the data."""
        return self.source.encoder.parts(text) if self.framing.words else [text]

    def bare(self, text: str) -> list[int]:
        """All tokens of a target without those that begin and end every one."""
        return self.source.encoder.ids([self._cut(text)])[0] if self.source_only else self._after_cue(text)

    def _after_cue(self, text: str) -> list[int]:
        """What a text adds behind the cue: its tokens after the longest prefix that the two encodings share, a space before it."""
        encoder, (first, *rest) = self.source.encoder, self._cut(text)
        *before, last = encoder.parts(self.source.cue)
        alone, joined = encoder.ids([[*before, last], [*before, f"{last} {first}", *rest]])
        shared = next((i for i, (a, b) in enumerate(zip(alone, joined, strict=False)) if a != b), min(len(alone), len(joined)))
        if joined[shared:] and shared == len(alone):
            return joined[shared:]
        return encoder.ids([[f" {first}", *rest]])[0]

    def prepare(self, learner: Learner, examples: Sequence[Example], rng: np.random.Generator) -> None:
        """How many sources and targets of the rows lose an end becomes a note."""
        rows = self._measured(examples)
        self._ready = examples, [prompt for prompt, _, _ in rows]
        most = self.limit if self.source_only else self.limit - self.room
        sources, targets = [source for _, source, _ in rows], [target for _, _, target in rows]
        told = cut_sources(sources, self.source.length, most, self.framing.max_source_length is not None)
        self.notes += (*told, *cut_targets(targets, self.room, self.limit if self.source_only else self.limit // 2))

    def finish(self, learner: Learner, examples: Sequence[Example], rng: np.random.Generator) -> None:
        """Prompts that nobody asked for are not kept."""
        self._ready = None

    def render(self, examples: Sequence[Example], support: Sequence[Example], rng: np.random.Generator) -> list[list[Prompt]]:
        """One source an example, with its target where it has a label."""
        if self._ready is not None and len(self._ready[0]) == len(examples) and all(map(is_, self._ready[0], examples)):
            (_, made), self._ready = self._ready, None
            return [[prompt] for prompt in made]
        return [[prompt] for prompt, _, _ in self._measured(examples)]

    def _measured(self, examples: Sequence[Example]) -> list[tuple[Prompt, int, int]]:
        """The prompt of each example, and how many tokens its source and its target take when whole."""
        rows = zip(examples, self.source.measured(examples), strict=True)
        read = [(ids, source, (None, 0) if e.label is None else self.measured(e)) for e, (ids, source) in rows]
        return [(Prompt(ids, None, target), source, size) for ids, source, (target, size) in read]

    def target(self, example: Example) -> Any:
        """What a prompt carries as its target."""
        return self.measured(example)[0]

    def measured(self, example: Example) -> tuple[Any, int]:
        """The target, here the tokens of its text, and how many tokens the whole of it takes."""
        whole = self._whole(self.targets.text(example))
        return self._fitted(whole), len(whole)

    def inputs(self, prompts: Sequence[Prompt]) -> dict[str, Tensor]:
        """Sources padded on the right."""
        return tensors(pad(prompts, self.pad_id))

    def logits(self, backbone: Backbone, states: Tensor) -> Tensor:
        """[tokens, vocabulary]."""
        head = ensure_output_head(backbone)
        found: Tensor = head(states, output_matrix(head, backbone))[0]
        return found

    def trunk_key(self) -> str:
        """Template, cue and lengths."""
        made = self.source
        return f"text_to_text source={made.template!r} cue={made.cue!r} lengths={made.length}/{self.room} kind={self.kind}"

    def keep(self) -> dict[str, Any]:
        """The range of the training values."""
        return {"range": [self.targets.low, self.targets.high]} if isinstance(self.targets, Values) else {}

    def recall(self, kept: dict[str, Any]) -> None:
        """Take the range back."""
        if isinstance(self.targets, Values):
            self.targets.low, self.targets.high = kept["range"]

    def facts(self) -> dict[str, float]:
        """How much of what was written last could not be read as it stands, by reason."""
        return {why: float(count) for why, count in sorted(self.targets.missed.items())}

    def said(self, texts: Sequence[Sequence[tuple[str, float]]], examples: Sequence[Example]) -> list[Prediction]:
        """Predictions from the texts written for each example, best first, with their weights."""
        self.targets.missed.clear()
        found = []
        for written, example in zip(texts, examples, strict=True):
            best = self.targets.read(written[0][0], example)
            several = len(written) > 1 or self.framing.num_return_sequences > 1  # texts that were drawn alike are one
            chances: dict[Any, float] = dict.fromkeys(self.labels, 0.0) if self.kind == "classification" and several else {}
            for text, weight in written if several else ():
                label = text if self.kind in ("text", "tagging") else self.targets.read(text, example).label
                chances[label] = chances.get(label, 0.0) + weight
            found.append(Prediction(best.label, chances, best.spans, best.each))
        return found


def turned(batch: Batch, pad_id: int) -> dict[str, Tensor]:
    """Sources padded on the left instead, with their mask: how a causal model is given rows to go on from."""
    ids = batch.inputs["input_ids"]
    mask = batch.inputs.get("attention_mask", torch.ones_like(ids))
    order = mask.argsort(dim=1, stable=True)  # padding first, every text in its order
    return {"input_ids": ids.gather(1, order).masked_fill(mask.gather(1, order) == 0, pad_id), "attention_mask": mask.gather(1, order)}
