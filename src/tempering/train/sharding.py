"""Training with every weight spread over processes (FSDP2): each holds a part of it, of its gradient and of Adam's averages.

What is spread is a copy. The learner itself stays whole, in main memory, and gets the trained weights back at the end: what comes after
training (merging, saving, predicting, the next stage) knows nothing of shards. Tensors are whole in checkpoints, too.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tempering.batching import free_memory
from tempering.contracts import Weights

if TYPE_CHECKING:
    from tempering.learner import Learner
    from tempering.train.device import Place


@contextmanager
def spread(learner: Learner, where: Place) -> Iterator[Learner]:
    """What is to be trained: the learner itself or, where weights are to lie in shards, a copy whose training it takes over at the end."""
    if not where.sharded:
        yield learner
        return
    shards = in_shards(copy.deepcopy(learner), where)
    with warnings.catch_warnings():  # torch fears for scores that are changed in place, and nobody does that to them
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
        yield shards
    _take(learner, shards)
    free_memory()
    if _fits(learner, where.device):
        learner.to(where.device)
    learner.eval()


def in_shards(learner: Learner, where: Place) -> Learner:
    """Spread the weights of ``learner``, block by block; all that is not in a block is gathered and let go as one.

    Blocks that share their weights go with the rest, as each pass runs through them many times. What is gathered goes after each pass:
    else an evaluation would leave weights behind that a checkpoint then replaces unseen.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh, layout = init_device_mesh(where.device.type, (where.world,)), learner.backbone.layout
    for block in learner.backbone.blocks if layout.blocks and not layout.shared_blocks else ():
        fully_shard(block, mesh=mesh, reshard_after_forward=True)
    fully_shard(learner, mesh=mesh, reshard_after_forward=True)
    learner.sharded = True
    return learner


def gathered(tensor: Any) -> Tensor:
    """The whole of a tensor that lies in shards; any other as it is. All processes take part."""
    full: Tensor = tensor.full_tensor() if _lies_in_shards(tensor) else tensor
    return full


def _lies_in_shards(tensor: Any) -> bool:
    """Whether it is a ``DTensor``: told without the import, which other runs need not pay for."""
    return hasattr(tensor, "full_tensor")


def whole(tensors: Weights, keep: bool = True) -> Weights:
    """All of ``tensors`` whole, those that lie in shards in main memory; nothing without ``keep``, so that one process pays for all."""
    found = {}
    for name, tensor in tensors.items():  # one at a time: a device need not hold them all
        full = gathered(tensor)
        if keep:
            found[name] = tensor if full is tensor else full.detach().cpu()
    return found


def parted(tensors: Weights, like: Weights) -> Weights:
    """Whole ``tensors`` laid out as the weights of their names in ``like``: of an optimizer's, the name is what follows "/"."""
    found = dict(tensors)
    for name, tensor in tensors.items():
        weight: Any = like.get(name, like.get(name.partition("/")[2]))
        if _lies_in_shards(weight) and tensor.shape == weight.shape:
            from torch.distributed.tensor import distribute_tensor

            mine = tensor.to(weight.device)
            found[name] = distribute_tensor(mine, weight.device_mesh, weight.placements, src_data_rank=None)
    return found


@torch.no_grad()
def _take(learner: Learner, shards: Learner) -> None:
    """Put all that training changed in ``shards`` into ``learner``, in every process."""
    mine = learner.kept()
    for name, tensor in shards.kept().items():
        mine[name].copy_(gathered(tensor))


def _fits(learner: Learner, device: torch.device) -> bool:
    """Whether one device has room for the whole learner and as much again: predicting there is faster than in main memory."""
    size = sum(w.numel() * w.element_size() for w in learner.parameters())
    return device.type == "cuda" and torch.cuda.mem_get_info(device)[0] > 2 * size
