"""A backbone as a finished stage left it, read back for a run that goes on in a later one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from tempering.backbone import Backbone
from tempering.contracts import Seeds
from tempering.errors import ResumeError
from tempering.framings.output_head import language_head
from tempering.streams import torch_stream


def restore(backbone: Backbone, stage: Any, done: Path, seeds: Seeds) -> None:
    """Give ``backbone`` the shape that ``stage`` left, with its language-model head if it had one, and the weights in the file ``done``.

    A file with other tensors than the model would make another model of it, and is refused.
    """
    state, decoder = load_file(done), backbone.layout.decoder
    if decoder is not None and any(name.startswith(f"model.{decoder.blocks}.") for name in state):
        backbone.open_decoder()
    copied = getattr(stage, "apart", False) or hasattr(stage, "leave")  # it trained a copy of the backbone
    if hasattr(stage.tuning, "drop") and not copied:
        stage.tuning.drop(backbone)
    if any(name.startswith("lm_head.") for name in state):
        with torch_stream(seeds.init, "init", "framing"):
            language_head(backbone)
    missing, unexpected = backbone.load_state_dict(state, strict=False)
    mine = backbone.state_dict()
    there = {mine[name].data_ptr() for name in state if name in mine}
    odd = [*unexpected, *(name for name in missing if mine[name].data_ptr() not in there)]  # tied tensors stand in the file once
    if odd:
        raise ResumeError(
            f"{done}: holds what an earlier stage left, and does not fit {backbone.source} here ({odd[0]}); the run cannot go on from"
            " there: start it anew, without resume"
        )
