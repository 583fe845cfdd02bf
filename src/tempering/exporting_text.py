"""What reads the language-model head, as transformers' classes for it load it: a whole model, or an adapter for PEFT.

As in `tempering.exporting`, a reload is compared before we say so: here the logits of the whole vocabulary.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from tempering.backbone import Backbone
from tempering.exporting import PROBES, adapter_class, auto_class, distinct, drawn, refuse_unlike, write_adapter
from tempering.layouts import OutputSpec
from tempering.learner import Learner
from tempering.pretrained import loaded, quiet

# PEFT has no type of its own for a model that fills masks; its plain class passes everything on.
TASK_TYPES = {"AutoModelForCausalLM": "CAUSAL_LM", "AutoModelForSeq2SeqLM": "SEQ_2_SEQ_LM", "AutoModelForMaskedLM": None}


def export_text(learner: Learner, folder: Path) -> None:
    """Write body and output matrix as the family's class that generates or fills masks; compare what a reload says with what ours does."""
    import transformers

    backbone = learner.backbone
    auto: Any = getattr(transformers, auto_class(learner))
    with quiet(), torch.device("meta"):
        built = auto.from_config(copy.deepcopy(backbone.config))
    stem = f"{found}." if (found := stem_of(built)) else ""
    state = {f"{stem}{n}": t for n, t in backbone.model.state_dict().items() if n in backbone.own}
    state |= _head_state(learner, set(built.state_dict()))
    config = copy.deepcopy(backbone.config)
    config.architectures = [type(built).__name__]
    config.save_pretrained(folder)
    save_file(distinct(state), folder / "model.safetensors", {"format": "pt"})
    with quiet():
        model = auto.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    _compare(learner, model, folder, "transformers")


def export_text_adapter(learner: Learner, folder: Path) -> str:
    """Write the tuning as an adapter for the family's class that generates or fills masks, and compare what PEFT makes of the two with
    what ours says. Returns the name under which that class keeps the body.
    """
    import transformers

    auto = adapter_class(learner)
    where = str(folder / "base") if learner.backbone.changed else learner.backbone.where
    with quiet():
        base: Any = loaded(getattr(transformers, auto).from_pretrained, where, dtype=torch.float32)
    modules, further = _moved(learner, base, stem := stem_of(base))
    write_adapter(learner, folder, stem, TASK_TYPES[auto], modules, further)
    with quiet():
        from peft import PeftModel

        model = PeftModel.from_pretrained(base, str(folder))
    _compare(learner, model, folder, "peft")
    return stem


def stem_of(model: Any) -> str:
    """The attribute under which a model with a head keeps its body; empty where the parts of the body are its own."""
    prefix = str(model.base_model_prefix)
    return prefix if prefix and hasattr(model, prefix) else ""


def _moved(learner: Learner, base: Any, stem: str) -> tuple[list[str], dict[str, Tensor]]:
    """The weights of the language-model head that are not those which ``base`` loads (this stage trained them, or an earlier one, or
    the checkpoint lacks them), and those of the body below ``stem`` that the checkpoint lacks: modules to save whole, and tensors by name.

    A weight beside a matrix tied to the embeddings (an output bias) goes by its own name alone, as PEFT stores biases: its module whole
    would be a copy of the vocabulary.
    """
    theirs = base.state_dict()
    fresh = {f"{stem}.{name}" if stem else name: weight for name, weight in drawn(learner.backbone).items()}
    mine = _head_state(learner, set(theirs)) | {name: weight for name, weight in fresh.items() if name in theirs}
    moved = {n for n, weight in mine.items() if n not in theirs or not torch.equal(weight.cpu(), theirs[n])}
    owners = {name.rpartition(".")[0] for name in moved} - {""}
    whole = {owner for owner in owners if {f"{owner}.{name}" for name in base.get_submodule(owner).state_dict()} <= set(mine)}
    return sorted(whole), {n: weight for n, weight in mine.items() if n in moved or n.rpartition(".")[0] in whole}


def _head_state(learner: Learner, own: set[str]) -> dict[str, Tensor]:
    """The language-model head under the names of the family's class, whose tensors are ``own``."""
    backbone = learner.backbone
    if backbone.layout.kind == "encoder":
        return dict(learner.framing.language_state(backbone))
    return _output_state(backbone, own)


def _output_state(backbone: Backbone, own: set[str]) -> dict[str, Tensor]:
    head: Any = backbone.lm_head
    spec = backbone.layout.output or OutputSpec()
    state = {spec.weight: head.own.weight} if head.own is not None else {}
    return state | ({spec.bias: head.bias[None]} if head.bias is not None and spec.bias in own else {})


@torch.no_grad()
def _compare(learner: Learner, model: Any, folder: Path, library: str) -> None:
    backbone = learner.eval().backbone
    model = model.to(learner.device).eval()
    inputs: Any = dict(backbone.tokenizer(list(PROBES), padding=True, return_tensors="pt").to(learner.device))
    if backbone.opened:
        ids = inputs["input_ids"]
        states, extra = backbone.decoded(ids, backbone.memory(inputs), inputs.get("attention_mask")), {"decoder_input_ids": ids}
    else:
        states, extra = backbone.encode(inputs).last, {}
    head: Any = backbone.lm_head
    refuse_unlike(model(**inputs, **extra).logits.float(), head(states, backbone.table)[0], folder, library)
