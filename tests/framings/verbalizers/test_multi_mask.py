"""Words of several tokens, a mask for each."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tempering.contracts import Batch, Slab
from tempering.framings.verbalizers.base import MASKS, vocabulary_logits
from tempering.framings.verbalizers.manual import Manual
from tempering.framings.verbalizers.multi_mask import MultiMask, without_masks
from tempering.learner import Learner
from tempering.streams import numpy_stream
from tests.framings.verbalizers.shared import LONGER, WORDS, learner_of, scores_of
from tests.tiny import tiny_examples, tiny_task

UNEVEN = {"bad": ("very dull film",), "good": ("great",)}


def mask_logits(learner: Learner, ids: list[int]) -> Tensor:
    """Log probabilities [masks, vocabulary] of one unpadded prompt."""
    given = torch.tensor([ids])
    places = (given[0] == learner.backbone.tokenizer.mask_token_id).nonzero()[:, 0]
    with torch.no_grad():
        last = learner.backbone.encode({"input_ids": given}).last[0, places]
        return vocabulary_logits(learner.backbone, last).log_softmax(-1)


def brute_force(learner: Learner, text: str, word: str, order: str) -> float:
    """A word's score, with a prompt of just as many masks, one text at a time."""
    t = learner.backbone.tokenizer
    target = t.encode(word, add_special_tokens=False)
    ids = [t.cls_token_id, *t.encode(f"{text} was", add_special_tokens=False), *[t.mask_token_id] * len(target), t.sep_token_id]
    first, left, total = len(ids) - 1 - len(target), list(range(len(target))), 0.0
    if order == "parallel":
        found = mask_logits(learner, ids)
        return float(sum(found[i, token] for i, token in enumerate(target)))
    while left:
        found = mask_logits(learner, ids)
        likely = {i: float(found[at, target[i]]) for at, i in enumerate(left)}
        chosen = left[0] if order == "ltr" else max(likely, key=lambda i: likely[i])
        total += likely[chosen]
        ids[first + chosen] = target[chosen]
        left.remove(chosen)
    return total


@pytest.mark.parametrize("order", ["default", "ltr", "parallel"])
def test_scores_are_those_of_one_text_and_one_word_at_a_time(order: Any) -> None:
    learner, examples = learner_of(MultiMask(order=order), UNEVEN), tiny_examples(5)
    expected = [[brute_force(learner, e.texts[0], words[0], order) for words in UNEVEN.values()] for e in examples]
    torch.testing.assert_close(scores_of(learner, examples), torch.tensor(expected), atol=1e-4, rtol=1e-4)


def test_the_orders_differ_and_averages_are_per_token() -> None:
    examples = tiny_examples(5)
    found = {order: scores_of(learner_of(MultiMask(order=order), UNEVEN), examples) for order in ("default", "ltr", "parallel")}  # type: ignore[arg-type]
    assert not torch.allclose(found["ltr"], found["parallel"]) and not torch.allclose(found["default"], found["parallel"])
    mean = scores_of(learner_of(MultiMask(order="parallel", average=True), UNEVEN), examples)
    torch.testing.assert_close(mean, found["parallel"] / torch.tensor([3.0, 1.0]))


def test_with_words_of_one_token_it_is_the_manual_verbalizer() -> None:
    examples = tiny_task(8).train.examples
    for words, how in ((WORDS, "mean_logit"), (LONGER, "sum_prob")):
        a, b = (scores_of(learner_of(v, words), examples).softmax(-1) for v in (MultiMask(), Manual(how)))  # type: ignore[arg-type]
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_taking_masks_out_gives_the_prompt_with_fewer() -> None:
    learner = learner_of(MultiMask(), UNEVEN)
    short = learner_of(Manual())
    examples = tiny_examples(4)
    batches = []
    for each in (learner, short):
        prompts = [p for found in each.framing.render(examples, (), numpy_stream(0)) for p in found]
        batches.append(each.framing.collate(prompts, numpy_stream(0)))
    batches[0].extra["soft_positions"] = batches[0].extra[MASKS][:, -1:] + 1
    cut = without_masks(batches[0], 1)
    assert torch.equal(cut.inputs["input_ids"], batches[1].inputs["input_ids"])
    assert torch.equal(cut.inputs["attention_mask"], batches[1].inputs["attention_mask"])
    assert torch.equal(cut.extra[MASKS], batches[1].extra[MASKS])
    assert torch.equal(cut.extra["soft_positions"], batches[1].extra[MASKS] + 1)
    assert batches[0].inputs["input_ids"].shape[1] == cut.inputs["input_ids"].shape[1] + 2


@pytest.mark.parametrize("weights", [None, torch.tensor([1.0, 3.0])])
def test_hinge(weights: Tensor | None) -> None:
    module = learner_of(MultiMask(loss="hinge"), WORDS).framing.verbalizer
    scores = torch.tensor([[-1.0, -1.5, -9.0], [-2.0, -4.0, -0.5]])
    rows = [max(0, 1 + 1.0 - 1.5) + max(0, 1 + 1.0 - 9.0), max(0, 1 + 2.0 - 4.0) + max(0, 1 + 2.0 - 0.5)]
    expected = sum(rows) / 2 if weights is None else (rows[0] + 3 * rows[1]) / 4
    found = module.loss(Slab(scores.unsqueeze(0), torch.tensor([0, 0]), weights, None, "classification"))
    assert float(found) == pytest.approx(expected)
    assert learner_of(MultiMask(), WORDS).framing.verbalizer.loss(Slab(scores.unsqueeze(0), None, None, None, "classification")) is None


def test_training_takes_one_pass_for_each_length() -> None:
    learner = learner_of(MultiMask(), UNEVEN)
    module, runs = learner.framing.verbalizer, []

    def run(batch: Batch) -> Tensor:
        runs.append(batch.extra[MASKS].shape[1])
        return vocabulary_logits(learner.backbone, learner.framing.trunk(learner.backbone, batch))

    prompts = [p for found in learner.framing.render(tiny_examples(3), (), numpy_stream(0)) for p in found]
    batch = learner.framing.collate(prompts, numpy_stream(0))
    module.train().walk(run, batch)
    assert runs == [1, 3]
    runs.clear()
    module.eval().walk(run, batch)
    assert runs == [1, 3, 3, 3]
