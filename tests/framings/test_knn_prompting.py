"""kNN-prompting: distances, votes, and the framing from rows to predictions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tempering
from tempering.backbone import Backbone
from tempering.contracts import Seeds
from tempering.errors import RecipeError
from tempering.framings.knn_prompting import KNNPrompting, divergences, votes
from tempering.learner import Learner
from tempering.stages.use import Use
from tests.framings.test_masked_lm import save_masked_lm
from tests.tiny import tiny_backbone, tiny_speaker, tiny_task

ANCHORS = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1]]).log()
QUERY = torch.tensor([[0.5, 0.4, 0.1]]).log()
TEMPLATE = "the {text} was {answer}"


def learner_of(family: str = "gpt2", **given: Any) -> Learner:
    framing = KNNPrompting(**({"template": TEMPLATE, "separator": " and ", "anchors": 12} | given))
    return Use(framing).run(tiny_speaker(family), tiny_task(24), Seeds.of(0))


def test_demonstrations_count_in_the_length_that_is_planned_for() -> None:
    none, two = (KNNPrompting(TEMPLATE, shots=n).build(tiny_task(8), tiny_backbone("gpt2")) for n in (0, 2))
    bare = none.length_hint([4], 512)
    assert none.length_hint([9], 512) == bare + 5
    assert two.length_hint([4], 512) >= 5 * bare  # two of each of two classes
    assert two.length_hint([], 512) == two.reader.limit


def test_the_golden_distances() -> None:
    assert divergences(ANCHORS, QUERY)[0].tolist() == pytest.approx([0.096901, 0.393574], abs=1e-6)


def test_all_tokens_but_the_kept_ones_are_one_event() -> None:
    ids = torch.tensor([[0, 2], [1, 0]])
    found = divergences(ANCHORS.gather(1, ids), QUERY, ids)[0]

    def kl(a: list[float], p: list[float]) -> float:
        return sum(x * np.log(x / y) for x, y in zip(a, p, strict=True))

    assert found.tolist() == pytest.approx([kl([0.7, 0.1, 0.2], [0.5, 0.1, 0.4]), kl([0.8, 0.1, 0.1], [0.4, 0.5, 0.1])], abs=1e-5)


def test_distances_are_finite_where_a_token_is_never_said() -> None:
    never = torch.tensor([[0.0, -1e4, -1e4]])
    assert bool(divergences(never.half(), torch.tensor([[0.5, 0.3, 0.2]]).log()).isfinite().all())


def test_the_majority_wins_and_the_nearest_decides_ties() -> None:
    labels = torch.tensor([0, 1, 1, 2])
    distances = torch.tensor([[0.1, 0.2, 0.3, 9.0], [0.3, 0.2, 9.0, 0.1], [0.1, 0.2, 9.0, 0.3]])
    assert votes(distances, labels, 3, 3).argmax(-1).tolist() == [1, 2, 0]
    assert votes(distances, labels, 1, 3).argmax(-1).tolist() == [0, 2, 0]
    shares = votes(distances, labels, 3, 3).exp()
    assert shares.sum(-1).tolist() == pytest.approx([1, 1, 1]) and shares[0].tolist() == pytest.approx([1 / 3, 2 / 3, 0], abs=1e-3)
    assert votes(distances[:, :2], labels[:2], 9, 2).shape == (3, 2)  # fewer anchors than neighbors


@pytest.mark.parametrize("family", ["gpt2", "llama", "bert"])
def test_an_anchor_asked_again_is_at_no_distance_from_itself(family: str) -> None:
    learner = learner_of(family, k=1)
    anchors = list(learner.framing.anchors)
    prompts = [found[0] for found in learner.framing.render(anchors, (), np.random.default_rng(0))]
    distances = learner.score(prompts).only.features
    assert float(distances.diagonal().abs().max()) < 2e-3  # half precision
    nearest = distances.argmin(-1)
    assert [p.label for p in learner.predictions(anchors)] == [anchors[i].label for i in nearest]
    assert len(anchors) == 12 and not {e.texts for e in anchors} & {e.texts for e in learner.framing.pool}


def test_in_training_a_row_has_no_vote_on_itself() -> None:
    learner = learner_of()
    framing, anchors = learner.framing, list(learner.framing.anchors)
    prompts = [found[0] for found in framing.render(anchors, (), np.random.default_rng(0))]
    batch = framing.collate(prompts, np.random.default_rng(0))
    own, labels = torch.eye(len(anchors)).bool(), framing.get_buffer("anchor_labels")
    framing.train()
    trained = framing.scores(learner.backbone, batch).only.logits[0]
    framing.eval()
    for scores, hidden in ((trained, own), (framing.scores(learner.backbone, batch).only.logits[0], torch.zeros_like(own))):
        distances = learner.score(prompts).only.features.masked_fill(hidden, float("inf"))
        votes_of = torch.stack([(-distances[:, labels == c]).logsumexp(-1) for c in range(2)], -1)
        torch.testing.assert_close(scores, votes_of, rtol=0, atol=1e-4)


def test_the_only_anchor_of_a_class_leaves_a_finite_loss_when_it_is_asked() -> None:
    learner = learner_of(shots=0, k=1)
    framing = learner.framing
    framing._measure(learner, [next(e for e in framing.anchors if e.label == label) for label in framing.labels])
    prompts = [found[0] for found in framing.render(framing.anchors, (), np.random.default_rng(0))]
    batch, weight = framing.train().collate(prompts, np.random.default_rng(0)), learner.backbone.embeddings.weight.requires_grad_(True)
    loss = framing.loss(framing.scores(learner.backbone, batch), batch)
    gradient = torch.autograd.grad(loss, weight)[0]
    assert bool(loss.isfinite()) and bool(gradient.isfinite().all())


def test_distances_are_those_of_the_whole_distributions() -> None:
    learner = learner_of(top_tokens=None)
    prompts = [found[0] for found in learner.framing.render(tiny_task(24).dev.examples[:3], (), np.random.default_rng(0))]
    scores = learner.score(prompts)
    with torch.no_grad():
        batch = learner.framing.collate(prompts, np.random.default_rng(0))
        logp = learner.framing._logp(learner.backbone, batch)
    torch.testing.assert_close(scores.only.features, divergences(learner.framing.get_buffer("anchor_logp"), logp), rtol=0, atol=1e-4)
    assert learner.framing.get_buffer("anchor_logp").dtype is torch.float16


def test_it_is_saved_by_name_and_comes_back(tmp_path: Path) -> None:
    base = tmp_path / "base"
    save_masked_lm("bert", base)
    task = tiny_task(24)
    learner = Use(KNNPrompting(template=TEMPLATE, separator=" and ", anchors=10, top_tokens=5)).run(
        Backbone.load(str(base)), task, Seeds.of(0)
    )
    learner.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model" / "model.safetensors").exists()
    assert tempering.load(tmp_path / "model").predictions(task.dev.examples) == learner.predictions(task.dev.examples)


def test_too_few_anchors_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"k=30 neighbors of 12 anchors \(24 training rows, 2 of them shown\)"):
        learner_of(k=30)


def test_more_votes_than_one_class_has_rows_of_is_refused() -> None:
    with pytest.raises(RecipeError, match="shots=13 of each class, but label 'bad' has 12 training rows"):
        learner_of(shots=13)
