"""What the loop runs for PET: the auxiliary masked-language-model loss beside a pattern's own, and the distillation of soft labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from tempering.contracts import Batch, Hooks, Prompt, Weights
from tempering.dropout import dropout_stream
from tempering.framings.hidden.masking import Masking
from tempering.framings.verbalizers.base import vocabulary_logits
from tempering.learner import Learner
from tempering.passes import Passes
from tempering.stages.pet_sets import distillation_loss

PROBABILITY, SHARES = 0.15, (0.8, 0.1)
ALIKE = 16  # batches of which one is drawn


@dataclass(frozen=True)
class AuxiliaryLM:
    """alpha L_CE + (1 - alpha) L_MLM, where L_MLM reads unlabelled ``prompts`` of the same pattern: 15 % of their tokens, 80 / 10 / 10.
    *Differs*: a batch is of prompts of like length, each prompt with the same chance; PET's is of any.

    It acts as a stabilizer of one run does. With alpha = 1 nothing is drawn and the loss is that of the labelled rows alone.
    """

    alpha: float
    prompts: Sequence[Prompt]

    touches: ClassVar[tuple[str, ...]] = ("base",)

    @property
    def neutral(self) -> bool:
        """Whether the loss is the supervised one."""
        return self.alpha == 1.0 or not self.prompts

    def start(self, learner: Learner, trained: Weights, seed: int) -> Hooks:
        """The loss of a micro-batch, beside which as many unlabelled prompts are read."""
        table: Any = learner.backbone.embeddings.weight
        masking = Masking.of(learner.backbone.tokenizer, len(table), PROBABILITY, SHARES)
        lengths = [len(prompt.input_ids) for prompt in self.prompts]

        def base(passes: Passes) -> Tensor:
            rng = passes.stream("auxiliary_lm")
            rows = of_like_length(lengths, len(passes.batch), rng)
            batch: Batch = learner.framing.collate([self.prompts[i] for i in rows], rng)
            with dropout_stream(*passes.key, "auxiliary_lm", device=passes.device, native=passes.native_dropout), passes.autocast():
                beside = masked_loss(learner, batch, masking, rng)
            return self.alpha * passes.supervised() + (1.0 - self.alpha) * beside

        return Hooks(base=base)


def of_like_length(lengths: Sequence[int], count: int, rng: Any) -> list[int]:
    """Numbers of ``count`` texts of like length, every text with the same chance: a batch of them is hardly padded.

    ``ALIKE`` times as many are drawn with replacement and put in order of length, and one of the ``ALIKE`` parts is taken.
    """
    drawn = sorted(rng.integers(len(lengths), size=ALIKE * count).tolist(), key=lambda i: lengths[i])
    part = int(rng.integers(ALIKE))
    return drawn[part * count : (part + 1) * count]


def masked_loss(learner: Learner, batch: Batch, masking: Masking, rng: Any) -> Tensor:
    """Cross entropy of the tokens that ``masking`` hides in ``batch``, mean over these."""
    ids = batch.inputs["input_ids"].cpu().numpy()
    mask = batch.inputs.get("attention_mask")
    hidden, places = masking.corrupt(ids, None if mask is None else mask.cpu().numpy().astype(bool), None, rng)
    batch.inputs["input_ids"] = torch.from_numpy(hidden)
    moved = batch.to(learner.device)
    last = learner.backbone.encode(moved.inputs).last.flatten(0, 1)[torch.from_numpy(places).to(learner.device)]
    asked = torch.from_numpy(ids.reshape(-1)[places]).to(learner.device)
    return F.cross_entropy(vocabulary_logits(learner.backbone, last), asked)


@dataclass(frozen=True)
class Distill:
    """T^2 KL(softmax(target / T) || softmax(logits / T)) in the place of the supervised loss; a prompt's target is its row in ``soft``."""

    soft: Tensor
    temperature: float

    touches: ClassVar[tuple[str, ...]] = ("base",)
    neutral: ClassVar[bool] = False

    def start(self, learner: Learner, trained: Weights, seed: int) -> Hooks:
        """The loss over every student pass of a micro-batch; several heads each learn the same."""

        def base(passes: Passes) -> Tensor:
            targets = passes.batch.targets
            assert targets is not None  # the feed was made with row numbers
            soft = self.soft.to(targets.device)[targets]
            found = [distillation_loss(head.float(), soft, self.temperature) for s in passes.drawn() for head in s.only.logits]
            return torch.stack(found).mean()

        return Hooks(base=base)
