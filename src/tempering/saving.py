"""A learner on disk and back. Safetensors and JSON only; predictions after a reload are equal.

Three forms, chosen by what the tuning did:

* ``full``: the whole body. With the family's own head it is what ``AutoModelForSequenceClassification`` loads.
* ``peft``: what ``PeftModel.from_pretrained`` loads (LoRA); the base model is named, not copied.
* ``delta``: the trained and added tensors, for methods that PEFT does not have (biases or norms alone are one); the base model is
  named, not copied.

Where an earlier stage changed the base, it is saved along in ``base/``. ``tempering.json`` and ``framing.safetensors`` hold the rest.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tempering.backbone import Backbone
from tempering.codec import decode, encode
from tempering.errors import ModelError
from tempering.exporting import FORMS, compare_reload, export_classifier, export_peft, export_text, save_body
from tempering.learner import Learner
from tempering.tasks.task import Split, Task

META = "tempering.json"
KEPT = "framing.json"  # only where the framing keeps something of the training data
LM_HEAD = "lm_head.safetensors"  # only where the framing reads it: it is the backbone's, not the framing's
FORMAT_VERSION = 1
LANGUAGE = ("text", "masked")  # framings whose transformers class has a language-model head


def form_of(learner: Learner) -> str:
    """``full``, ``peft`` or ``delta``."""
    if _untouched(learner) or learner.backbone.quantized:  # only `load` packs the base model again
        return "delta"
    if set(learner.backbone.model.state_dict()) == learner.backbone.own:
        return "delta" if _in_small(learner) else "full"
    return "peft" if hasattr(learner.tuning, "peft_names") and learner.backbone.layout.head is not None else "delta"


def _in_small(learner: Learner) -> bool:
    """Whether only biases or norms of the pretrained body are trained: kilobytes, which a copy of the body would hide."""
    tuning, backbone = learner.tuning, learner.backbone
    small = tuning.trains_pretrained and not getattr(tuning, "trains_matrices", True) and not backbone.changed
    return small and not all(p.requires_grad for p in backbone.model.parameters())  # all are free in one that was merged and reloaded


def _untouched(learner: Learner) -> bool:
    """Whether the body is the pretrained one and no other library could use a copy of it with this framing: it is named, not copied."""
    trains = learner.tuning.trains_backbone or learner.backbone.changed
    return not trains and learner.framing.reads_lm_head and learner.framing.export_state() is None


def loads_with(learner: Learner) -> list[str]:
    """Which libraries load the saved folder."""
    form = form_of(learner)
    if form == "full" and learner.framing.form in LANGUAGE:
        return ["transformers", "tempering"]
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
    folder.mkdir(parents=True, exist_ok=True)
    form = form_of(learner)
    save_file({k: v.contiguous() for k, v in learner.framing.state_dict().items()}, folder / "framing.safetensors")
    if form == "full":
        exported = learner.framing.form not in LANGUAGE and export_classifier(learner, folder)
        if learner.framing.form in LANGUAGE:
            export_text(learner, folder)
    else:
        exported = form == "peft" and export_peft(learner, folder)
        if form == "delta":
            save_file(_delta(learner), folder / "delta.safetensors")
        if learner.backbone.changed:
            save_body(learner.backbone, folder / "base")
    if kept := learner.framing.keep():
        (folder / KEPT).write_text(json.dumps(kept, ensure_ascii=False), encoding="utf-8")
    if _reads_lm_head(learner):
        save_file({k: v.contiguous() for k, v in _lm_head(learner.backbone).state_dict().items()}, folder / LM_HEAD)
    learner.backbone.tokenizer.save_pretrained(folder)
    (folder / META).write_text(json.dumps(_meta(learner, form), indent=1, ensure_ascii=False), encoding="utf-8")
    if exported:
        compare_reload(learner, folder, form)
    return folder


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


def load(folder: str | Path, base_model: Backbone | None = None) -> Learner:
    """The learner that `save` wrote to ``folder``, with equal predictions. ``base_model``: its base, if loaded already; it is copied."""
    path = Path(folder)
    meta = _read_meta(path)
    form, base = meta["format"], meta["base"]
    given = (base_model.source, base_model.quantized) if base_model is not None and form != "full" and not base["changed"] else None
    if base_model is not None and given == (base["source"], base.get("quantize")) and base.get("seed", base_model.seed) == base_model.seed:
        backbone = copy.deepcopy(base_model)
    else:
        where = str(path if form == "full" else path / "base" if base["changed"] else base["source"])
        backbone = Backbone.load(where, base.get("seed", 0), base.get("quantize"))
    tuning = decode("tuning", meta["tuning"], f"{path}/{META}: tuning")
    framing_value = decode("framing", meta["framing"], f"{path}/{META}: framing")
    if hasattr(framing_value, "opens"):
        framing_value.opens(backbone)
    if form != "full":
        _check_base(backbone, base, path)
        tuning.attach(backbone)
        eject(tuning, backbone)
        _load_change(backbone, tuning, path, form)
    backbone.source, backbone.base_fingerprint, backbone.changed = base["source"], base["fingerprint"], base["changed"]
    framing = framing_value.build(_stub(meta["task"]), backbone)
    if (path / KEPT).exists():
        framing.recall(json.loads((path / KEPT).read_text(encoding="utf-8")))
    framing.load_state_dict(_tensors(path / "framing.safetensors"))
    learner = Learner(backbone, framing, tuning, meta["record"] | {"framing": framing_value})
    if _reads_lm_head(learner):
        _lm_head(backbone).load_state_dict(_tensors(path / LM_HEAD))
    return learner.eval()


def saved_change(folder: str | Path) -> tuple[Any, str, dict[str, Tensor]]:
    """What a ``delta`` folder holds of its backbone: the tuning, the fingerprint of the base, and the tensors by their name in the body."""
    path = Path(folder)
    meta = _read_meta(path)
    if meta["format"] != "delta":
        raise ModelError(
            f"{path}: was saved in the form {meta['format']!r}; expected one that holds adapters alone, such as those of tuning pfeiffer:"
            " give another folder"
        )
    tuning = decode("tuning", meta["tuning"], f"{path}/{META}: tuning")
    return tuning, meta["base"]["fingerprint"], _tensors(path / "delta.safetensors")


def _reads_lm_head(learner: Learner) -> bool:
    """Whether the framing's scores come from the backbone's language-model head."""
    return bool(learner.framing.reads_lm_head) and learner.backbone.lm_head is not None


def _read_meta(path: Path) -> dict[str, Any]:
    try:
        meta: Any = json.loads((path / META).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{path}: no {META} there; expected a folder that temper fit or save_pretrained wrote") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ModelError(f"{path / META}: not readable as JSON ({error}); the folder is damaged, fit the model again") from None
    if not isinstance(meta, dict):
        raise ModelError(f"{path / META}: expected a JSON object, found {type(meta).__name__}; the folder is damaged, fit the model again")
    if meta.get("version") != FORMAT_VERSION:
        raise ModelError(f"{path / META}: format version {meta.get('version')!r}; this release reads {FORMAT_VERSION}")
    return dict(meta)


def _check_base(backbone: Backbone, base: dict[str, Any], path: Path) -> None:
    found = backbone.fingerprint()
    if found != base["fingerprint"]:
        raise ModelError(
            f"{path}: was trained on another {base['source']!r} than the one found here"
            f" (fingerprint {base['fingerprint'][:8]}, here {found[:8]});"
            " put the original base model in place, or save with --merge"
        )


def _tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file of the folder; one that is missing or damaged is named."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path}: missing or damaged ({error}); copy the whole folder again, or fit the model again") from None


def _load_change(backbone: Backbone, tuning: Any, path: Path, form: str) -> None:
    if form == "delta":
        state = _tensors(path / "delta.safetensors")
    else:
        stored = _tensors(path / "adapter_model.safetensors")
        kind = json.loads((path / "adapter_config.json").read_text(encoding="utf-8"))["task_type"]
        specs = [found.spec(backbone) for found in FORMS.values() if found.task_type == kind]
        prefix = specs[0].body if specs and specs[0] else ""
        if hasattr(tuning, "from_peft"):
            state = tuning.from_peft(stored, backbone, prefix)
        else:
            state = {mine: stored[theirs] for mine, theirs in tuning.peft_names(backbone, prefix).items()}
    body: Any = backbone.model
    _, unexpected = body.load_state_dict({k.removeprefix("model."): v for k, v in state.items()}, strict=False)
    if unexpected:
        raise ModelError(f"{path}: {unexpected[0]} has no place in this base model; the folder belongs to another one")


def _stub(task: dict[str, Any]) -> Task:
    """A task with kind and labels only: what a framing needs to be rebuilt."""
    empty = Split("train", (), "memory")
    return Task("task", task["kind"], tuple(task["labels"]), empty, None, None, {}, (), {})
