"""What `InContext` measures on the training rows or on nothing at all: the premise of PMI-DC, the best orders, the prior of a prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from tempering.contracts import Example, Prompt
from tempering.errors import RecipeError
from tempering.framings.asked import calibration, ordering
from tempering.framings.asked.left_to_right import Prefix, picker, write

if TYPE_CHECKING:
    from tempering.framings.asked.in_context_module import InContextModule
    from tempering.learner import Learner

HELD = 64  # rows that the sensitivity to order is measured on


@torch.no_grad()
def measure_premise(module: InContextModule, learner: Learner) -> None:
    """log P(answer | domain premise), the premise cut from the left where it is too long."""
    if module.given.scoring != "pmi" or module.free:
        return
    premise = module.pattern.premise if module.given.premise is None else module.given.premise
    asked = module.reader.ask(premise, module.scored, "", (), 0)
    while asked.length > module.reader.limit and premise:
        premise = premise[1 + len(premise) // 8 :]
        asked = module.reader.ask(premise, module.scored, "", (), 0)
    learner.eval()
    module.get_buffer("unconditional").copy_(module.reader.totals(learner.backbone, [asked], "")[0])


def draw_contexts(module: InContextModule, learner: Learner, examples: Sequence[Example], rng: np.random.Generator) -> None:
    """Draw the demonstrations of every context, tell how much their order matters, and search the order, as the value says."""
    value, searched = module.given, module.given.order in ordering.SEARCHED
    draws = [module.draw(examples, rng) for _ in range(1 if searched else value.contexts)]
    used = sorted({i for draw in draws for i in draw})
    module.pool = tuple(examples[i] for i in used)
    module.contexts = [tuple(used.index(i) for i in draw) for draw in draws]
    module.found = sensitivity(module, learner, examples, rng) if value.sensitivity else {}
    if searched:
        search_order(module, learner, examples, rng)


def search_order(module: InContextModule, learner: Learner, examples: Sequence[Example], rng: np.random.Generator) -> None:
    """Keep the orders that leave the model most undecided over probes that it wrote itself (Lu et al. 2022).

    Where it writes none in the form of the template, training texts that are not shown serve, without their labels.
    """
    value, (base,) = module.given, module.contexts
    orders = ordering.some_permutations(len(base), value.permutations, rng)
    if value.contexts > len(orders):  # with per_class only now is it known how many are shown
        raise RecipeError(
            f"in_context: contexts={value.contexts} are the best orders of {len(base)} demonstrations, which have {len(orders)} different"
            f" ones; give contexts of at most {len(orders)}, or more shots"
        )
    module.contexts = [tuple(base[i] for i in order) for order in orders]
    asked = written_probes(module, learner, rng, value.probe_tokens)
    module.found |= {"probes_written": float(len(asked))}
    shown = {module.pool[i].texts for i in base}
    asked = asked or [e.texts for e in examples if e.texts not in shown][: len(orders)]
    if not asked:
        raise RecipeError(
            f"in_context: order {value.order} asks about texts that the model writes in the form of the template, or else about training"
            f" rows that are not shown; it wrote none, and all {len(examples)} rows are shown: give fewer shots, more rows, or no order"
        )
    measure = ordering.global_entropy if value.order == "global_entropy" else ordering.local_entropy
    values = [measure(answered(module, learner, asked, c)) for c in range(len(orders))]
    best = sorted(range(len(orders)), key=lambda c: -values[c])[: value.contexts]
    kept = float(np.mean([values[c] for c in best]))
    module.found |= {
        "order_entropy_mean": float(np.mean(values)),
        "order_entropy_std": float(np.std(values)),
        "order_entropy_kept": kept,
    }
    module.contexts = [module.contexts[c] for c in best]


def sensitivity(module: InContextModule, learner: Learner, examples: Sequence[Example], rng: np.random.Generator) -> dict[str, float]:
    """Accuracy over orders of the first context's demonstrations, on training rows that are not shown: mean, deviation, range."""
    shown, before = {e.texts for e in module.pool}, module.contexts
    rows = [e for e in examples if e.texts not in shown]
    rows = [rows[i] for i in rng.permutation(len(rows))[:HELD]]
    orders = ordering.some_permutations(len(before[0]), module.given.sensitivity, rng)[: module.given.sensitivity]
    if not rows or len(orders) < 2:
        raise RecipeError(
            "in_context: sensitivity compares orders of at least 2 demonstrations on training rows that are not shown, found"
            f" {len(before[0])} of {len(examples)} rows shown and {len(rows)} to ask about; change shots, give more rows, or drop it"
        )
    gold = torch.tensor([module.index_of(e) for e in rows])
    module.contexts = [tuple(before[0][i] for i in order) for order in orders]
    found = [float((answered(module, learner, [e.texts for e in rows], c).argmax(-1) == gold).float().mean()) for c in range(len(orders))]
    module.contexts = before
    low, high = min(found), max(found)
    middle = {"order_accuracy_mean": float(np.mean(found)), "order_accuracy_std": float(np.std(found))}
    return middle | {"order_accuracy_low": low, "order_accuracy_high": high}


def written_probes(module: InContextModule, learner: Learner, rng: np.random.Generator, tokens: int) -> list[tuple[str, ...]]:
    """Examples that the model writes after each context, one each, as texts; none from a model that fills masks."""
    if module.reader.masked:
        return []
    reader, room = module.reader, module.reader.limit - tokens
    starts = [module.fixed(context) + module.pattern.opening.rstrip(" ") for context in module.contexts]
    rows = [reader.bare(start) for start in starts]
    rows = [row for row in rows if len(row) <= room]
    if not rows:
        return []
    streams = [np.random.default_rng(rng.integers(2**63)) for _ in rows]
    ends = [i for i in (reader.tokenizer.eos_token_id,) if i is not None]
    found = write(learner.backbone, rows, Prefix(), tokens, picker(streams, sample=True), ends)
    opening = module.pattern.opening.rstrip(" ")
    return ordering.probes([opening + reader.tokenizer.decode(ids) for ids in found], module.pattern)


def answered(module: InContextModule, learner: Learner, texts: Sequence[Sequence[str]], context: int) -> Tensor:
    """log p of the outcomes, not calibrated, for ``texts`` asked under one context: [texts, outcomes] in main memory."""
    return gathered(module, learner, under(module, texts, context))


def under(module: InContextModule, texts: Sequence[Sequence[str]], context: int) -> list[Prompt]:
    """``texts`` asked under one context."""
    rows = [Example(tuple(t)) for t in texts]
    shown = [found[min(context, len(found) - 1)] for found in module.shown_for(rows)]
    return [module.prompt_of(row, found, context) for row, found in zip(rows, shown, strict=True)]


def gathered(module: InContextModule, learner: Learner, prompts: Sequence[Prompt], batch_size: int = 64) -> Tensor:
    """log p of the outcomes of ``prompts``, not calibrated: [prompts, outcomes] in main memory."""
    return learner.outputs(prompts, batch_size, lambda batch: module.log_probabilities(module.trunk(learner.backbone, batch)))


def prior(module: InContextModule, learner: Learner, examples: Sequence[Example], rng: np.random.Generator) -> Tensor:
    """log p_cf of every context [contexts, outcomes]."""
    how = module.given.calibration
    texts = list(without_content(module, examples, rng))
    form: Literal["mean", "min"] = "min" if how == "additive" else "mean"
    return torch.stack([calibration.content_free(answered(module, learner, texts, c), form) for c in range(len(module.contexts))])


def without_content(module: InContextModule, examples: Sequence[Example], rng: np.random.Generator) -> Iterator[tuple[str, ...]]:
    """The inputs that calibration asks about; all texts of a pair are replaced."""
    count = 1 + module.pattern.pair
    if module.given.calibration == "batch":
        chosen = rng.permutation(len(examples))[: calibration.ROWS]
        yield from (examples[i].texts for i in chosen)
    elif module.given.calibration == "domain":
        columns = [calibration.random_texts([e.texts[i] for e in examples], rng) for i in range(count)]
        yield from zip(*columns, strict=True)
    else:
        yield from ((text,) * count for text in module.given.placeholders)
