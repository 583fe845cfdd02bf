"""Fact probes in the form of LAMA: what a language model puts where the object of a relation stands."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tempering.backbone import Backbone
from tempering.contracts import Example
from tempering.errors import RecipeError
from tempering.framings.cloze import refuse
from tempering.framings.output_head import language_head
from tempering.framings.templates.checking import check_causal
from tempering.framings.templates.encoder import TemplateEncoder
from tempering.framings.templates.pieces import AnyTemplate, Mask
from tempering.framings.templates.reading import parse
from tempering.framings.verbalizers.base import vocabulary_logits
from tempering.framings.verbalizers.words import WordCoder
from tempering.framings.writing.states import rows_of
from tempering.stages.use import check_head

ROWS = 32


class Fact(NamedTuple):
    """A subject and the object that a relation gives it."""

    subject: str
    object: str


class Relation(NamedTuple):
    """Facts of one ``name`` that are asked for under one ``template``."""

    name: str
    template: str
    facts: tuple[Fact, ...]


class Asked(NamedTuple):
    """A fact, the ``rank`` of its object, and the likeliest tokens in its place, best first."""

    subject: str
    object: str
    rank: int
    said: tuple[str, ...]


@dataclass(frozen=True)
class Probed:
    """Of ``facts`` facts under ``template``: precision at 1 and 10, mean reciprocal rank, and how many objects are ``left_out``
    since they are not one token. ``shown`` are the first of them.
    """

    template: str
    facts: int
    left_out: int
    p_at_1: float
    p_at_10: float
    mrr: float
    ranks: tuple[int, ...]
    relation: str = ""
    shown: tuple[Asked, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self) | {"shown": [one._asdict() for one in self.shown]}


@dataclass(frozen=True)
class Probe:
    """All relations, and the mean over them of each measure, as LAMA has it; ``skipped`` are those without an object of one token."""

    relations: tuple[Probed, ...]
    skipped: tuple[str, ...]

    def mean(self, measure: str) -> float:
        """The mean over relations of ``measure``: each counts the same, however many facts it has."""
        return sum(float(getattr(one, measure)) for one in self.relations) / len(self.relations)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        means = {measure: self.mean(measure) for measure in ("p_at_1", "p_at_10", "mrr")}
        return {"mean": means, "relations": [one.as_dict() for one in self.relations], "skipped": list(self.skipped)}


def lama(template: str) -> str:
    """``[X] was born in [Y] .`` in our own form; a template already in it is returned as it is."""
    return re.sub(r"\[Y\]", "{mask}", re.sub(r"\[X\]", "{text}", template))


def probe_relations(backbone: Backbone, relations: Sequence[Relation], allowed: Sequence[str] = (), show: int = 0) -> Probe:
    """`probe_facts` for each of ``relations``. One of which no object is one token is skipped; where all are, it is an error."""
    coder, found, skipped = WordCoder.of(backbone), list[Probed](), list[str]()
    for one in relations:
        parsed_for(backbone, one.template)  # a mistake in any template is told before anything is read
    for one in relations:
        if any(_token(coder, fact.object) is not None for fact in one.facts):
            found.append(probe_facts(backbone, one.template, one.facts, allowed, relation=one.name, show=show))
        else:
            skipped.append(one.name or one.template)
    if not found:
        facts = tuple(fact for one in relations for fact in one.facts)
        raise _no_object(backbone, facts)
    return Probe(tuple(found), tuple(skipped))


@torch.no_grad()
def probe_facts(
    backbone: Backbone, template: str, facts: Sequence[Fact], allowed: Sequence[str] = (), relation: str = "", show: int = 0
) -> Probed:
    """Rank each object among the whole vocabulary, or the words ``allowed``, at the mask of ``template``; say the best of ``show`` facts.

    *Paper*: Petroni et al. 2019 (LAMA). *Formula*: rank = 1 + the tokens with a larger logit than the object's; P@k = share of ranks up to
    k; MRR = mean of 1 / rank. Objects of several tokens are left out and counted, as there, and so are words ``allowed`` of several; the
    objects themselves are always allowed. A model that reads from left to right needs the object last.
    """
    parsed, coder = parsed_for(backbone, template), WordCoder.of(backbone)
    texts = TemplateEncoder.of(parsed, backbone, None, names=tuple(parsed.fields()))
    texts.check()
    golds = [(fact, gold) for fact in facts if (gold := _token(coder, fact.object)) is not None]
    if not golds:
        raise _no_object(backbone, facts)
    known = {i for word in allowed if (i := _token(coder, word)) is not None} | {gold for _, gold in golds}
    among = torch.tensor(sorted(known)) if allowed else torch.arange(len(coder.tokens))
    ranks, shown = list[int](), list[Asked]()
    for (fact, gold), row in zip(golds, _logits(backbone, texts, [fact for fact, _ in golds]), strict=True):
        rivals = row[among[among < len(row)]]
        ranks.append(1 + int((rivals > row[gold]).sum()))
        if len(shown) < show:
            best = among[rivals.topk(min(5, len(rivals))).indices].tolist()
            shown.append(Asked(*fact, ranks[-1], tuple(coder.word(i) for i in best)))
    at = torch.tensor(ranks, dtype=torch.float64)
    first, tenth = (float((at <= k).double().mean()) for k in (1, 10))
    measures = (first, tenth, float((1 / at).mean()))
    return Probed(str(parsed), len(golds), len(facts) - len(golds), *measures, tuple(ranks), relation, tuple(shown))


def parsed_for(backbone: Backbone, template: str) -> AnyTemplate:
    """The template of a fact probe; one that is none, or that the model cannot fill, is refused."""
    refuse(backbone, "fact probes")
    parsed = parse(lama(template))
    if len(parsed.fields()) != 1 or sum(piece.count or 1 for piece in parsed.skeleton() if isinstance(piece, Mask)) != 1:
        raise RecipeError(f"template {template!r}: a fact probe holds one subject and one object, as in  [X] was born in [Y] .")
    if backbone.layout.kind == "decoder":
        check_causal(parsed, "fact probes", backbone.source, backbone.layout.family)
    language_head(backbone)
    check_head(backbone)
    return parsed


def _logits(backbone: Backbone, texts: TemplateEncoder, facts: Sequence[Fact]) -> Iterator[Tensor]:
    """The logits [vocabulary] where each fact's object stands."""
    backbone.eval()
    device, pad = backbone.embeddings.get_parameter("weight").device, int(backbone.tokenizer.pad_token_id or 0)
    laid = texts.encode([Example((fact.subject,), row=i) for i, fact in enumerate(facts, start=1)])
    for start in range(0, len(laid), ROWS):
        some = laid[start : start + ROWS]
        ids, real = rows_of([one.ids for one in some], pad)
        last = backbone.encode({"input_ids": ids.to(device), "attention_mask": real.long().to(device)}).last
        at = torch.tensor([one.places.masks[0] for one in some], device=device)
        yield from vocabulary_logits(backbone, last[torch.arange(len(some), device=device), at]).float().cpu()


def _token(coder: WordCoder, word: str) -> int | None:
    """The one token of ``word``; None where it is several, or unknown."""
    ids = coder.encode(word)
    return ids[0] if len(ids) == 1 and ids[0] != coder.tokenizer.unk_token_id else None


def _no_object(backbone: Backbone, facts: Sequence[Fact]) -> RecipeError:
    return RecipeError(
        f"none of the {len(facts)} objects ({', '.join(fact.object for fact in facts[:3])} ...) is one token to {backbone.source}; give a"
        " model with a cased or larger vocabulary"
    )
