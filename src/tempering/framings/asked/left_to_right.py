"""Running a model that reads from left to right: a common prefix once, its keys and values kept, then only what follows it.

Under causal attention the states of a token depend on nothing that follows it, so those of a shared prefix are the same in every row.
They are held as tensors that no pass ever writes to: a cache object is mutated by use, so each pass gets a new one.
"""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tempering.framings.asked.scoring import common
from tempering.framings.output_head import language_head, output_matrix

if TYPE_CHECKING:
    from tempering.backbone import Backbone

CONTEXT = 2048  # tokens that a model without a table of positions is trusted with
KEPT = 4  # prefixes whose keys and values are kept
Layers = tuple[tuple[Tensor, Tensor], ...]  # keys and values of each layer [rows, heads, length, width]


class Run(NamedTuple):
    """What the body said of some rows: ``last`` [rows, dim] at each one's last token, and what it takes to go on from there."""

    last: Tensor
    layers: Layers
    mask: Tensor
    lengths: Tensor


def context_length(backbone: Backbone) -> int:
    """Longest input the model itself can read, special tokens counted: without the cap that `Backbone.max_length` has."""
    positions = getattr(backbone.config, "max_position_embeddings", None) or 0
    room = positions - backbone.layout.position_offset - backbone.reserved if positions > 0 else CONTEXT
    return int(min(room, backbone.tokenizer.model_max_length))


def cacheable(backbone: Backbone) -> bool:
    """Whether keys and values of a prefix may be reused: the body is as it came (a tuning may put its own tokens in front of every pass),
    and takes a cache and positions.
    """
    takes = inspect.signature(backbone.model.forward).parameters
    untouched = backbone.reserved == 0 and set(backbone.model.state_dict()) <= backbone.own
    return backbone.layout.kind == "decoder" and untouched and {"past_key_values", "position_ids"} <= set(takes)


@dataclass(frozen=True)
class Prefix:
    """Keys and values of the first ``ids`` of every row; none where nothing is shared or reuse is not possible."""

    ids: tuple[int, ...] = ()
    layers: Layers = ()

    def cut(self, length: int) -> Prefix:
        """The first ``length`` tokens of it: exact, as no token sees what follows it."""
        if length <= 0 or not self.layers:
            return Prefix()
        return Prefix(self.ids[:length], tuple((k[:, :, :length], v[:, :, :length]) for k, v in self.layers))


class Prefixes:
    """The prefixes last used, by their ids, as long as no weight of the body moves."""

    def __init__(self) -> None:
        self._found: OrderedDict[tuple[int, ...], Prefix] = OrderedDict()
        self._stamp: tuple[object, ...] = ()

    def of(self, backbone: Backbone, ids: Sequence[int]) -> Prefix:
        """The prefix ``ids`` run through the body; from memory where nothing in it is trained."""
        if len(ids) == 0 or torch.is_grad_enabled() or backbone.training or not cacheable(backbone):
            return Prefix()
        weights = list(backbone.model.parameters())
        stamp = tuple((w.data_ptr(), w._version, w.device) for w in weights)
        if stamp != self._stamp or any(w.requires_grad for w in weights):
            self._found.clear()
            self._stamp = stamp
        key = tuple(ids)
        if key not in self._found:
            self._found[key] = run_prefix(backbone, key)
        self._found.move_to_end(key)
        while len(self._found) > KEPT:
            self._found.popitem(last=False)
        return self._found[key]


def run_prefix(backbone: Backbone, ids: tuple[int, ...]) -> Prefix:
    """Keys and values of ``ids``; an empty prefix where the model's cache cannot be taken back (sliding windows, recurrent states)."""
    tokens = torch.tensor([ids], device=next(backbone.model.parameters()).device)
    positions = torch.arange(len(ids), device=tokens.device)[None]
    _, cache = _extend(backbone, tokens, torch.ones_like(tokens), positions, _cache(()))
    if not cache.is_croppable:
        return Prefix()
    return Prefix(ids, _layers(cache))


def run(backbone: Backbone, rows: Sequence[Sequence[int]], prefix: Prefix) -> Run:
    """Whole rows of token ids, of which what ``prefix`` holds is not computed again; padded on the right."""
    shared = prefix.cut(min(*(common(prefix.ids, row) for row in rows), *(len(row) - 1 for row in rows)))
    done = len(shared.ids)
    ids, mask = padded([row[done:] for row in rows], next(backbone.model.parameters()).device)
    lengths = mask.sum(1)
    before = torch.ones(len(rows), done, dtype=mask.dtype, device=mask.device)
    positions = done + torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    past = _cache(tuple((k.expand(len(rows), -1, -1, -1), v.expand(len(rows), -1, -1, -1)) for k, v in shared.layers))
    whole = torch.cat([before, mask], 1)
    states, cache = _extend(backbone, ids, whole, positions, past)
    last = states[torch.arange(len(rows), device=ids.device), lengths - 1]
    return Run(last, _layers(cache), whole, lengths + done)


def go_on(backbone: Backbone, run: Run, rows: Tensor, tails: Sequence[Sequence[int]]) -> tuple[Tensor, Run]:
    """States [tails, length, dim] of ``tails``, each after the row of ``run`` that ``rows`` [tails] names, and where that leaves them."""
    ids, mask = padded(tails, rows.device)
    whole = torch.cat([run.mask[rows], mask], 1)
    positions = run.lengths[rows, None] + torch.arange(ids.shape[1], device=ids.device)
    past = _cache(tuple((k[rows], v[rows]) for k, v in run.layers))
    states, cache = _extend(backbone, ids, whole, positions, past)
    lengths = mask.sum(1)
    last = states[torch.arange(len(rows), device=ids.device), lengths - 1]
    return states, Run(last, _layers(cache), whole, run.lengths[rows] + lengths)


def padded(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids and mask [rows, longest], padded on the right with zeros."""
    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=device)
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=device)
    return ids, mask


def _extend(backbone: Backbone, ids: Tensor, mask: Tensor, positions: Tensor, past: Any) -> tuple[Tensor, Any]:
    out = backbone.model(input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=past, use_cache=True, return_dict=True)
    return out.last_hidden_state, out.past_key_values


def _cache(layers: Layers) -> Any:
    from transformers import DynamicCache

    return DynamicCache(list(layers)) if layers else DynamicCache()


def _layers(cache: Any) -> Layers:
    return tuple((layer.keys, layer.values) for layer in cache.layers)


def log_probabilities(backbone: Backbone, states: Tensor, matrix: Tensor | None = None) -> Tensor:
    """Log-probabilities of the whole vocabulary after ``states`` [rows, dim]: [rows, vocabulary] in fp32.

    ``matrix`` is the output matrix, where a caller who asks many times has it already.
    """
    head = language_head(backbone)
    logits: Tensor = head(states, output_matrix(head, backbone) if matrix is None else matrix)[0]
    return logits.float().log_softmax(-1)


@torch.no_grad()
def write(
    backbone: Backbone, contexts: Sequence[Sequence[int]], prefix: Prefix, steps: int, pick: Callable[[Tensor], Tensor], ends: Sequence[int]
) -> list[list[int]]:
    """The model's own continuations of ``contexts``: at most ``steps`` tokens, each chosen by ``pick`` ([rows, vocabulary] of
    log-probabilities -> ids [rows]), up to a token of ``ends``, which is left out.
    """
    backbone.eval()
    here, matrix = run(backbone, contexts, prefix), output_matrix(language_head(backbone), backbone)
    rows = torch.arange(len(contexts), device=here.last.device)
    written: list[list[int]] = [[] for _ in contexts]
    open_ = [True] * len(contexts)
    for step in range(steps):
        chosen = pick(log_probabilities(backbone, here.last, matrix)).tolist()
        open_ = [on and token not in ends for on, token in zip(open_, chosen, strict=True)]
        for i, token in enumerate(chosen):
            written[i] += [token] if open_[i] else []
        if not any(open_) or step + 1 == steps:
            break
        _, here = go_on(backbone, here, rows, [[token] for token in chosen])
    return written


def picker(streams: Sequence[np.random.Generator], sample: bool, temperature: float = 1.0, top_k: int = 0) -> Callable[[Tensor], Tensor]:
    """How `write` chooses a token: the likeliest, or one drawn by each row's own stream, among the ``top_k`` likeliest if any are named."""

    def pick(logp: Tensor) -> Tensor:
        if not sample:
            return logp.argmax(-1)
        if top_k:
            least = logp.topk(min(top_k, logp.shape[-1]), -1).values[:, -1:]
            logp = logp.masked_fill(logp < least, -torch.inf)
        noise = np.stack([stream.gumbel(size=logp.shape[-1]) for stream in streams])
        return (logp / temperature + torch.from_numpy(noise).to(logp)).argmax(-1)  # Gumbel-max: a draw from softmax(logp / temperature)

    return pick
