"""Folders that other libraries load: transformers' classifier classes and PEFT adapters. A reload is compared before we say so."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from tempering.backbone import Backbone
from tempering.contracts import Batch, Example
from tempering.errors import ModelError
from tempering.layouts import HeadSpec
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
    "text": Form("output", "", "", ""),  # a class that generates: `tempering.exporting_text`
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


def language_class(learner: Learner) -> str:
    """The name of transformers' class whose logits the framing reads: body with language-model head. Empty where it reads none, or the
    family has none.
    """
    backbone = learner.backbone
    if not learner.framing.reads_lm_head or backbone.lm_head is None:
        return ""
    if backbone.layout.kind == "encoder":
        return "AutoModelForMaskedLM" if backbone.layout.lm is not None else ""
    return "AutoModelForSeq2SeqLM" if backbone.opened else "AutoModelForCausalLM"


def auto_class(learner: Learner) -> str:
    """The name of transformers' class that loads body and head."""
    return (language_class(learner) if learner.framing.export_state() is None else "") or FORMS[learner.framing.form].auto


def adapter_class(learner: Learner) -> str:
    """The name of transformers' class that an adapter in PEFT's format is for: with the framing's head, with a language-model head, or
    the body alone. Empty where no such adapter would score as we do.
    """
    if learner.framing.export_state() is not None:
        return auto_class(learner)
    if not language_class(learner):
        return "AutoModel" if learner.backbone.layout.head is not None else ""
    # PEFT trains a copy of a module that is saved whole: what is tied to the embeddings, such as the output matrix, would read the old
    # ones. And a base that is in memory alone (no place, nothing to save along) cannot be loaded by another library.
    trained = learner.backbone.embeddings.get_parameter("weight").requires_grad
    found = bool(learner.backbone.where or learner.backbone.changed)
    return language_class(learner) if found and not trained else ""


def refuse_unlike(theirs: Tensor, mine: Tensor, folder: Path, library: str) -> None:
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
    """Write an adapter for the family's class with body and head, the head among the modules to save; for the body alone where there is
    no such head. Returns whether it holds a head, so that a reload can be compared.
    """
    head, form = learner.framing.export_state(), FORMS[learner.framing.form]
    spec = form.spec(learner.backbone) if head else None
    modules, further = {name.split(".", 1)[0] for name in head or ()}, dict(head or {})
    if spec is not None:
        for path, tensors in _drawn_modules(learner, spec.body).items():
            modules, further = modules | {path}, further | tensors
    write_adapter(learner, folder, spec.body if spec else "", form.task_type if head else "FEATURE_EXTRACTION", sorted(modules), further)
    return bool(head)


def drawn(backbone: Backbone) -> dict[str, Tensor]:
    """Frozen weights of the body that the checkpoint lacks, so that another library draws its own. None where the base is saved along."""
    lacking = set() if backbone.changed else backbone.own - backbone.pretrained
    return {name: weight for name, weight in backbone.model.named_parameters() if name in lacking and not weight.requires_grad}


def changes_drawn(backbone: Backbone) -> bool:
    """Whether a tuning's change hangs on `drawn` weights, or they are part of a block: no format of PEFT holds both as they are here."""
    owners = tuple(f"{name.rpartition('.')[0]}." for name in drawn(backbone))
    added = set(backbone.model.state_dict()) - backbone.own
    return any(map(backbone.inside, owners)) or any(name.startswith(owners) for name in added)


def _drawn_modules(learner: Learner, prefix: str) -> dict[str, dict[str, Tensor]]:
    """Path -> tensors of the modules with `drawn` weights that the family's class with this head has too (a pooler), by its names."""
    import transformers

    backbone, auto = learner.backbone, getattr(transformers, FORMS[learner.framing.form].auto)
    owners = sorted({name.rpartition(".")[0] for name in drawn(backbone)})
    if not owners:
        return {}
    with quiet(), torch.device("meta"):
        theirs = set(auto.from_config(classifier_config(learner)).state_dict())
    body: dict[str, Tensor] = backbone.model.state_dict()
    held = {owner: {f"{prefix}.{n}": t for n, t in body.items() if n.rpartition(".")[0] == owner} for owner in owners}
    return {f"{prefix}.{owner}": tensors for owner, tensors in held.items() if set(tensors) <= theirs}


def write_adapter(
    learner: Learner, folder: Path, prefix: str, task_type: str | None, modules: Sequence[str], further: Mapping[str, Tensor]
) -> None:
    """``adapter_config.json`` and ``adapter_model.safetensors`` for a class that keeps the body under ``prefix``.

    ``further`` are tensors of that class beside the body, of which those in ``modules`` are saved whole.
    """
    backbone, tuning = learner.backbone, learner.tuning
    if hasattr(tuning, "to_peft"):
        tensors = tuning.to_peft(backbone, prefix)
    else:
        body = backbone.state_dict()
        tensors = {theirs: body[mine] for mine, theirs in tuning.peft_names(backbone, prefix).items()}
    tensors |= {f"base_model.model.{name}": tensor for name, tensor in further.items()}
    state = {theirs: tensor.detach().cpu().contiguous() for theirs, tensor in tensors.items()}
    config = tuning.peft_config(backbone, task_type, modules)
    config["base_model_name_or_path"] = "base" if backbone.changed else canonical(backbone.source)
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    save_file(state, folder / "adapter_model.safetensors", {"format": "pt"})


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
    refuse_unlike(theirs, mine, folder, "transformers" if form == "full" else "peft")


def _probe(learner: Learner) -> Batch:
    """Two texts of different length, or two questions beside their contexts."""
    examples = [Example(("What is it?", text) if learner.framing.form == "spans" else (text,)) for text in PROBES]
    prompts = [found[0] for found in learner.framing.render(examples, (), np.random.default_rng(0))]
    batch: Batch = learner.framing.collate(prompts, np.random.default_rng(0)).to(learner.device)
    return batch


def explained(learner: Learner, folder: Path) -> Path:
    """Leave a README in the saved ``folder`` that says how to load it."""
    from tempering.restoring import META
    from tempering.saving import loads_with

    meta = json.loads((folder / META).read_text(encoding="utf-8"))
    write_readme(folder, loads_with(learner), meta, canonical(learner.backbone.source), auto_class(learner))
    return folder
