"""The base model that a saved folder is a change of: found where it was, or handed in, and known by its fingerprint."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tempering.backbone import Backbone
from tempering.errors import ModelError

Opens = Callable[[Backbone], None]


def base_of(path: Path, meta: Mapping[str, Any], given: Backbone | str | Path | None, opens: Opens) -> Backbone:
    """The backbone for the folder at ``path``, whose ``tempering.json`` holds ``meta``; ``opens`` loads what else the framing needs.

    ``given`` stands for the base that was noted, wherever that is now. One with other weights is refused. A folder that holds a whole
    model is read from there: then ``given`` is only compared.
    """
    base, whole = meta["base"], meta["format"] == "full"
    if given is not None:
        backbone = _lent(path, base, given)
        opens(backbone)
        _check_given(path, base, backbone)
        if not whole:
            backbone.source = base["source"] if base["changed"] or not backbone.where else backbone.source
            return backbone
    where = path if whole else path / "base" if base["changed"] else None
    try:
        backbone = Backbone.load(str(where or base["source"]), base.get("seed", 0), base.get("quantize"))
    except ModelError as error:
        raise _unread(path, base, where, error) from None
    opens(backbone)
    if not whole:
        _check_found(path, base, backbone)
    backbone.source = base["source"]
    return backbone


def _lent(path: Path, base: Mapping[str, Any], given: Backbone | str | Path) -> Backbone:
    """``given`` loaded, or copied; packed as the folder wants it."""
    wanted = base.get("quantize")
    if not isinstance(given, Backbone):
        return Backbone.load(str(given), base.get("seed", 0), wanted)
    if given.quantized not in (None, wanted):
        raise ModelError(
            f"{path}: was trained on matrices {f'packed in {wanted}' if wanted else 'as they are'}, and those of the base model given are"
            f" packed in {given.quantized}; load that without packing"
        )
    given.check_bare()
    backbone = copy.deepcopy(given)
    if wanted is not None and backbone.quantized is None:
        backbone.pack(wanted)
    return backbone


def _check_given(path: Path, base: Mapping[str, Any], backbone: Backbone) -> None:
    found, known = backbone.fingerprint(), base["fingerprint"]
    if known and found != known:
        inside = f"the one in {path / 'base'}" if base["changed"] else repr(base["source"])
        seed = base.get("seed", backbone.seed)
        if not base["changed"] and seed != backbone.seed:
            inside += f", the weights that its checkpoint lacks drawn with seed {seed}, and those of the one given with {backbone.seed}"
        raise ModelError(
            f"{path}: {backbone.source!r} is not the base model it was trained on, which was {inside} (fingerprint {known[:8]}, of the one"
            f" given {found[:8]}); give that one, from wherever it is now, or none"
        )


def _check_found(path: Path, base: Mapping[str, Any], backbone: Backbone) -> None:
    found = backbone.fingerprint()
    if found != base["fingerprint"]:
        raise ModelError(
            f"{path}: was trained on another {base['source']!r} than the one found here"
            f" (fingerprint {base['fingerprint'][:8]}, here {found[:8]});"
            " put the original base model in place, or save with --merge"
        )


def _unread(path: Path, base: Mapping[str, Any], where: Path | None, error: ModelError) -> ModelError:
    """What to do where no model is found; any other error as it is. The user gave no --model, and is not told of one."""
    said, source = str(error), str(base["source"])
    if not said.startswith("--model "):
        return error
    if where is not None:
        return ModelError(f"{path}: the model in {where} cannot be read; the folder is damaged: copy the whole of it again, or fit anew")
    reason = said.split(": ", 1)[-1].split(";")[0]
    return ModelError(
        f"{path}: holds only what was trained, and its base model {source!r} cannot be read from there ({reason}); put it back, or say"
        " where it is now: temper predict, evaluate and merge take --model, tempering.load and TextClassifier.from_pretrained base_model"
    )
