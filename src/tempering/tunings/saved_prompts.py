"""Prompts that earlier runs have saved, to begin another one with: transfer of prompts after SPoT (Vu et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from tempering.errors import ModelError
from tempering.saving import saved_change

ENDING = "prompt.weight"


class Source(NamedTuple):
    """A folder with a saved prompt, and the cosine of its task to the target's."""

    folder: str
    similarity: float


def saved_prompt(folder: str | Path, width: int | None = None, base: str | None = None) -> Tensor:
    """The vectors [p, width] of the prompt that prompt tuning saved in ``folder``; those of another ``width`` or ``base`` are refused."""
    tuning, fingerprint, tensors = saved_change(folder)
    found = [t for name, t in tensors.items() if name == ENDING or name.endswith(f".{ENDING}")]
    if len(found) != 1:
        raise ModelError(f"{folder}: was trained with {type(tuning).__name__} and holds no prompt; give a folder of prompt_tuning")
    if width is not None and found[0].shape[1] != width:
        raise ModelError(
            f"{folder}: its prompt is for embeddings of width {found[0].shape[1]}, and these are {width} wide; give one of the same model"
        )
    if base is not None and fingerprint != base:
        raise ModelError(f"{folder}: its prompt was trained for another model ({fingerprint}), and vectors mean nothing to a different one")
    return found[0]


def similarity(a: Tensor, b: Tensor) -> float:
    """cos(mean_i a_i, mean_i b_i) of two prompts [p, width]: the tasks' likeness by their embeddings, SPoT's "cosine of average tokens"."""
    return float(F.cosine_similarity(a.float().mean(0), b.float().mean(0), dim=0))


def most_similar(target: str | Path, sources: Sequence[str | Path]) -> list[Source]:
    """``sources`` by their likeness to ``target``, a folder of the same prompt tuning taken early on the target task; best first."""
    mine, base = saved_prompt(target), saved_change(target)[1]
    found = [Source(str(folder), similarity(mine, saved_prompt(folder, mine.shape[1], base))) for folder in sources]
    return sorted(found, key=lambda s: -s.similarity)


def mixture(sources: Sequence[Source], k: int) -> Tensor:
    """sum_i s_i P_i / sum_i s_i over the ``k`` most similar sources, s_i their similarity: SPoT's weighted average. Prompts of equal p."""
    best = sorted(sources, key=lambda s: -s.similarity)[:k]
    if not best or best[-1].similarity <= 0:
        raise ModelError(f"a weighted mean takes {k} sources whose tasks are alike; {best[-1].folder if best else 'none'} is not")
    shares = torch.tensor([s.similarity for s in best])
    return torch.einsum("k,kpd->pd", shares / shares.sum(), torch.stack([saved_prompt(s.folder).float() for s in best]))
