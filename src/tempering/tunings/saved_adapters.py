"""Trained Pfeiffer adapters read from saved folders into a frozen place of another tuning."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from tempering.backbone import Backbone
from tempering.errors import ModelError
from tempering.tunings.pfeiffer import Pfeiffer

if TYPE_CHECKING:
    from torch import nn

Tensors = dict[str, Tensor]


def read_adapters(field: str, folder: str, backbone: Backbone, expected: Pfeiffer) -> Tensors:
    """The tensors of the pfeiffer adapters in ``folder``, by their name in the body.

    A folder that is missing, of another tuning, of another setting than ``expected``, or trained on another backbone is a `ModelError`
    in the name of ``field``. A backbone that is an outline has no weights to tell it by: then all but that is checked.
    """
    from tempering.saving import saved_change

    where = f"{field}: {folder}"
    try:
        tuning, fingerprint, tensors = saved_change(folder)
    except ModelError as error:
        raise ModelError(f"{field}: {error}") from None
    if type(tuning) is not Pfeiffer:
        raise ModelError(
            f"{where} holds a {type(tuning).__name__}; expected a folder that was fitted with tuning pfeiffer alone; choose one"
        )
    outlined = backbone.embeddings.get_parameter("weight").is_meta
    found = fingerprint if outlined else base_fingerprint(backbone)
    if fingerprint != found:
        raise ModelError(
            f"{where} was trained on another backbone than {backbone.source} (fingerprint {fingerprint[:8]}, here {found[:8]});"
            " fit the adapter on this model, or give --model the one it was trained on"
        )
    mine, theirs = expected.setting(backbone), tuning.setting(backbone)
    if theirs != mine or (expected.invertible and not tuning.invertible):
        raise ModelError(
            f"{where} holds adapters of width and activation {theirs}{', invertible' if tuning.invertible else ''}, expected {mine}"
            f"{', invertible' if expected.invertible else ''}; give the fields of {field.split('.')[0]} that it was fitted with"
        )
    return tensors


def base_fingerprint(backbone: Backbone) -> str:
    """That of the body as it stands under the adapters: known from before they were attached, unless a stage has changed it since."""
    return backbone.fingerprint() if backbone.changed or not backbone.base_fingerprint else backbone.base_fingerprint


def fill(module: nn.Module, tensors: Tensors, prefix: str) -> int:
    """Copy the tensors under ``prefix`` into ``module``; where there are none, as in a dropped layer, it stays. How many were copied."""
    own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    if own:
        module.load_state_dict(own)
    return len(own)
