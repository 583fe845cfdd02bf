"""Saved changes of one base model: put one in the place of another, and add several up with weights.

A *delta* is a folder that `save_pretrained` wrote for a tuning that leaves the base model as it is. Functions here make learners
anew and leave the one they are given untouched.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tempering.backbone import Backbone
from tempering.contracts import Weights
from tempering.errors import ModelError, RecipeError
from tempering.learner import Learner
from tempering.restoring import read_meta
from tempering.saving import form_of, load
from tempering.tunings.attach import body_weights, sizes, walk
from tempering.tunings.full import Full
from tempering.tunings.lora import LoRA, LowRank
from tempering.tunings.truncate import Truncate


def bare(backbone: Backbone) -> Backbone:
    """The base model under ``backbone``: its own tensors (shared, not copied) in a body on which nothing hangs."""
    _refuse_packed(backbone)
    with torch.device("meta"):
        body: Any = type(backbone.model)(copy.deepcopy(backbone.config))
    state: Weights = dict(backbone.model.named_parameters(remove_duplicate=False))
    state |= dict(backbone.model.named_buffers(remove_duplicate=False))
    made: dict[int, nn.Parameter] = {}  # tied weights stay one
    there = {path for path, _ in walk(backbone.model)}
    for path in [p for p, m in walk(body) if p and p not in there]:  # a pooler that was left out
        if hasattr(body, path.partition(".")[0]) and "." not in path:
            setattr(body, path, None)
    for path, module in walk(body):
        held: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
        for names in held:
            for name, blank in [(n, tensor) for n, tensor in names.items() if tensor is not None]:
                tensor = _same(state, f"{path}.{name}" if path else name)
                names[name] = made.setdefault(id(tensor), nn.Parameter(tensor.detach())) if isinstance(blank, nn.Parameter) else tensor
    found = Backbone(body, backbone.tokenizer, backbone.source, backbone.where, backbone.whole)
    found.pretrained, found.lm_head = backbone.pretrained, backbone.lm_head
    found.changed, found.base_fingerprint, found.seed = backbone.changed, backbone.base_fingerprint, backbone.seed
    return found.eval()


def _refuse_packed(backbone: Backbone) -> None:
    if backbone.quantized:
        raise ModelError(
            f"the matrices of {backbone.source} are packed in {backbone.quantized}, and a body of its own cannot be made of them; load the"
            " folder with tempering.load, or several with tempering.load_many"
        )


def _same(state: Weights, name: str) -> Tensor:
    if name not in state:
        raise ModelError(f"{name} of the base model is not there: its tuning took it off; load the base model anew instead")
    return state[name]


def switch(learner: Learner, folder: str | Path) -> Learner:
    """The learner saved in ``folder``, over the base model that ``learner`` holds in memory; both work, and share what they have alike.

    The base is read again from where it lies if ``learner`` trained some of its own weights (biases, norms), or if the folder belongs to
    another one. A ``learner`` that is a whole model, without a base beside its change, is a `ModelError`.
    """
    _refuse_packed(learner.backbone)
    _refuse_whole(learner, folder)
    found = load(folder, _base_for(learner, folder)).to(learner.device)
    mine = _untrained(learner)
    for name, weight in _untrained(found).items():
        if name in mine and torch.equal(weight, mine[name]):
            weight.data = mine[name].data  # one copy of the base for both
    return found.eval()


def _base_for(learner: Learner, folder: str | Path) -> Backbone | str | None:
    """The base of ``folder`` as ``learner`` has it: in memory, or by name where it has moved. None: where the folder says that it is."""
    backbone, noted = learner.backbone, read_meta(Path(folder))["base"]
    if not learner.tuning.trains_pretrained:
        base = bare(backbone)
        return base if base.fingerprint() == noted["fingerprint"] else None
    same = backbone.base_fingerprint == noted["fingerprint"] and not backbone.changed
    return backbone.source if same and backbone.where and backbone.source != noted["source"] else None


def _refuse_whole(learner: Learner, folder: str | Path) -> None:
    """Refuse a learner whose base model is not there under its change, by the name of the tuning that made it so."""
    name = type(learner.tuning).__name__
    if _truncated(learner):
        why = f"its tuning {name} has dropped blocks of the base model"
    elif _whole(learner):
        why = f"its tuning {name} made one whole model of it, with no base model left apart"
    else:
        return
    raise ModelError(f"{folder}: cannot take the place of the learner at hand: {why}; load the folder with tempering.load")


def _truncated(learner: Learner) -> bool:
    return isinstance(learner.tuning, Truncate)


def _whole(learner: Learner) -> bool:
    """Whether its change is in the body's own weights, as it was trained or since it was merged: a copy of all of them is saved."""
    return learner.tuning.trains_backbone and form_of(learner) == "full"


def _untrained(learner: Learner) -> Weights:
    """The weights of its base model that its tuning leaves as they are, by name."""
    trains = learner.tuning.trains_pretrained
    return {name: weight for name, weight in body_weights(learner.backbone).items() if not (trains and weight.requires_grad)}


def merge_deltas(
    folders: Sequence[str | Path], weights: Sequence[float] | None = None, base_model: Backbone | str | Path | None = None
) -> Learner:
    """One learner with the weighted sum of several saved changes of one base model; ``weights`` are equal and sum to 1 if not given.
    ``base_model`` is where the base is now, or itself, as in `tempering.load`.

    W = W0 + sum of w_i (W_i - W0) in every matrix and vector, W_i being the merged (or fully tuned) weights of folder i. LoRAs of the
    same targets stay a LoRA: their products add up by joining, A = [A_1; A_2 ..] and B = [w_1 s_1 B_1, w_2 s_2 B_2 ..], of rank
    r_1 + r_2 ...; averaging A and B apart would mix them. All else gives whole weights. The head is that of the first folder.
    """
    shares = [1.0 / len(folders)] * len(folders) if weights is None and folders else [float(w) for w in weights or ()]
    if len(shares) != len(folders) or len(folders) < 2:
        raise RecipeError(
            f"merging deltas needs at least two folders and one weight for each; found {len(folders)} folders and {len(shares)} weights:"
            " give as many of both"
        )
    learners = [load(folder, base_model) for folder in folders]
    for learner, folder in zip(learners, folders, strict=True):
        if learner.backbone.quantized:
            raise ModelError(
                f"{folder}: the matrices of its base model are packed in {learner.backbone.quantized} and add nothing up; leave it out"
            )
        if _truncated(learner):
            raise ModelError(
                f"{folder}: its tuning truncate has dropped blocks of its base model, so its change adds to no other; leave it out"
            )
    base = _base(learners, base_model)
    known = base.fingerprint()
    for learner, folder in zip(learners, folders, strict=True):
        if not learner.tuning.merges:
            raise ModelError(f"{folder}: its tuning cannot be merged into weights, so it cannot be added to others; leave it out")
        elsewhere = base_model is None and learner.backbone.source != base.source  # what is given was compared with each folder already
        if elsewhere or (learner.backbone.base_fingerprint or known) != known:
            raise ModelError(
                f"{folder}: is a change of another base model ({_told(learner.backbone)}) than {folders[0]}"
                f" ({_told(learners[0].backbone)}); give folders that were trained from one base"
            )
    joined = _joined(base, learners, shares)
    return joined if joined is not None else _summed(base, learners, shares)


def _told(backbone: Backbone) -> str:
    return f"{backbone.source}, changed by an earlier stage" if backbone.changed else backbone.source


def _base(learners: Sequence[Learner], given: Backbone | str | Path | None) -> Backbone:
    """The base model, from a learner that left it as it was, else as ``given``, else loaded anew."""
    untouched = [learner for learner in learners if not learner.tuning.trains_pretrained and not _whole(learner)]
    if untouched:
        return bare(untouched[0].backbone)
    first = learners[0].backbone
    return copy.deepcopy(given) if isinstance(given, Backbone) else Backbone.load(str(given or first.source), first.seed)


@torch.no_grad()
def _summed(base: Backbone, learners: Sequence[Learner], shares: Sequence[float]) -> Learner:
    """Whole weights: the base plus the weighted differences."""
    result = copy.deepcopy(base)
    own = body_weights(result)
    total: Weights = {name: torch.zeros_like(weight) for name, weight in own.items()}
    for learner, share in zip(learners, shares, strict=True):
        changed = copy.deepcopy(learner.backbone)
        learner.tuning.merge(changed)
        for name, weight in body_weights(changed).items():
            total[name] += share * (weight - own[name])
    for name, weight in own.items():
        weight.add_(total[name])
    result.changed = True
    first = learners[0]
    return Learner(result, copy.deepcopy(first.framing), Full(), dict(first.record)).eval()


@torch.no_grad()
def _joined(base: Backbone, learners: Sequence[Learner], shares: Sequence[float]) -> Learner | None:
    """One LoRA of the summed rank; None where the learners are not LoRAs of the same targets, or it would exceed a matrix."""
    tunings = [learner.tuning for learner in learners]
    if not all(isinstance(t, LoRA) and not t.modules_to_save for t in tunings) or len({t.target_modules for t in tunings}) > 1:
        return None
    if any(_whole(learner) for learner in learners):  # merged before it was saved
        return None
    rank = sum(t.r for t in tunings)
    targets = [path for path, _ in tunings[0].targets(base)]
    if rank > min(min(sizes(base.model.get_submodule(path))) for path in targets):
        return None
    value = LoRA(r=rank, lora_alpha=rank, target_modules=tunings[0].target_modules)  # scale 1
    value.attach(base)
    for path in targets:
        parts = [_low_rank(learner, path) for learner in learners]
        new = _low_rank_of(base, path)
        new.A.copy_(torch.cat([part.A for part in parts]))
        new.B.copy_(torch.cat([share * part.scaling * part.B for share, part in zip(shares, parts, strict=True)], dim=1))
    first = learners[0]
    return Learner(base, copy.deepcopy(first.framing), value, dict(first.record)).eval()


def _low_rank(learner: Learner, path: str) -> LowRank:
    return _low_rank_of(learner.backbone, path)


def _low_rank_of(backbone: Backbone, path: str) -> LowRank:
    found = backbone.model.get_submodule(f"{path}.lora")
    assert isinstance(found, LowRank)
    return found
