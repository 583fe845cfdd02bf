"""`Cloze` at run time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tempering.contracts import Batch, Example, Kind, Prediction, Prompt, Scores, Slab
from tempering.errors import DataError, RecipeError
from tempering.framings.gaps import label_words
from tempering.framings.gaps.poles import pole_losses, value_of
from tempering.framings.gaps.soft_slots import SOFT, VECTORS, SoftSlots
from tempering.framings.lm_head import random_head
from tempering.framings.losses import supervised_loss
from tempering.framings.module import FramingBase
from tempering.framings.output_head import language_head
from tempering.framings.templates import lm_bff
from tempering.framings.templates.checking import boundaries, check_causal, check_fields, check_labels, check_masks, unread
from tempering.framings.templates.coding import PieceCoder
from tempering.framings.templates.encoder import NAMES, TemplateEncoder
from tempering.framings.templates.laying import Laid, Places
from tempering.framings.text import pad, tensors
from tempering.framings.verbalizers.base import MASKS, class_scores, hidden_of
from tempering.framings.verbalizers.words import WordCoder

if TYPE_CHECKING:
    import numpy as np

    from tempering.backbone import Backbone
    from tempering.framings.cloze import Cloze
    from tempering.learner import Learner


class ClozeModule(FramingBase):
    """Weights: those of the ``verbalizer``, and ``soft.table`` [vectors, width] where the template holds trained vectors.

    The language-model head is the backbone's. Buffer: ``bounds`` [2] of the values of a regression task.
    """

    bounds: Tensor

    def __init__(self, cloze: Cloze, task: Any, backbone: Backbone) -> None:
        super().__init__()
        self.kind: Kind = task.kind
        self.labels = tuple(task.labels) if task.kind == "classification" else ()
        self.smooths = task.kind == "classification"
        self.reference_kl = cloze.reference_kl
        self.settled = cloze.settled(task, backbone)
        self._target: Callable[[Any], Any] = task.target
        templates = cloze.templates_for(task, backbone)
        needed = bool(getattr(cloze.verbalizer, "needs_words", True))
        self.words = label_words.resolved(cloze.words, task, cloze.first, templates[0].choices, needed)
        try:
            self.verbalizer = cloze.verbalizer.build(task, backbone, self.words)
        except RecipeError as wrong:  # a verbalizer does not know where its words stand
            raise RecipeError(f"template {str(templates[0])!r}: {wrong}") from None
        self.reads_lm_head = self.verbalizer.reads_head
        if self.reads_lm_head:
            language_head(backbone).requires_grad_(trains_matrices(backbone))
        self.texts = tuple(self._encoder(cloze, template, task, backbone) for template in templates)
        self.renders_anew = len(templates) > 1 and cloze.trains_on == "one"
        self.windows = len(templates) > 1 and cloze.trains_on == "all"
        self.notes = _notes(cloze, self.texts, backbone, self.reads_lm_head, _texts(task))
        if self.kind == "regression":
            self.register_buffer("bounds", torch.tensor(_bounds(cloze, task), dtype=torch.float32))

    @property
    def text(self) -> TemplateEncoder:
        """The way to ids of the only template, or of the first."""
        return self.texts[0]

    @text.setter
    def text(self, encoder: TemplateEncoder) -> None:
        self.texts = (encoder, *self.texts[1:])

    def _encoder(self, cloze: Cloze, template: Any, task: Any, backbone: Backbone) -> TemplateEncoder:
        """The template's way to ids, every check of it done."""
        if backbone.layout.kind == "decoder":
            check_causal(template, "cloze", backbone.source, backbone.layout.family)
        names = self.settled.fields or NAMES
        texts = _texts(task) or len(names)
        check_fields(template, (*names[:texts], *(name for name, _ in cloze.marks)))
        check_labels(template, len(self.words))
        masks = check_masks(template, self.verbalizer.masks)
        self.soft = SoftSlots(template.skeleton(), backbone, PieceCoder(backbone.tokenizer))
        coder = WordCoder.of(backbone)
        encoder = TemplateEncoder.of(
            template,
            backbone,
            cloze.length(),
            names=names,
            how=cloze.truncation,
            limits=cloze.limits or _limits(cloze),
            marks=cloze.marks,
            masks=masks,
            words=tuple(coder.encode(words[0]) for words in self.words.values()),
            vectors=self.soft.rows,
        )
        encoder.check()
        return encoder

    def render(self, examples: Sequence[Example], support: Sequence[Example], rng: np.random.Generator) -> list[list[Prompt]]:
        """One prompt an example and template; with ``support`` (training) one a row where it is trained under one of several templates.

        A prompt's ``extra`` are the `Places` in it.
        """
        made = [[self.prompt(laid, e) for laid, e in zip(text.encode(examples), examples, strict=True)] for text in self.texts]
        if support and self.renders_anew:
            drawn = rng.integers(len(made), size=len(examples))
            return [[made[t][i]] for i, t in enumerate(drawn.tolist())]
        return [list(found) for found in zip(*made, strict=True)]

    def prompt(self, laid: Laid, example: Example) -> Prompt:
        """A prompt with the target of ``example``, if it has a label."""
        target = None if example.label is None else self._target(example.label)
        return Prompt(laid.ids or [self.text.filler], laid.types, target, extra=laid.places)

    def collate(self, prompts: Sequence[Prompt], rng: np.random.Generator) -> Batch:
        """Inputs padded on the right; targets [rows] if every row has one; in ``extra`` where masks and trained vectors are."""
        targets = weights = None
        if all(p.target is not None for p in prompts):
            targets = torch.tensor([p.target for p in prompts], dtype=torch.int64 if self.kind == "classification" else torch.float32)
        if any(p.weight != 1.0 for p in prompts):
            weights = torch.tensor([p.weight for p in prompts])
        places: list[Places] = [p.extra for p in prompts]
        extra = {MASKS: torch.tensor([p.masks for p in places])}
        if self.soft.table is not None:
            extra |= {SOFT: torch.tensor([p.soft for p in places]), VECTORS: torch.tensor([p.vectors for p in places])}
        return Batch(tensors(pad(prompts, int(self.text.coder.tokenizer.pad_token_id or 0))), targets, weights, extra=extra)

    def trunk(self, backbone: Backbone, batch: Batch) -> Tensor:
        """The body's last states at the masks, one after the other: [rows, masks dim]."""
        with self.soft.among(backbone, batch):
            last = backbone.encode(batch.inputs).last
        places = batch.extra[MASKS]
        return last.gather(1, places.unsqueeze(-1).expand(-1, -1, last.shape[-1])).flatten(1)

    def trunk_key(self) -> str:
        """Masks are found by the tokens alone only within one template; length and truncation have acted on the tokens already."""
        templates = " | ".join(str(text.template) for text in self.texts)
        names = (*self.text.names, *self.text.marks)
        return f"cloze template={templates} masks={self.verbalizer.masks} length={self.text.length} fields={names}"

    def scores(self, backbone: Backbone, batch: Batch) -> Scores:
        """One slab: class scores [1, rows, classes], of a value the gap between its poles [1, rows, 1]; features [rows, masks width]
        as the output matrix read them.
        """
        found, features = self._read(backbone, batch)
        logits = found[:, 1:] - found[:, :1] if self.kind == "regression" else found
        return Scores((Slab(logits.unsqueeze(0), batch.targets, batch.weights, features, self.kind, batch.task),))

    def _read(self, backbone: Backbone, batch: Batch) -> tuple[Tensor, Tensor | None]:
        verbalizer = self.verbalizer
        if verbalizer.walks:
            return class_scores(verbalizer, self, backbone, batch), None
        hidden = hidden_of(self, backbone, batch)
        states = hidden if verbalizer.wants == "hidden" else language_head(backbone).features(hidden)
        return verbalizer.scores(backbone, hidden), states.flatten(1)

    def loss(self, scores: Scores, batch: Batch) -> Tensor:
        """Cross entropy over the classes (in training mode with smoothed targets), or the verbalizer's own; of values the divergence."""
        slab = scores.only
        if self.kind == "regression":
            return self._pole_loss(slab)
        own = None if slab.targets is None else self.verbalizer.loss(slab)
        return supervised_loss(slab, self.smoothing if self.training else 0.0) if own is None else own

    def _pole_loss(self, slab: Slab) -> Tensor:
        if slab.targets is None:
            raise DataError("training needs a value in every row, and this batch holds rows without one; leave them out")
        losses = pole_losses(slab.logits[0, :, 0], slab.targets, self.bounds.to(slab.logits.device), self.reference_kl)
        return losses.mean() if slab.weights is None else (losses * slab.weights).sum() / slab.weights.sum()

    def decode(self, scores: Scores) -> list[Prediction]:
        """The likeliest class with the probability of each, or the value."""
        logits = scores.only.logits.detach().float().mean(0)
        if self.kind == "regression":
            return [Prediction(v) for v in value_of(logits[:, 0], self.bounds.to(logits.device)).tolist()]
        best, rows = logits.argmax(-1).tolist(), logits.softmax(-1).tolist()
        return [Prediction(self.labels[i], dict(zip(self.labels, row, strict=True))) for i, row in zip(best, rows, strict=True)]

    def prepare(self, learner: Learner, examples: Sequence[Example], rng: np.random.Generator) -> None:
        """The verbalizer chooses from the rows; how many of those had to be shortened becomes a note."""
        if examples and (cut := sum(laid.places.cut for laid in self.text.encode(examples))):
            share = f"{cut} of {len(examples)} training rows ({cut / len(examples):.0%})"
            self.notes = (*self.notes, f"{share} were shortened to {self.text.length} tokens, by truncation {self.text.how}")
        self.verbalizer.prepare(learner, examples, rng)

    def finish(self, learner: Learner, examples: Sequence[Example], rng: np.random.Generator) -> None:
        """The verbalizer's own last step."""
        self.verbalizer.finish(learner, examples, rng)

    def keep(self) -> dict[str, Any]:
        """What the verbalizer keeps."""
        kept = self.verbalizer.keep()
        return {"verbalizer": kept} if kept else {}

    def recall(self, kept: dict[str, Any]) -> None:
        """Give it back to the verbalizer."""
        self.verbalizer.recall(kept.get("verbalizer", {}))


def trains_matrices(backbone: Backbone) -> bool:
    """Whether the tuning that is attached trains any pretrained matrix in place: the language-model head follows the body then."""
    return any(p.requires_grad and p.dim() > 1 and n in backbone.pretrained for n, p in backbone.model.named_parameters())


def _limits(cloze: Cloze) -> tuple[int, ...]:
    """Those of LM-BFF's setting, where the template is one of its table."""
    if cloze.first is None or not cloze.first.startswith(lm_bff.PREFIX):
        return ()
    found = lm_bff.setting(cloze.first)
    if found.first is None:
        return ()
    return (found.first,) if found.other is None else (found.first, found.other)


def _bounds(cloze: Cloze, task: Any) -> tuple[float, float]:
    """The scale's ends: those given, of LM-BFF's setting, or of the training values. (0, 1) where none are known, as on a reload."""
    named = lm_bff.setting(cloze.first).bounds if cloze.first and cloze.first.startswith(lm_bff.PREFIX) else None
    values = [float(task.target(e.label)) for e in task.train if e.label is not None]
    low, high = cloze.bounds or named or ((min(values), max(values)) if values else (0.0, 1.0))
    if not low < high:
        raise RecipeError(f"cloze.bounds: expected the lower and the upper end of the scale, found {low:g} and {high:g}; give both ends")
    return low, high


def _texts(task: Any) -> int:
    """How many texts a row has; 0 where there are no rows."""
    return max((len(e.texts) for e in list(task.train)[:1]), default=0)


def _notes(cloze: Cloze, made: Sequence[TemplateEncoder], backbone: Backbone, reads_head: bool, texts: int) -> tuple[str, ...]:
    """What is worth saying before anything is trained. What stands between marks may come from any text of a row."""
    found = [boundaries(made[0].template.skeleton())]
    found += [unread(one.template, one.template.fields(), one.names, texts) for one in made if not cloze.marks]
    if cloze.template is None:
        found.append(f"no template given: {str(made[0].template)!r} is used; one that says what the labels are about will do better")
    if reads_head and random_head(backbone):
        found.append(
            f"{backbone.source} holds no weights of a language-model head; one was drawn at random, and its words mean nothing yet: put a"
            " stage with framing masked_lm before this one, or take a masked language model"
        )
    return tuple(note for note in found if note)
