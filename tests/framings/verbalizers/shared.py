"""A framing with masks and nothing else, by which verbalizers are tested without templates: "TEXT was MASK"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tempering.backbone import Backbone
from tempering.contracts import Batch, Example, Prediction, Prompt, Scores, Slab
from tempering.framings.lm_head import ensure_lm_head
from tempering.framings.losses import supervised_loss
from tempering.framings.module import FramingBase
from tempering.framings.text import pad, tensors
from tempering.framings.verbalizers.base import MASKS, VerbalizerModule, class_scores, unlabeled
from tempering.framings.verbalizers.composed import Composed
from tempering.learner import Learner
from tempering.streams import numpy_stream, torch_stream
from tempering.tunings.frozen import Frozen
from tests.tiny import tiny_backbone, tiny_task

WORDS = {"bad": ("awful",), "good": ("great",)}
LONGER = {"bad": ("awful", "dull", "poor"), "good": ("great", "lovely")}
RNG = numpy_stream("verbalizers")


class Blank(FramingBase):
    """[CLS] text was [MASK] * masks [SEP]."""

    reads_lm_head = True

    def __init__(self, verbalizer: VerbalizerModule, task: Any, backbone: Backbone) -> None:
        super().__init__()
        self.verbalizer, self.labels, self.task = verbalizer, verbalizer.labels, task
        self.tokenizer = backbone.tokenizer
        ensure_lm_head(backbone)

    def render(self, examples: Sequence[Example], support: Sequence[Example], rng: np.random.Generator) -> list[list[Prompt]]:
        t = self.tokenizer
        found = []
        for e in examples:
            text = t.encode(f"{' '.join(e.texts)} was", add_special_tokens=False)
            ids = [t.cls_token_id, *text, *[t.mask_token_id] * self.verbalizer.masks, t.sep_token_id]
            target = None if e.label is None else self.task.target(e.label)
            found.append([Prompt(ids, None, target, extra=len(text) + 1)])
        return found

    def collate(self, prompts: Sequence[Prompt], rng: np.random.Generator) -> Batch:
        places = torch.tensor([[p.extra + i for i in range(self.verbalizer.masks)] for p in prompts])
        given = [p.target for p in prompts]
        targets = None if None in given else torch.tensor(given)
        return Batch(tensors(pad(prompts, self.tokenizer.pad_token_id)), targets, extra={MASKS: places})

    def trunk(self, backbone: Backbone, batch: Batch) -> Tensor:
        places = batch.extra[MASKS]
        return backbone.encode(batch.inputs).last[torch.arange(len(places)).unsqueeze(1), places]

    def trunk_key(self) -> str:
        return "blank"

    def scores(self, backbone: Backbone, batch: Batch) -> Scores:
        found = class_scores(self.verbalizer, self, backbone, batch)
        return Scores((Slab(found.unsqueeze(0), batch.targets, None, None, "classification"),))

    def loss(self, scores: Scores, batch: Batch) -> Tensor:
        own = self.verbalizer.loss(scores.only)
        return supervised_loss(scores.only) if own is None else own

    def decode(self, scores: Scores) -> list[Prediction]:
        best = scores.only.logits[0].argmax(-1).tolist()
        return [Prediction(self.labels[i]) for i in best]


def words_for(value: Any, words: Any) -> Any:
    """``words`` as ``value`` takes them: those of composed prompts are one a mask, as many for every class."""
    fewest = min(map(len, words.values()))
    return {label: given[:fewest] for label, given in words.items()} if isinstance(value, Composed) else words


def learner_of(
    value: Any, words: Any = WORDS, rows: int = 12, family: str = "bert", task: Any = None, backbone: Backbone | None = None
) -> Learner:
    """An untrained learner of the tiny model, its verbalizer not yet prepared."""
    backbone = backbone or tiny_backbone(family)
    task = task or tiny_task(rows)
    with torch_stream(0, "head"):
        ensure_lm_head(backbone)
        backbone.lm_head.bias.data.normal_()  # a fresh head has a bias of zeros: make it matter
    with torch_stream(0, "verbalizer"):
        module = value.build(task, backbone, words_for(value, words))
    return Learner(backbone, Blank(module, task, backbone), Frozen()).eval()


def scores_of(learner: Learner, examples: Sequence[Example]) -> Tensor:
    """Evaluation-mode class scores [examples, classes]."""
    prompts = [p for found in learner.framing.render(unlabeled(examples), (), RNG) for p in found]
    return learner.score(prompts).only.logits[0]


def ready(value: Any, words: Any = WORDS, rows: int = 12, **given: Any) -> tuple[Learner, Sequence[Example]]:
    """A learner whose verbalizer has chosen and been finished on the training rows, and those rows."""
    task = given.pop("task", None) or tiny_task(rows)
    learner = learner_of(value, words, rows, task=task, **given)
    examples = task.train.examples
    learner.framing.verbalizer.prepare(learner, examples, numpy_stream("prepare"))
    learner.framing.verbalizer.finish(learner, examples, numpy_stream("finish"))
    return learner, examples
