"""Fact probes in the form of LAMA: what a masked language model puts where the object of a relation stands."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch

from tempering.backbone import Backbone
from tempering.contracts import Example
from tempering.errors import RecipeError
from tempering.framings.cloze import refuse
from tempering.framings.templates.encoder import TemplateEncoder
from tempering.framings.templates.reading import parse
from tempering.framings.verbalizers.base import vocabulary_logits
from tempering.framings.verbalizers.words import WordCoder
from tempering.framings.writing.states import rows_of

ROWS = 32


class Fact(NamedTuple):
    """A subject and the object that a relation gives it."""

    subject: str
    object: str


@dataclass(frozen=True)
class Probed:
    """Of ``facts`` facts under ``template``: precision at 1 and 10, mean reciprocal rank, and how many objects are ``left_out``
    since they are not one token.
    """

    template: str
    facts: int
    left_out: int
    p_at_1: float
    p_at_10: float
    mrr: float
    ranks: tuple[int, ...]

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def lama(template: str) -> str:
    """``[X] was born in [Y] .`` in our own form; a template already in it is returned as it is."""
    return re.sub(r"\[Y\]", "{mask}", re.sub(r"\[X\]", "{text}", template))


@torch.no_grad()
def probe_facts(backbone: Backbone, template: str, facts: Sequence[Fact], allowed: Sequence[str] = ()) -> Probed:
    """Rank each object among the whole vocabulary, or the words ``allowed``, at the mask of ``template``.

    *Paper*: Petroni et al. 2019 (LAMA). *Formula*: rank = 1 + the tokens with a larger logit than the object's; P@k = share of ranks up to
    k. Objects of several tokens are left out and counted, as there.
    """
    refuse(backbone, "fact probes")
    parsed = parse(lama(template))
    if len(parsed.fields()) != 1 or "{mask}" not in lama(template):
        raise RecipeError(f"template {template!r}: a fact probe holds one subject and one object, as in  [X] was born in [Y] .")
    coder, texts = WordCoder.of(backbone), TemplateEncoder.of(parsed, backbone, None)
    texts.check()
    said = [coder.encode(fact.object) for fact in facts]
    golds = [(f, s[0]) for f, s in zip(facts, said, strict=True) if len(s) == 1 and s[0] != coder.tokenizer.unk_token_id]
    if not golds:
        raise RecipeError(f"none of the {len(facts)} objects is one token to {backbone.source}; give a cased or larger vocabulary")
    among = sorted({i for word in allowed for i in coder.encode(word)[:1]} | {i for _, i in golds}) if allowed else None
    ranks: list[int] = []
    backbone.eval()
    for start in range(0, len(golds), ROWS):
        some = golds[start : start + ROWS]
        laid = texts.encode([Example((fact.subject,), row=start + i) for i, (fact, _) in enumerate(some, start=1)])
        ids, real = rows_of([one.ids for one in laid], int(backbone.tokenizer.pad_token_id or 0))
        last = backbone.encode({"input_ids": ids, "attention_mask": real.long()}).last
        logits = vocabulary_logits(backbone, last[torch.arange(len(some)), torch.tensor([one.places.masks[0] for one in laid])])
        for row, (_, gold) in zip(logits, some, strict=True):
            rivals = row if among is None else row[torch.tensor(among)]
            ranks.append(1 + int((rivals > row[gold]).sum()))
    at = torch.tensor(ranks, dtype=torch.float64)
    first, tenth = (float((at <= k).double().mean()) for k in (1, 10))
    return Probed(str(parsed), len(golds), len(facts) - len(golds), first, tenth, float((1 / at).mean()), tuple(ranks))
