"""AutoPrompt's search: first-order scores against finite differences, swaps that never lower a score, a frozen model, forbidden tokens."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tempering.backbone import Backbone
from tempering.errors import RecipeError
from tempering.framings.cloze import Cloze
from tempering.framings.verbalizers.words import WordCoder
from tempering.prompting.swaps import forbidden, proposals, seen_embeddings
from tempering.prompting.trigger_search import Settings, _Run, find_triggers, parts, replace_slots
from tests.framings.test_masked_lm import save_masked_lm
from tests.tiny import tiny_task

CLOZE = Cloze("{text} {soft:2} was {soft} {mask}", words={"bad": ("bad", "sad"), "good": "good"})
QUICK = Settings(candidates=6, accumulation=2, batch_size=8, iterations=6, by="loss")


@pytest.fixture
def body(tmp_path: Path) -> Backbone:
    save_masked_lm("bert", tmp_path)
    return Backbone.load(str(tmp_path)).eval()


def test_the_gradient_is_the_slope_of_the_loss(body: Backbone) -> None:
    """The first-order change of the loss along a step in a slot's embedding equals a finite difference of the loss."""
    run = _Run.of(tiny_task(), body, CLOZE, QUICK, 0)
    triggers, prompts = torch.tensor([30, 31, 32]), run.rows[:8]
    (part,) = parts(run.learner, prompts, [1] * 8, 8)
    gradient = run.gradient(triggers, [part])
    way = torch.randn(gradient.shape, generator=torch.Generator().manual_seed(0))
    places, slots = part.batch.extra["soft_positions"], part.batch.extra["soft_vectors"]

    @torch.no_grad()
    def loss(step: float) -> float:
        def push(_m: object, _a: object, out: torch.Tensor) -> torch.Tensor:
            return out.scatter_add(1, places.unsqueeze(-1).expand(-1, -1, out.shape[-1]), step * way[slots])

        handle = body.embeddings.register_forward_hook(push)
        found = float(run.loss(triggers, part)) / 8
        handle.remove()
        return found

    slope = (loss(1e-3) - loss(-1e-3)) / 2e-3
    assert slope == pytest.approx(float((gradient * way).sum()), rel=0.05)


@pytest.mark.parametrize("by", ["loss", "accuracy"])
def test_a_row_is_read_once_and_counts_as_often_as_it_is_drawn(body: Backbone, by: Any) -> None:
    """Scores and gradients are the means over the batches drawn, from passes over distinct rows of like length."""
    settings = dataclasses.replace(QUICK, accumulation=5, batch_size=9, by=by)
    run = _Run.of(tiny_task(16), body, CLOZE, settings, 0)
    triggers, rng = torch.tensor([30, 31, 32]), np.random.default_rng(4)
    drawn, again = run._draw(np.random.default_rng(4)), run._draw(np.random.default_rng(4))
    batches = [[run.rows[i] for i in rng.permutation(16)[:9]] for _ in range(5)]
    one_by_one = [parts(run.learner, prompts, [1] * 9, 9) for prompts in batches]
    assert run.score(triggers, drawn) == pytest.approx(np.mean([run.score(triggers, each) for each in one_by_one]), abs=1e-6)
    mean = torch.stack([run.gradient(triggers, each) for each in one_by_one]).mean(0)
    assert torch.allclose(run.gradient(triggers, drawn), mean, atol=1e-6) and mean.abs().max() > 1e-4
    assert all(torch.equal(a.counts, b.counts) and torch.equal(a.batch.inputs["input_ids"], b.batch.inputs["input_ids"])
               for a, b in zip(drawn, again, strict=True))  # fmt: skip

    seen: list[torch.Tensor] = []
    handle = body.embeddings.register_forward_hook(lambda _m, given, _o: seen.append(given[0]))
    run.score(triggers, drawn)
    handle.remove()
    distinct = {id(prompt): len(prompt.input_ids) for prompts in batches for prompt in prompts}
    assert sum(map(len, seen)) == len(distinct) <= 16 and sum(int(part.counts.sum()) for part in drawn) == 45
    plain = sum(9 * max(len(prompt.input_ids) for prompt in prompts) for prompts in batches)
    assert sum(ids.numel() for ids in seen) < min(plain / 2, 1.3 * sum(distinct.values()))
    assert max(map(len, seen)) <= 9  # no pass is larger than a batch


def test_candidates_lower_the_loss_most_and_leave_out_what_is_forbidden() -> None:
    table, gradient = torch.tensor([[3.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [-3.0, 0.0], [-2.0, 0.0]]), torch.tensor([1.0, 0.0])
    assert proposals(table, gradient, 4, torch.tensor([3]), 2).tolist() == [2, 1]
    assert proposals(table, -gradient, 4, torch.tensor([3]), 9).tolist() == [0, 1, 2]  # either sign


def test_swaps_never_lower_the_score_and_the_model_stays(body: Backbone) -> None:
    before = {n: w.clone() for n, w in body.state_dict().items()}
    found = find_triggers(tiny_task(), body, CLOZE, QUICK)
    assert found.accepted and all(after > earlier for earlier, after in found.accepted)
    assert all(torch.equal(w, body.state_dict()[n]) for n, w in before.items())
    assert not any(p.grad is not None for p in body.parameters())
    barred = set(forbidden(WordCoder.of(body), [[9], [10]]).tolist()) - {body.tokenizer.mask_token_id}
    assert not barred & set(found.ids) and len(found.ids) == 3
    assert found == find_triggers(tiny_task(), body, CLOZE, QUICK)
    learned = Cloze(found.template, words=CLOZE.words)
    assert not learned.soft and learned.templates == (found.template,)


def test_slots_that_were_never_swapped_are_left_out(body: Backbone) -> None:
    """They hold masks, which as words of a template would be plain text."""
    found = find_triggers(tiny_task(), body, CLOZE, dataclasses.replace(QUICK, iterations=1))
    mask = body.tokenizer.mask_token_id
    assert len(found.accepted) == 1 and found.empty == found.ids.count(mask) == 2 and not found.exact
    (word,) = (body.tokenizer.convert_ids_to_tokens(i) for i in found.ids if i != mask)
    assert found.template in (f"{{text}} {word} was {{mask}}", f"{{text}} was {word} {{mask}}")
    with pytest.raises(RecipeError, match=r"none of 2 iterations found a word for template .*; search by loss \(--by loss\)"):
        find_triggers(tiny_task(), body, CLOZE, dataclasses.replace(QUICK, iterations=2, by="accuracy"))


def test_the_search_takes_the_loss_of_golden_value_g11(body: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits (1, 2, 3, .5), label tokens {1, 2}: .147512, what the search would lower."""
    logits = torch.full((1, 192), -torch.inf)
    logits[0, 20:24] = torch.tensor([1.0, 2.0, 3.0, 0.5])
    run = dataclasses.replace(_Run.of(tiny_task(), body, CLOZE, QUICK, 0), words=((21, 22), (20,)))
    monkeypatch.setattr("tempering.prompting.trigger_search.vocabulary_logits", lambda backbone, hidden: logits.expand(len(hidden), -1))
    bad = [p for p in run.rows if p.target == 0][:2]
    (part,) = parts(run.learner, bad, [1, 2], 2)
    assert float(run.loss(torch.tensor([30, 31, 32]), part)) / 3 == pytest.approx(0.147512, abs=1e-6)


def test_label_words_and_special_tokens_are_forbidden(body: Backbone) -> None:
    tokens = body.tokenizer.convert_tokens_to_ids(["good", "[CLS]", "film"])
    barred = forbidden(WordCoder.of(body), [[tokens[0]]]).tolist()
    assert tokens[0] in barred and tokens[1] in barred and tokens[2] not in barred


def test_embeddings_are_leaves_only_inside_the_block(body: Backbone) -> None:
    ids = {"input_ids": torch.tensor([[2, 30, 3]])}
    with seen_embeddings(body) as seen:
        out = body.encode(ids).last.sum()
        assert seen().grad_fn is None and torch.autograd.grad(out, [seen()])[0].shape == (1, 3, 32)
    assert body.embeddings(ids["input_ids"]).grad_fn is not None


def test_slots_are_found_however_the_template_is_written() -> None:
    cloze = dataclasses.replace(CLOZE, template='{"placeholder": "text_a"} {"soft": None, "duplicate": 2} was {"soft"} {"mask"}.')
    assert replace_slots(cloze).template == "{text} {soft:a a} was {soft:a} {mask}."
    assert replace_slots(CLOZE).template == "{text} {soft:a a} was {soft:a} {mask}"


def test_a_template_without_slots_is_refused(body: Backbone) -> None:
    with pytest.raises(RecipeError, match="slots for them"):
        find_triggers(tiny_task(), body, Cloze("{text} it was {mask}", words=CLOZE.words), QUICK)
