"""From scores to what is said: the likeliest answer or a drawn one, among labels, candidates or everything the vocabulary can write."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from tempering.contracts import Batch, Example, Prediction, Rendered, Scores
from tempering.framings.asked import first_token
from tempering.framings.asked.asking import Asked
from tempering.framings.asked.left_to_right import cacheable, log_probabilities, picker, write
from tempering.streams import numpy_stream

if TYPE_CHECKING:
    from tempering.framings.asked.in_context_module import InContextModule
    from tempering.learner import Learner


def over_contexts(log_probabilities: Tensor, counts: Sequence[int]) -> Tensor:
    """log of the mean probability over the prompts of each example: [prompts, classes] -> [examples, classes]."""
    parts = [part.logsumexp(0) - np.log(len(part)) for part in log_probabilities.split(list(counts))]
    return torch.stack(parts)


def chosen(module: InContextModule, scores: Scores, asked: Rendered, said: Sequence[str] | None) -> list[Prediction]:
    """One prediction an example. ``said`` is what the model wrote where it could write anything."""
    logp = over_contexts(scores.only.logits.detach().float().mean(0).log_softmax(-1), asked.counts)
    best = [_pick(module, row, e) for row, e in zip(logp, asked.examples, strict=True)]
    labels: list[Any] = [module.outcomes[i] for i in best]
    if said is not None:
        labels = [_label(module, text) for text in said]
    rows = logp.exp().tolist()
    return [Prediction(label, dict(zip(module.outcomes, row, strict=True))) for label, row in zip(labels, rows, strict=True)]


def _pick(module: InContextModule, logp: Tensor, example: Example) -> int:
    """The likeliest outcome, or one drawn with p^(1 / temperature): the same for the same text, whatever it is predicted with."""
    if module.given.decode == "argmax":
        return int(logp.argmax())
    rng = numpy_stream(module.given.seed, "answer", *example.texts)
    return int((logp.numpy() / module.given.temperature + rng.gumbel(size=len(logp))).argmax())


def _label(module: InContextModule, text: str) -> Any:
    """The label whose word ``text`` begins with, the longest word first; the text itself where there is none."""
    words = sorted(((word, c) for c, found in enumerate(module.words) for word in found), key=lambda pair: -len(pair[0]))
    return next((module.labels[c] for word, c in words if text.startswith(word)), text)


def written(module: InContextModule, learner: Learner, asked: Rendered, batch_size: int) -> list[str]:
    """What the model writes after the one prompt of each example, up to the end of the line."""
    return learner.each(asked.prompts, batch_size, lambda batch, _: _written(module, learner, batch))


def _written(module: InContextModule, learner: Learner, batch: Batch) -> list[str]:
    found = [""] * len(batch)
    for rows, asked, text in module.groups(batch):
        for i, words in zip(rows, _continued(module, learner, asked, text), strict=True):
            found[i] = words
    return found


def _continued(module: InContextModule, learner: Learner, asked: Sequence[Asked], text: str) -> list[str]:
    reader, v, body = module.reader, module.given, learner.backbone
    pick = _picker(module, asked)
    if reader.masked:
        ids = [[token] for token in pick(log_probabilities(body, reader.states(body, asked, text))).tolist()]
        return [reader.tokenizer.decode(row).strip() for row in ids]
    ends = {i for i in (reader.tokenizer.eos_token_id, *reader.line_ends) if i is not None}
    prefix = reader.prefix(body, text)
    rows = [one.splits[0].context for one in asked]
    if not cacheable(body):
        return [_said(reader.tokenizer, _slowly(module, learner, row, one, ends)) for row, one in zip(rows, asked, strict=True)]
    found = write(body, rows, prefix, v.max_new_tokens, pick, sorted(ends))
    return [_said(reader.tokenizer, ids) for ids in found]


def _picker(module: InContextModule, asked: Sequence[Asked]) -> first_token.Pick:
    """How the tokens after ``asked`` are chosen: as the value says, and calibrated the first of them."""
    v = module.given
    pick = picker([numpy_stream(v.seed, "write", one.ids) for one in asked], v.decode == "sample", v.temperature, v.top_k)
    return first_token.calibrated(pick, module.get_buffer("first")) if module.calibrated else pick


def _slowly(module: InContextModule, learner: Learner, row: list[int], asked: Asked, ends: set[int]) -> list[int]:
    """Token by token with the whole row each time, for a body whose keys and values may not be reused."""
    v, ids = module.given, list(row)
    pick = _picker(module, [asked])
    for _ in range(v.max_new_tokens):
        states = learner.backbone.encode({"input_ids": torch.tensor([ids], device=learner.device)}).last
        token = int(pick(log_probabilities(learner.backbone, states[:, -1]))[0])
        if token in ends:
            break
        ids.append(token)
    return ids[len(row) :]


def _said(tokenizer: Any, ids: list[int]) -> str:
    return str(tokenizer.decode(ids)).strip().partition("\n")[0].strip()
