"""A learner on disk and back. Safetensors and JSON only; predictions after a reload are equal.

Three forms, chosen by what the tuning did:

* ``full``: the whole body. With the family's own head it is what ``AutoModelForSequenceClassification`` loads.
* ``peft``: what ``PeftModel.from_pretrained`` loads (LoRA), on the class with the framing's head or with the language-model head that
  it reads; the base model is named, not copied.
* ``delta``: the trained and added tensors, for methods that PEFT does not have (biases or norms alone are one); the base model is
  named, not copied.

Where an earlier stage changed the base, it is saved along in ``base/``. ``tempering.json`` and ``framing.safetensors`` hold the rest.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn

from tempering.backbone import Backbone
from tempering.base_model import base_of
from tempering.codec import decode, encode
from tempering.errors import ModelError
from tempering.exporting import adapter_class, changes_drawn, compare_reload, export_classifier, export_peft, save_body
from tempering.exporting_text import TASK_TYPES, export_text, export_text_adapter
from tempering.forms import OURS, clear_forms
from tempering.learner import Learner
from tempering.restoring import FORMAT_VERSION, META, load_change, read_meta, restoring, tensors_of
from tempering.tasks.task import Split, Task

KEPT = "framing.json"  # only where the framing keeps something of the training data
LM_HEAD = "lm_head.safetensors"  # only where the framing reads it: it is the backbone's, not the framing's
LANGUAGE = ("text", "masked")  # framings whose transformers class has a language-model head


def form_of(learner: Learner) -> str:
    """``full``, ``peft`` or ``delta``."""
    if _untouched(learner) or learner.backbone.quantized:  # only `load` packs the base model again
        return "delta"
    if set(learner.backbone.model.state_dict()) == learner.backbone.own:
        return "delta" if _in_small(learner) else "full"
    theirs = hasattr(learner.tuning, "peft_names") and not changes_drawn(learner.backbone)
    return "peft" if theirs and adapter_class(learner) else "delta"


def _in_small(learner: Learner) -> bool:
    """Whether only biases or norms of the pretrained body are trained: kilobytes, which a copy of the body would hide."""
    tuning, backbone = learner.tuning, learner.backbone
    small = tuning.trains_pretrained and not getattr(tuning, "trains_matrices", True) and not backbone.changed
    return small and not all(p.requires_grad for p in backbone.model.parameters())  # all are free in one that was merged and reloaded


def _untouched(learner: Learner) -> bool:
    """Whether the body is the pretrained one and no other library could use a copy of it with this framing: it is named, not copied."""
    trains = learner.tuning.trains_backbone or learner.backbone.changed
    return not trains and learner.framing.reads_lm_head and learner.framing.export_state() is None


def speaks(learner: Learner) -> bool:
    """Whether an adapter of it is for a class with a language-model head."""
    return adapter_class(learner) in TASK_TYPES


def loads_with(learner: Learner) -> list[str]:
    """Which libraries load the saved folder."""
    form = form_of(learner)
    if form == "full" and learner.framing.form in LANGUAGE:
        return ["transformers", "tempering"]
    if form == "peft" and speaks(learner):  # trained vectors in a template, say, no other library reads
        return ["tempering"] if list(learner.framing.parameters()) else ["peft", "tempering"]
    if learner.framing.export_state() is None or form == "delta":
        return ["tempering"]
    return ["transformers", "tempering"] if form == "full" else ["peft", "tempering"]


def save(learner: Learner, folder: Path, merge: bool = False) -> Path:
    """Write ``learner`` to ``folder``; with ``merge`` the tuning is folded into the weights first (in place)."""
    if merge and learner.backbone.quantized:
        raise ModelError(
            f"merge: the matrices of {learner.backbone.source} are packed in {learner.backbone.quantized} and can take nothing in; save"
            " without merge, or fit without quantize"
        )
    if merge and form_of(learner) != "full":
        _fold(learner)
    eject(learner.tuning, learner.backbone)
    form = form_of(learner)
    _make_room(learner, form, folder)
    save_file({k: v.contiguous() for k, v in learner.framing.state_dict().items()}, folder / "framing.safetensors")
    meta, headed = _meta(learner, form), False
    if form != "full" and learner.backbone.changed:
        save_body(learner.backbone, folder / "base")
    if form == "delta":
        save_file(_delta(learner), folder / "delta.safetensors")
    elif form == "peft" and speaks(learner):
        meta["prefix"] = export_text_adapter(learner, folder)
    elif form == "full" and learner.framing.form in LANGUAGE:
        export_text(learner, folder)
    else:
        headed = (export_peft if form == "peft" else export_classifier)(learner, folder)
    if kept := learner.framing.keep():
        (folder / KEPT).write_text(json.dumps(kept, ensure_ascii=False), encoding="utf-8")
    if _reads_lm_head(learner):
        save_file({k: v.contiguous() for k, v in _lm_head(learner.backbone).state_dict().items()}, folder / LM_HEAD)
    learner.backbone.tokenizer.save_pretrained(folder)
    (folder / META).write_text(json.dumps(meta, indent=1, ensure_ascii=False), encoding="utf-8")
    if headed:
        compare_reload(learner, folder, form)
    return folder


def _make_room(learner: Learner, form: str, folder: Path) -> None:
    """The folder without the model that stood there: its files go before others are written, as weights may still be read from them.

    Files of other libraries stay, and a base that is only named must not be there.
    """
    base, target = Path(learner.backbone.where), folder.resolve()
    here = (base / "config.json").exists() and base.resolve() in (target, target / "base")
    if here and form != "full" and not learner.backbone.changed:
        raise ModelError(f"{folder}: holds the base model, which what is saved here needs and would replace; give another folder")
    folder.mkdir(parents=True, exist_ok=True)
    if here or any((folder / name).exists() for name in OURS):
        clear_forms(folder)


def _fold(learner: Learner) -> None:
    """Merge the tuning; where nothing else hangs on the body then, it is whole, and all its weights count as trained."""
    learner.tuning.merge(learner.backbone)
    if set(learner.backbone.model.state_dict()) == learner.backbone.own:
        learner.backbone.model.requires_grad_(True)


def eject(tuning: Any, backbone: Backbone) -> None:
    """Drop what serves training only, such as the network that makes a prompt."""
    for part in getattr(tuning, "tunings", (tuning,)):
        if hasattr(part, "eject"):
            part.eject(backbone)


def _lm_head(backbone: Backbone) -> nn.Module:
    assert backbone.lm_head is not None
    return backbone.lm_head


def _delta(learner: Learner) -> dict[str, Tensor]:
    body: Any = learner.backbone.model
    trained = {n for n, p in body.named_parameters() if p.requires_grad}
    return {n: t.detach().contiguous() for n, t in body.state_dict().items() if n in trained or n not in learner.backbone.own}


def _meta(learner: Learner, form: str) -> dict[str, Any]:
    backbone, framing = learner.backbone, learner.framing
    saved_along = backbone.changed and form != "full"  # as it stands now: the tuning may have moved weights of its own, such as norms
    own = not backbone.base_fingerprint and _untouched(learner)  # a body that nothing has touched is its own base
    fingerprint = backbone.fingerprint() if saved_along or own else backbone.base_fingerprint
    base = {"source": backbone.source, "fingerprint": fingerprint, "changed": backbone.changed}
    base |= {"quantize": backbone.quantized} if backbone.quantized else {}
    base |= {"seed": backbone.seed} if backbone.own - backbone.pretrained else {}  # weights that the checkpoint lacks are drawn again
    stage = {"framing": encode(learner.record["framing"], "framing"), "tuning": encode(learner.tuning, "tuning")}
    task = {"kind": getattr(framing, "kind", "text"), "labels": list(framing.labels)}
    record = {k: v for k, v in learner.record.items() if k != "framing"}
    return {"format": form, "version": FORMAT_VERSION, "base": base, **stage, "task": task, "record": record}


def load(folder: str | Path, base_model: Backbone | str | Path | None = None) -> Learner:
    """The learner that `save` wrote to ``folder``, with equal predictions.

    ``base_model``: its base, where that has moved (a folder or name) or is loaded already (a `Backbone`, which is copied). It is known by
    its weights, whatever it is called; another is a `ModelError`.
    """
    path = Path(folder)
    meta = read_meta(path)
    form, base = meta["format"], meta["base"]
    tuning = decode("tuning", meta["tuning"], f"{path}/{META}: tuning")
    framing_value = decode("framing", meta["framing"], f"{path}/{META}: framing")
    backbone = base_of(path, meta, base_model, getattr(framing_value, "opens", _nothing_more))
    if form != "full":
        with restoring():
            tuning.attach(backbone)
        eject(tuning, backbone)
        load_change(backbone, tuning, path, meta)
    backbone.base_fingerprint, backbone.changed = base["fingerprint"], base["changed"]
    framing = framing_value.build(_stub(meta["task"]), backbone)
    if (path / KEPT).exists():
        framing.recall(json.loads((path / KEPT).read_text(encoding="utf-8")))
    framing.load_state_dict(tensors_of(path / "framing.safetensors"))
    learner = Learner(backbone, framing, tuning, meta["record"] | {"framing": framing_value})
    if _reads_lm_head(learner):
        _lm_head(backbone).load_state_dict(tensors_of(path / LM_HEAD))
    return learner.eval()


def _nothing_more(backbone: Backbone) -> None:
    """What a framing that needs no more than the body opens."""


def belongs(folder: str | Path, backbone: Backbone) -> bool:
    """Whether the folder holds a change of the base under ``backbone``, packed alike, and nothing of that base itself."""
    meta = read_meta(Path(folder))
    known, base = backbone.base_fingerprint or backbone.fingerprint(), meta["base"]
    return meta["format"] != "full" and (base["fingerprint"], base.get("quantize")) == (known, backbone.quantized)


def saved_change(folder: str | Path) -> tuple[Any, str, dict[str, Tensor]]:
    """What a ``delta`` folder holds of its backbone: the tuning, the fingerprint of the base, and the tensors by their name in the body."""
    path = Path(folder)
    meta = read_meta(path)
    if meta["format"] != "delta":
        raise ModelError(
            f"{path}: was saved in the form {meta['format']!r}; expected one that holds adapters alone, such as those of tuning pfeiffer:"
            " give another folder"
        )
    tuning = decode("tuning", meta["tuning"], f"{path}/{META}: tuning")
    return tuning, meta["base"]["fingerprint"], tensors_of(path / "delta.safetensors")


def _reads_lm_head(learner: Learner) -> bool:
    """Whether the framing's scores come from the backbone's language-model head."""
    return bool(learner.framing.reads_lm_head) and learner.backbone.lm_head is not None


def _stub(task: dict[str, Any]) -> Task:
    """A task with kind and labels only: what a framing needs to be rebuilt."""
    empty = Split("train", (), "memory")
    return Task("task", task["kind"], tuple(task["labels"]), empty, None, None, {}, (), {})
