"""Folders that other libraries load: transformers' classifier classes and PEFT adapters. A reload is compared before we say so."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from tempering.backbone import Backbone
from tempering.contracts import Batch, Example
from tempering.errors import ModelError
from tempering.layouts import HeadSpec, OutputSpec
from tempering.learner import Learner
from tempering.pretrained import canonical, quiet
from tempering.readme import write as write_readme

TOLERANCE = 1e-4
PROBES = ("A short text.", "A somewhat longer text, so that one of the two is padded.")


class Form(NamedTuple):
    """A kind of transformers class that holds body and head: its row of the table of architectures, its mapping, its auto class, and
    what PEFT calls it.
    """

    row: str
    classes: str
    auto: str
    task_type: str | None

    def spec(self, backbone: Backbone) -> HeadSpec | None:
        """The names that the family's class of this kind has."""
        found: HeadSpec | None = getattr(backbone.layout, self.row)
        return found


FORMS = {
    "sequence": Form("head", "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING", "AutoModelForSequenceClassification", "SEQ_CLS"),
    "tokens": Form("tokens", "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING", "AutoModelForTokenClassification", "TOKEN_CLS"),
    # PEFT's own class for it leaves token types out of the pass (0.21), so that the plain one has to load this.
    "spans": Form("spans", "MODEL_FOR_QUESTION_ANSWERING_MAPPING", "AutoModelForQuestionAnswering", None),
    "text": Form("output", "", "", ""),  # a class that generates: `export_text`
    "masked": Form("lm", "", "", ""),  # one that fills masks: likewise
}
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
    """Write body and head as the family's own class (`FORMS`); the body alone where the head is not the family's own.

    Returns whether the classifier form was written.
    """
    backbone, head = learner.backbone, learner.framing.export_state()
    spec = FORMS[learner.framing.form].spec(backbone)
    if head is None or spec is None:
        save_body(backbone, folder)
        return False
    config = classifier_config(learner)
    config.save_pretrained(folder)
    prefix = spec.body
    body = {f"{prefix}.{n}": t for n, t in backbone.model.state_dict().items() if n in backbone.own}
    save_file(distinct(body | head), folder / "model.safetensors", {"format": "pt"})
    return True


def auto_class(learner: Learner) -> str:
    """The name of transformers' class that loads body and head."""
    form = learner.framing.form
    if form == "text":
        return "AutoModelForSeq2SeqLM" if learner.backbone.opened else "AutoModelForCausalLM"
    return "AutoModelForMaskedLM" if form == "masked" else FORMS[form].auto


def export_text(learner: Learner, folder: Path) -> None:
    """Write body and output matrix as the family's class that generates or fills masks; compare what a reload says with what ours does."""
    import transformers

    backbone, masked = learner.backbone, learner.framing.form == "masked"
    auto: Any = getattr(transformers, auto_class(learner))
    with quiet(), torch.device("meta"):
        built = auto.from_config(copy.deepcopy(backbone.config))
    own, prefix = set(built.state_dict()), str(built.base_model_prefix)
    stem = f"{prefix}." if prefix and hasattr(built, prefix) else ""
    state = {f"{stem}{n}": t for n, t in backbone.model.state_dict().items() if n in backbone.own}
    state |= learner.framing.language_state(backbone) if masked else _output_state(backbone, own)
    config = copy.deepcopy(backbone.config)
    config.architectures = [type(built).__name__]
    config.save_pretrained(folder)
    save_file(distinct(state), folder / "model.safetensors", {"format": "pt"})
    with quiet():
        model = auto.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    _compare_text(learner, model.to(learner.device).eval(), folder)


def _output_state(backbone: Backbone, own: set[str]) -> dict[str, Tensor]:
    """The output matrix under the names of the family's class."""
    head: Any = backbone.lm_head
    spec = backbone.layout.output or OutputSpec()
    state = {spec.weight: head.own.weight} if head.own is not None else {}
    return state | ({spec.bias: head.bias[None]} if head.bias is not None and spec.bias in own else {})


@torch.no_grad()
def _compare_text(learner: Learner, model: Any, folder: Path) -> None:
    backbone = learner.eval().backbone
    inputs: Any = dict(backbone.tokenizer(list(PROBES), padding=True, return_tensors="pt").to(learner.device))
    table: Any = backbone.embeddings.weight
    if backbone.opened:
        ids = inputs["input_ids"]
        states, extra = backbone.decoded(ids, backbone.memory(inputs), inputs.get("attention_mask")), {"decoder_input_ids": ids}
    else:
        states, extra = backbone.encode(inputs).last, {}
    head: Any = backbone.lm_head
    _refuse_unlike(model(**inputs, **extra).logits.float(), head(states, table)[0], folder, "transformers")


def _refuse_unlike(theirs: Tensor, mine: Tensor, folder: Path, library: str) -> None:
    gap = float((theirs - mine).abs().max())
    if gap > TOLERANCE * max(1.0, float(mine.abs().max())):
        raise ModelError(f"{folder}: a reload by {library} scores differently (by {gap:.2g}); the folder is not usable")


def classifier_config(learner: Learner) -> Any:
    """The family's configuration with the task's labels in it."""
    from transformers.models.auto import modeling_auto

    config = copy.deepcopy(learner.backbone.config)
    form = learner.framing.form
    labels = ["start", "end"] if form == "spans" else [str(label) for label in learner.framing.labels] or ["value"]
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: i for i, label in enumerate(labels)}
    config.problem_type = PROBLEMS.get(learner.framing.kind)
    classes: Any = getattr(modeling_auto, FORMS[form].classes)
    config.architectures = [classes[type(config)].__name__]
    return config


def export_peft(learner: Learner, folder: Path) -> bool:
    """Write ``adapter_config.json`` and ``adapter_model.safetensors`` with the head among the modules to save."""
    backbone, head, tuning = learner.backbone, learner.framing.export_state(), learner.tuning
    form = FORMS[learner.framing.form]
    spec = form.spec(backbone) if head else None
    prefix = spec.body if spec else ""
    if hasattr(tuning, "to_peft"):
        tensors = tuning.to_peft(backbone, prefix)
    else:
        body = backbone.state_dict()
        tensors = {theirs: body[mine] for mine, theirs in tuning.peft_names(backbone, prefix).items()}
    state = {theirs: tensor.detach().cpu().contiguous() for theirs, tensor in tensors.items()}
    modules = sorted({name.split(".", 1)[0] for name in head}) if head else []
    state |= {f"base_model.model.{name}": tensor.cpu() for name, tensor in (head or {}).items()}
    config = tuning.peft_config(backbone, form.task_type if head else "FEATURE_EXTRACTION", modules)
    config["base_model_name_or_path"] = "base" if backbone.changed else canonical(backbone.source)
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    save_file(state, folder / "adapter_model.safetensors", {"format": "pt"})
    return bool(head)


@torch.no_grad()
def compare_reload(learner: Learner, folder: Path, form: str) -> None:
    """Load the folder as a user of the other library would and compare its logits with ours; refuse a folder that differs."""
    import transformers

    auto = getattr(transformers, FORMS[learner.framing.form].auto)
    with quiet():
        if form == "full":
            model = auto.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
        else:
            from peft import PeftModel

            config = classifier_config(learner)
            where = folder / "base" if learner.backbone.changed else learner.backbone.where
            base = auto.from_pretrained(where, config=config, local_files_only=Path(where).exists(), dtype=torch.float32)
            model = PeftModel.from_pretrained(base, str(folder))
    model.eval()
    learner.eval()
    batch = _probe(learner)
    theirs, mine = learner.framing.beside(model.to(learner.device)(**batch.inputs), learner(batch), batch)
    _refuse_unlike(theirs, mine, folder, "transformers" if form == "full" else "peft")


def _probe(learner: Learner) -> Batch:
    """Two texts of different length, or two questions beside their contexts."""
    examples = [Example(("What is it?", text) if learner.framing.form == "spans" else (text,)) for text in PROBES]
    prompts = [found[0] for found in learner.framing.render(examples, (), np.random.default_rng(0))]
    batch: Batch = learner.framing.collate(prompts, np.random.default_rng(0)).to(learner.device)
    return batch


def explained(learner: Learner, folder: Path) -> Path:
    """Leave a README in the saved ``folder`` that says how to load it."""
    from tempering.saving import META, loads_with

    meta = json.loads((folder / META).read_text(encoding="utf-8"))
    write_readme(folder, loads_with(learner), meta, canonical(learner.backbone.source), auto_class(learner))
    return folder
