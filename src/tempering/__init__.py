"""Fine-tune pretrained language models on your labelled text, and compare recipes honestly.

```python
import tempering as tp

task = tp.Task.from_file("messages.csv", text="message", label="topic")
learner = tp.fit("full", task, seed=0)
learner.predict(["Is the reading free?"])
```

Every public name is listed in ``__all__`` and is imported when it is first asked for, so that ``import tempering`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tempering.backbone import Backbone
    from tempering.contracts import Example, Prediction, Seeds
    from tempering.errors import CollapseError, DataError, ModelError, RecipeError, ResumeError, TemperingError
    from tempering.estimator import TextClassifier
    from tempering.fitting import fit
    from tempering.framings.head import Head
    from tempering.framings.masked_lm import MaskedLM
    from tempering.learner import Learner
    from tempering.mixing.learner import MixedLearner
    from tempering.mixing.loading import load_many
    from tempering.mixing.training import fit_many
    from tempering.ranking.rank import rank_models, rank_tasks
    from tempering.recipe import Recipe
    from tempering.saving import load
    from tempering.stabilizers.layer_decay import LayerDecay
    from tempering.stabilizers.mixout import Mixout
    from tempering.stabilizers.r_drop import RDrop
    from tempering.stabilizers.self_distillation import SelfDistillation
    from tempering.stages.data_source import DataSource
    from tempering.stages.multi_task import TaskSource
    from tempering.stages.train import Train
    from tempering.studying import Study, compare
    from tempering.tasks.task import Task
    from tempering.trying import Tries, fit_tries
    from tempering.tunings.adapter_drop import without_lowest
    from tempering.tunings.bitfit import BitFit
    from tempering.tunings.deltas import merge_deltas, switch
    from tempering.tunings.frozen import Frozen
    from tempering.tunings.full import Full
    from tempering.tunings.houlsby import Houlsby
    from tempering.tunings.lora import LoRA
    from tempering.tunings.madx import speak
    from tempering.tunings.top_layers import TopLayers

__version__ = "0.1.0"

_HOME = {
    "Backbone": "backbone",
    "BitFit": "tunings.bitfit",
    "CollapseError": "errors",
    "DataError": "errors",
    "DataSource": "stages.data_source",
    "Example": "contracts",
    "Frozen": "tunings.frozen",
    "Full": "tunings.full",
    "Head": "framings.head",
    "Houlsby": "tunings.houlsby",
    "LayerDecay": "stabilizers.layer_decay",
    "Learner": "learner",
    "LoRA": "tunings.lora",
    "MaskedLM": "framings.masked_lm",
    "MixedLearner": "mixing.learner",
    "Mixout": "stabilizers.mixout",
    "ModelError": "errors",
    "Prediction": "contracts",
    "RDrop": "stabilizers.r_drop",
    "Recipe": "recipe",
    "RecipeError": "errors",
    "ResumeError": "errors",
    "Seeds": "contracts",
    "SelfDistillation": "stabilizers.self_distillation",
    "Study": "studying",
    "Task": "tasks.task",
    "TaskSource": "stages.multi_task",
    "TemperingError": "errors",
    "TextClassifier": "estimator",
    "TopLayers": "tunings.top_layers",
    "Train": "stages.train",
    "Tries": "trying",
    "compare": "studying",
    "fit": "fitting",
    "fit_many": "mixing.training",
    "fit_tries": "trying",
    "load": "saving",
    "load_many": "mixing.loading",
    "merge_deltas": "tunings.deltas",
    "rank_models": "ranking.rank",
    "rank_tasks": "ranking.rank",
    "speak": "tunings.madx",
    "switch": "tunings.deltas",
    "without_lowest": "tunings.adapter_drop",
}

__all__ = [
    "Backbone",
    "BitFit",
    "CollapseError",
    "DataError",
    "DataSource",
    "Example",
    "Frozen",
    "Full",
    "Head",
    "Houlsby",
    "LayerDecay",
    "Learner",
    "LoRA",
    "MaskedLM",
    "MixedLearner",
    "Mixout",
    "ModelError",
    "Prediction",
    "RDrop",
    "Recipe",
    "RecipeError",
    "ResumeError",
    "Seeds",
    "SelfDistillation",
    "Study",
    "Task",
    "TaskSource",
    "TemperingError",
    "TextClassifier",
    "TopLayers",
    "Train",
    "Tries",
    "compare",
    "fit",
    "fit_many",
    "fit_tries",
    "load",
    "load_many",
    "merge_deltas",
    "rank_models",
    "rank_tasks",
    "speak",
    "switch",
    "without_lowest",
]


def __getattr__(name: str) -> Any:
    """Import the home of a public name, or of any registered method's class, on first use (PEP 562)."""
    value = getattr(importlib.import_module(f"tempering.{_HOME[name]}"), name) if name in _HOME else _registered(name)
    globals()[name] = value
    return value


def _registered(name: str) -> Any:
    """The class ``name`` of a registered method: ``tempering.Pfeiffer`` is there without a line of its own here."""
    from tempering.methods import METHODS
    from tempering.registry import find

    for kind, entries in METHODS.items():
        for method, path in entries.items():
            if path.partition(":")[2] == name:
                return find(kind, method)
    raise AttributeError(f"module 'tempering' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
