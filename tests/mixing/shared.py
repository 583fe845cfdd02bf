"""What the tests of mixed batches share: one tuning of every kind on one tiny backbone, each also as a learner by itself."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from tempering.contracts import Batch, Example, Seeds
from tempering.framings.head import Head
from tempering.learner import Learner
from tempering.mixing.learner import MixedLearner
from tempering.stages.setup import assemble
from tempering.stages.train import Train
from tempering.streams import torch_stream
from tempering.tunings.bitfit import BitFit
from tempering.tunings.frozen import Frozen
from tempering.tunings.houlsby import Houlsby
from tempering.tunings.ia3 import IA3
from tempering.tunings.lora import LoRA
from tempering.tunings.parallel import Parallel
from tempering.tunings.pfeiffer import Pfeiffer
from tempering.tunings.prefix_tuning import PrefixTuning
from tempering.tunings.prompt_tuning import PromptTuning
from tempering.tunings.together import Together
from tests.tiny import tiny_backbone, tiny_examples, tiny_task

KINDS: dict[str, Any] = {
    "lora-4": LoRA(r=4),
    "lora-8": LoRA(r=8, target_modules="all-linear"),
    "lora-4-too": LoRA(r=4, lora_alpha=3.0),
    "houlsby": Houlsby(m=8),
    "houlsby-small": Houlsby(m=4, layer_norm=False),
    "houlsby-relu": Houlsby(m=4, activation="relu"),
    "bitfit": BitFit(),
    "bitfit-too": BitFit(),
    "frozen": Frozen(),
    "ia3": IA3(),
    "ia3-too": IA3(),
    "prefix": PrefixTuning(p=3, m=None),
    "prefix-long": PrefixTuning(p=5, m=8),
    "prompt": PromptTuning(p=4),
    "prompt-long": PromptTuning(p=6),
    "pfeiffer": Pfeiffer(reduction=4),
    "parallel": Parallel(m=4),
    "both": Together((LoRA(r=2), Houlsby(m=4))),
}
Made = tuple[MixedLearner, dict[str, Learner]]


def learner_of(tuning: Any, name: str, family: str = "bert", framing: Any = None, kind: str = "classification") -> Learner:
    """A learner whose change to the tiny backbone matters, as after training."""
    stage = Train(tuning=tuning, framing=framing or Head(dropout=0.0))
    learner = assemble(stage, tiny_backbone(family), tiny_task(24, kind), Seeds.of(0))
    with torch_stream("change", name), torch.no_grad():
        for weight in learner.trained().values():
            weight += 0.1 * torch.randn_like(weight)
    return learner


def mixture(tunings: Mapping[str, Any], family: str = "bert", framing: Any = None, still: bool = True) -> Made:
    """All of ``tunings`` as one mixed learner, and a copy of each by itself. ``still`` takes all dropout out."""
    mixed, alone = MixedLearner(tiny_backbone(family)), {}
    for name, tuning in tunings.items():
        learner = learner_of(tuning, name, family, framing)
        alone[name] = copy.deepcopy(learner)
        mixed.add(name, learner)
    for model in (mixed, *alone.values()) if still else ():
        silence(model)
    return mixed, alone


def silence(model: torch.nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0


def batch_of(learner: Learner, examples: list[Example]) -> Batch:
    prompts = [found[0] for found in learner.framing.render(examples, (), np.random.default_rng(0))]
    batch: Batch = learner.framing.collate(prompts, np.random.default_rng(0))
    return batch


def batches_of(alone: Mapping[str, Learner], rows: int = 5) -> dict[str, Batch]:
    """Rows of its own for every task, of differing lengths."""
    return {name: batch_of(learner, tiny_examples(rows, learner.framing.kind, seed=i)) for i, (name, learner) in enumerate(alone.items())}
