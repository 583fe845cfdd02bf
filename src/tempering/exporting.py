"""Folders that other libraries load: transformers' classifier classes and PEFT adapters. A reload is compared before we say so."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from tempering.backbone import Backbone
from tempering.contracts import Example
from tempering.errors import ModelError
from tempering.learner import Learner
from tempering.pretrained import canonical, quiet

TOLERANCE = 1e-4
PROBLEMS = {"classification": "single_label_classification", "multilabel": "multi_label_classification", "regression": "regression"}


def distinct(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of ``state`` ready for a safetensors file; of those that share memory the first: loading ties the others again."""
    first: dict[tuple[int, torch.Size], str] = {}
    for name, tensor in state.items():
        first.setdefault((tensor.data_ptr(), tensor.shape), name)
    return {name: state[name].detach().cpu().contiguous() for name in first.values()}


def save_body(backbone: Backbone, folder: Path) -> None:
    """The body alone with its tokenizer, as ``AutoModel`` loads it."""
    folder.mkdir(parents=True, exist_ok=True)
    config = copy.deepcopy(backbone.config)
    config.architectures = [type(backbone.model).__name__]
    config.save_pretrained(folder)
    body = {n: t for n, t in backbone.model.state_dict().items() if n in backbone.own}
    save_file(distinct(body), folder / "model.safetensors", {"format": "pt"})
    backbone.tokenizer.save_pretrained(folder)


def export_classifier(learner: Learner, folder: Path) -> bool:
    """Write body and head as the family's ``ForSequenceClassification``; the body alone where the head is not the family's own.

    Returns whether the classifier form was written.
    """
    backbone, head = learner.backbone, learner.framing.export_state()
    if head is None or backbone.layout.head is None:
        save_body(backbone, folder)
        return False
    config = classifier_config(learner)
    config.save_pretrained(folder)
    prefix = backbone.layout.head.body
    body = {f"{prefix}.{n}": t for n, t in backbone.model.state_dict().items() if n in backbone.own}
    save_file(distinct(body | head), folder / "model.safetensors", {"format": "pt"})
    return True


def classifier_config(learner: Learner) -> Any:
    """The family's configuration with the task's labels in it."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING as CLASSES

    config = copy.deepcopy(learner.backbone.config)
    labels = [str(label) for label in learner.framing.labels] or ["value"]
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: i for i, label in enumerate(labels)}
    config.problem_type = PROBLEMS[learner.framing.kind]
    classes: Any = CLASSES
    config.architectures = [classes[type(config)].__name__]
    return config


def export_peft(learner: Learner, folder: Path) -> bool:
    """Write ``adapter_config.json`` and ``adapter_model.safetensors`` with the head among the modules to save."""
    backbone, head, tuning = learner.backbone, learner.framing.export_state(), learner.tuning
    prefix = backbone.layout.head.body if head and backbone.layout.head else ""
    if hasattr(tuning, "to_peft"):
        tensors = tuning.to_peft(backbone, prefix)
    else:
        body = backbone.state_dict()
        tensors = {theirs: body[mine] for mine, theirs in tuning.peft_names(backbone, prefix).items()}
    state = {theirs: tensor.detach().cpu().contiguous() for theirs, tensor in tensors.items()}
    modules = sorted({name.split(".", 1)[0] for name in head}) if head else []
    state |= {f"base_model.model.{name}": tensor.cpu() for name, tensor in (head or {}).items()}
    config = tuning.peft_config(backbone, "SEQ_CLS" if head else "FEATURE_EXTRACTION", modules)
    config["base_model_name_or_path"] = "base" if backbone.changed else canonical(backbone.source)
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    save_file(state, folder / "adapter_model.safetensors", {"format": "pt"})
    return bool(head)


@torch.no_grad()
def compare_reload(learner: Learner, folder: Path, form: str) -> None:
    """Load the folder as a user of the other library would and compare its logits with ours; refuse a folder that differs."""
    from transformers import AutoModelForSequenceClassification as Auto

    with quiet():
        if form == "full":
            model = Auto.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
        else:
            from peft import PeftModel

            config = classifier_config(learner)
            where = folder / "base" if learner.backbone.changed else learner.backbone.where
            base = Auto.from_pretrained(where, config=config, local_files_only=Path(where).exists(), dtype=torch.float32)
            model = PeftModel.from_pretrained(base, str(folder))
    model.eval()
    learner.eval()
    device, mine = learner.device, _ours(learner)
    batch = _probe(learner)
    theirs = model.to(device)(**batch).logits.float()
    gap = float((theirs - mine).abs().max())
    if gap > TOLERANCE * max(1.0, float(mine.abs().max())):
        raise ModelError(
            f"{folder}: a reload by {'transformers' if form == 'full' else 'peft'} scores differently"
            f" (by {gap:.2g}); the folder is not usable"
        )


def _probe(learner: Learner) -> dict[str, Tensor]:
    examples = [Example(("A short text.",)), Example(("A somewhat longer text, so that one of the two is padded.",))]
    prompts = [found[0] for found in learner.framing.render(examples, (), np.random.default_rng(0))]
    inputs: dict[str, Tensor] = learner.framing.collate(prompts, np.random.default_rng(0)).to(learner.device).inputs
    return inputs


def _ours(learner: Learner) -> Tensor:
    """The logits the exported classifier should give: heads averaged, values on the user's scale."""
    from tempering.contracts import Batch

    scores = learner(Batch(_probe(learner)))
    if learner.framing.kind == "regression":
        return torch.tensor([[p.label] for p in learner.framing.decode(scores)], device=learner.device)
    logits: Tensor = scores.only.logits.mean(0)
    return logits
