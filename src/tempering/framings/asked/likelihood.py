"""Exact log-likelihoods of answers under a model that reads from left to right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from tempering.framings.asked.left_to_right import Prefix, go_on, log_probabilities, padded, run
from tempering.framings.asked.scoring import Split, common
from tempering.framings.output_head import language_head, output_matrix

if TYPE_CHECKING:
    from tempering.backbone import Backbone

POSITIONS = 512  # positions whose logits over the vocabulary are held at once


class Read(NamedTuple):
    """States that predict answer tokens: ``last`` [splits, dim] after each context, ``inside`` [positions, dim] after tokens of answers.

    ``at`` [branches] is where in ``inside`` each branch begins.
    """

    last: Tensor
    inside: Tensor
    at: list[int]


class Branches(NamedTuple):
    """What has to be fed after the contexts: ``fed`` token rows, the context ``of`` each, and the branch of every answer (-1: none)."""

    fed: list[list[int]]
    of: list[int]
    answer: list[list[int]]


def branches(splits: Sequence[Split]) -> Branches:
    """The answers' tokens that the model must read to score the rest: all but each one's last, and no row that another begins with.

    Answers of one token need none, and ``Positive`` and ``Positively`` share one.
    """
    fed: list[list[int]] = []
    of: list[int] = []
    answer: list[list[int]] = []
    for i, found in enumerate(splits):
        mine: list[int] = []
        wanted = [tail[:-1] for tail in found.tails]
        for row in sorted((w for w in wanted if w), key=len, reverse=True):
            if not any(fed[b][: len(row)] == row for b in mine):
                mine.append(len(fed))
                fed.append(row)
                of.append(i)
        answer.append([next((b for b in mine if row and fed[b][: len(row)] == row), -1) for row in wanted])
    return Branches(fed, of, answer)


def totals(backbone: Backbone, splits: Sequence[Split], prefix: Prefix, reuse: bool) -> list[Tensor]:
    """log P(answer | context) of every answer of every split: a tensor [answers] each.

    Formula: sum over t of log P(y_t | context, y_<t). Logits at a position predict the next token, so an answer's last token is never
    fed. With ``reuse`` the prefix is not run again, and answers go on from one pass over each context; without, whole rows are run, with
    gradient where there is one. Both are exact.
    """
    plan = branches(splits)
    read = _reused(backbone, splits, plan, prefix) if reuse else _whole(backbone, splits, plan)
    where, tokens, slots, sizes = _needed(splits, plan, read)
    states = torch.cat([read.last, read.inside])
    places, ids, owners = (torch.tensor(x, dtype=torch.int64, device=states.device) for x in (where, tokens, slots))
    summed = torch.zeros(sum(sizes), device=states.device).index_add(0, owners, _pick(backbone, states, places, ids))
    return list(summed.split(sizes))


def _needed(splits: Sequence[Split], plan: Branches, read: Read) -> tuple[list[int], list[int], list[int], list[int]]:
    """Of every scored token: the state that predicts it, its id, and the answer it counts for; and how many answers each split has."""
    where: list[int] = []
    tokens: list[int] = []
    slots: list[int] = []
    done = 0
    for i, found in enumerate(splits):
        for tail, start, branch in zip(found.tails, found.starts, plan.answer[i], strict=True):
            for j in range(start, len(tail)):
                where.append(i if j == 0 else len(read.last) + read.at[branch] + j - 1)
                tokens.append(tail[j])
                slots.append(done)
            done += 1
    return where, tokens, slots, [len(found.tails) for found in splits]


def _pick(backbone: Backbone, states: Tensor, where: Tensor, tokens: Tensor) -> Tensor:
    """log P(token) at ``states[where]``; the vocabulary's logits are made of a few states at a time, and of none that predict nothing."""
    used, inverse = where.unique(return_inverse=True)
    found, matrix = torch.zeros(len(where), device=states.device), output_matrix(language_head(backbone), backbone)
    for begin in range(0, len(used), POSITIONS):
        logp = log_probabilities(backbone, states[used[begin : begin + POSITIONS]], matrix)
        mine = (inverse >= begin) & (inverse < begin + POSITIONS)
        found = found.masked_scatter(mine, logp[inverse[mine] - begin, tokens[mine]])
    return found


def _reused(backbone: Backbone, splits: Sequence[Split], plan: Branches, prefix: Prefix) -> Read:
    """One pass over the contexts after ``prefix``, then the branches from there, as many at a time as there are contexts."""
    here = run(backbone, [found.context for found in splits], prefix)
    parts: list[Tensor] = []
    at: list[int] = []
    done = 0
    for begin in range(0, len(plan.fed), len(splits)):
        fed = plan.fed[begin : begin + len(splits)]
        rows = torch.tensor(plan.of[begin : begin + len(splits)], device=here.last.device)
        states, _ = go_on(backbone, here, rows, fed)
        for i, row in enumerate(fed):
            at.append(done)
            parts.append(states[i, : len(row)])
            done += len(row)
    return Read(here.last, torch.cat(parts) if parts else here.last[:0], at)


def _whole(backbone: Backbone, splits: Sequence[Split], plan: Branches) -> Read:
    """Every branch with its whole context, and the contexts that have none, in one padded batch."""
    mine = [[b for b, of in enumerate(plan.of) if of == i] for i in range(len(splits))]
    rows = [(i, b) for i, found in enumerate(mine) for b in (found or [-1])]
    sequences = [splits[i].context + (plan.fed[b] if b >= 0 else []) for i, b in rows]
    ids, mask = padded(sequences, next(backbone.model.parameters()).device)
    states = backbone.encode({"input_ids": ids} if bool(mask.all()) else {"input_ids": ids, "attention_mask": mask}).last
    first = [next(r for r, (j, _) in enumerate(rows) if j == i) for i in range(len(splits))]
    last = torch.stack([states[first[i], len(found.context) - 1] for i, found in enumerate(splits)])
    parts: list[Tensor] = []
    at, done = [0] * len(plan.fed), 0
    for r, (i, b) in enumerate(rows):
        if b >= 0:
            begin = len(splits[i].context)
            parts.append(states[r, begin : begin + len(plan.fed[b])])
            at[b], done = done, done + len(plan.fed[b])
    return Read(last, torch.cat(parts) if parts else last[:0], at)


def answer_states(backbone: Backbone, contexts: Sequence[Sequence[int]], prefix: Prefix, reuse: bool) -> Tensor:
    """The last states [rows, dim] that predict what comes after each context."""
    if reuse:
        return run(backbone, contexts, prefix).last
    splits = [Split(list(ids), [[0]], [0]) for ids in contexts]
    return _whole(backbone, splits, branches(splits)).last


def shared_ids(rows: Sequence[Sequence[int]]) -> list[int]:
    """The longest prefix that all ``rows`` have in common."""
    first = list(rows[0])
    for row in rows[1:]:
        first = first[: common(first, row)]
    return first
