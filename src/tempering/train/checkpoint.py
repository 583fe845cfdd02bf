"""Our own checkpoints: tensors in safetensors, the rest in JSON, a folder renamed into place when it is whole. No pickle."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from tempering.contracts import Weights
from tempering.errors import ResumeError


def write(folder: Path, step: int, tensors: dict[str, Weights], state: dict[str, Any]) -> Path:
    """Write ``checkpoint-<step>`` under ``folder`` and remove older ones. ``tensors`` are groups of named tensors."""
    target = folder / f"checkpoint-{step}"
    part = folder / f".checkpoint-{step}.{os.getpid()}"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for group, weights in tensors.items():
        save_file({k: v.detach().cpu().contiguous() for k, v in weights.items()}, part / f"{group}.safetensors")
    (part / "state.json").write_text(json.dumps(state | {"step": step, "groups": sorted(tensors)}, indent=1))
    shutil.rmtree(target, ignore_errors=True)
    part.replace(target)
    clear(folder, but=target)
    return target


def clear(folder: Path, but: Path | None = None) -> None:
    """Remove the checkpoints under ``folder``, all of them or all ``but`` one."""
    for old in (*folder.glob("checkpoint-*"), *folder.glob(".checkpoint-*")):  # what a kill left half written too
        if old != but:
            shutil.rmtree(old, ignore_errors=True)


def latest(folder: Path) -> Path | None:
    """The newest whole checkpoint under ``folder``."""
    found = [p for p in folder.glob("checkpoint-*") if (p / "state.json").exists() and p.name.rpartition("-")[2].isdecimal()]
    return max(found, key=lambda p: int(p.name.rpartition("-")[2]), default=None)


def read(path: Path, identity: dict[str, Any]) -> tuple[dict[str, Weights], dict[str, Any]]:
    """Tensors and state of a checkpoint; refuses one that was made by another recipe, data, model or seeds."""
    try:
        state = dict(json.loads((path / "state.json").read_text(encoding="utf-8")))
        tensors = {g: _aligned(load_file(path / f"{g}.safetensors")) for g in state["groups"]}
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ResumeError(f"{path}: the checkpoint is damaged ({error}); remove it and start again without --resume") from None
    for name, mine in identity.items():
        if state.get("identity", {}).get(name) != mine:
            raise ResumeError(
                f"{path} was made with another {name} ({state.get('identity', {}).get(name)!r}, now {mine!r});"
                " resume with the settings of that run, or give another --output-dir"
            )
    return tensors, state


def _aligned(weights: Weights) -> Weights:
    """Copies in memory of torch's own: a file's tensors lie where its header ends, and vector sums differ in the last bit with that."""
    return {name: tensor.clone() for name, tensor in weights.items()}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> Weights:
    """Optimizer state as named tensors: ``<field>/<weight>``."""
    found: Weights = {}
    for group in optimizer.param_groups:
        for name, weight in zip(group["names"], group["params"], strict=True):
            found |= {f"{field}/{name}": value for field, value in optimizer.state.get(weight, {}).items()}
    return found


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Weights) -> None:
    """Put `optimizer_tensors` back."""
    by_name: dict[str, Weights] = {}
    for key, value in tensors.items():
        field, _, name = key.partition("/")
        by_name.setdefault(name, {})[field] = value
    for group in optimizer.param_groups:
        for name, weight in zip(group["names"], group["params"], strict=True):
            if name in by_name:
                optimizer.state[weight] = {f: v.to(weight.device) for f, v in by_name[name].items()}  # a fused step count too
