"""What the tests of the bottleneck family share: bodies of real shape without weights, and adapters trained and saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

from tempering.backbone import Backbone
from tempering.learner import Learner
from tempering.stages.setup import Surroundings
from tempering.stages.train import Train
from tests.laws.bench import NOWHERE, ROWS, SEEDS, stage_of
from tests.tiny import tiny_task

LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}


def outline(large: bool = False) -> Backbone:
    """BERT of its published shape, from the configuration alone."""
    with torch.device("meta"):
        model = transformers.AutoModel.from_config(transformers.BertConfig(**(LARGE if large else {})))
    return Backbone(model, None, "bert-large" if large else "bert-base")


def counted(tuning: Any, large: bool = False) -> int:
    """The formula, which is also what `attach` trains."""
    backbone = outline(large)
    found: int = tuning.count(backbone)
    tuning.attach(backbone)
    assert sum(w.numel() for w in backbone.parameters() if w.requires_grad) == found
    assert all(t.is_meta for t in (*backbone.parameters(), *backbone.buffers()) if t.dim() > 1 and t.dtype == torch.float32)
    return found


def loaded(folder: Path) -> Backbone:
    """A body that knows its own fingerprint, as a fit gives it to its stages."""
    backbone = Backbone.load(str(folder))
    backbone.base_fingerprint = backbone.fingerprint()
    return backbone


def trained(tuning: Any, base: Path, around: Surroundings = NOWHERE, **settings: Any) -> Learner:
    """A few steps of ``tuning`` on the model in ``base``."""
    stage: Train = stage_of(tuning, **settings)
    return stage.run(loaded(base), tiny_task(ROWS), SEEDS, around=around)


def adapted(backbone: Backbone, name: str) -> list[Any]:
    """The modules called ``name`` that a tuning added, bottom first."""
    return [module for path, module in backbone.model.named_modules() if path.endswith(f".{name}")]
