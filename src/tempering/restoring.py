"""What the files of a saved folder say: its account, its tensors, and what it changes of the base model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from tempering.backbone import Backbone
from tempering.errors import ModelError
from tempering.exporting import FORMS
from tempering.forms import MARK

META = MARK
FORMAT_VERSION = 1
_RESTORING: ContextVar[bool] = ContextVar("restoring", default=False)


@contextmanager
def restoring() -> Iterator[None]:
    """While open, attaching makes places for weights that are about to be read: nothing is worked out from the pretrained ones."""
    token = _RESTORING.set(True)
    try:
        yield
    finally:
        _RESTORING.reset(token)


def is_restoring() -> bool:
    """Whether what is attached now gets its weights from a folder."""
    return _RESTORING.get()


def read_meta(path: Path) -> dict[str, Any]:
    """``tempering.json`` of the folder at ``path``."""
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


def tensors_of(path: Path) -> dict[str, Tensor]:
    """The tensors of a file of the folder; one that is missing or damaged is named."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path}: missing or damaged ({error}); copy the whole folder again, or fit the model again") from None


def load_change(backbone: Backbone, tuning: Any, path: Path, meta: Mapping[str, Any]) -> None:
    """Put the tensors of the folder in the places that ``tuning`` has made for them."""
    if meta["format"] == "delta":
        state = tensors_of(path / "delta.safetensors")
    else:
        stored = tensors_of(path / "adapter_model.safetensors")
        prefix = _prefix(backbone, path) if meta.get("prefix") is None else meta["prefix"]
        if hasattr(tuning, "from_peft"):
            state = tuning.from_peft(stored, backbone, prefix)
        else:
            state = {mine: stored[theirs] for mine, theirs in tuning.peft_names(backbone, prefix).items()}
    body: Any = backbone.model
    _, unexpected = body.load_state_dict({k.removeprefix("model."): v for k, v in state.items()}, strict=False)
    if unexpected:
        raise ModelError(f"{path}: {unexpected[0]} has no place in this base model; the folder belongs to another one")


def _prefix(backbone: Backbone, path: Path) -> str:
    """What the names in an adapter begin with, by the kind of class it is for."""
    kind = json.loads((path / "adapter_config.json").read_text(encoding="utf-8"))["task_type"]
    specs = [found.spec(backbone) for found in FORMS.values() if found.task_type == kind]
    return specs[0].body if specs and specs[0] else ""
