"""Pairs of rows by number, and what is trained on them."""

from __future__ import annotations

import dataclasses
import tracemalloc
from collections import Counter
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tempering.contracts import Example, Prompt, Seeds
from tempering.errors import DataError, MemoryShort, RecipeError
from tempering.framings.head import Head
from tempering.framings.pairs import Pairs
from tempering.framings.vectored.pair_numbers import Batches, PairNumbers, PairWalk, permuted
from tempering.framings.vectored.vectors import info_nce
from tempering.plan import explain
from tempering.recipe import Recipe
from tempering.stages.setup import Surroundings, assemble
from tempering.stages.train import Train
from tempering.train.feed import Feed
from tempering.train.memory import refuse_back_off
from tempering.tunings.frozen import Frozen
from tempering.tunings.full import Full
from tempering.tunings.lora import LoRA
from tests.laws.bench import bits, differing
from tests.tiny import tiny_backbone, tiny_task

SEEDS = Seeds.of(0)
CLASSES = st.lists(st.integers(0, 4), min_size=1, max_size=14)
STAGE = Train(framing=Pairs(), learning_rate=1e-3, num_train_epochs=1, eval_strategy="no", load_best_model_at_end=False)


def singles(classes: list[int]) -> list[Prompt]:
    """A prompt a row, which says its number."""
    return [Prompt([i], None, c) for i, c in enumerate(classes)]


def listed(walk: PairWalk, size: int = 4, seed: int = 0) -> list[tuple[int, int]]:
    """The pairs of an epoch as they come, lower number first."""
    found = []
    for rows in walk.batches(size, np.random.default_rng(seed)):
        for prompt in (walk[int(r)] for r in rows):
            found.append(tuple(sorted((prompt.input_ids[0], prompt.extra.input_ids[0]))))
    return found  # type: ignore[return-value]


def split(pairs: list[tuple[int, int]], classes: list[int]) -> tuple[Counter[tuple[int, int]], Counter[tuple[int, int]]]:
    """(positive, negative) pairs, counted."""
    return Counter(p for p in pairs if classes[p[0]] == classes[p[1]]), Counter(p for p in pairs if classes[p[0]] != classes[p[1]])


@given(size=st.integers(1, 700), key=st.integers(0, 2**62))
def test_a_permutation_takes_every_number_to_another(size: int, key: int) -> None:
    assert sorted(permuted(np.arange(size), size, key).tolist()) == list(range(size))


def test_a_permutation_hangs_on_its_key_alone_and_mixes() -> None:
    one, two = permuted(np.arange(10_000), 10_000, 1), permuted(np.arange(10_000), 10_000, 2)
    assert np.array_equal(one, permuted(np.arange(10_000), 10_000, 1)) and (one == two).sum() < 10
    assert abs(np.corrcoef(np.arange(10_000), one)[0, 1]) < 0.05 and abs(np.corrcoef(one[:-1], one[1:])[0, 1]) < 0.05
    assert permuted(np.array([10**12 - 1]), 10**12, 5)[0] < 10**12


@given(classes=CLASSES)
def test_numbers_name_every_pair_once(classes: list[int]) -> None:
    numbers = PairNumbers(classes)
    wanted = split(list(combinations_with_replacement(range(len(classes)), 2)), classes)
    for mine, count, expected in (
        (numbers.positive, numbers.positives, wanted[0]),
        (numbers.negative, numbers.negatives, wanted[1]),
    ):
        found = [tuple(sorted(map(int, pair))) for pair in zip(*mine(np.arange(count)), strict=True)]
        assert Counter(found) == expected


@pytest.mark.parametrize("strategy", ["oversampling", "undersampling", "unique"])
@given(classes=CLASSES, seed=st.integers(0, 100))
def test_strategies_take_what_setfit_takes(strategy: Any, classes: list[int], seed: int) -> None:
    whole = split(list(combinations_with_replacement(range(len(classes)), 2)), classes)
    walk = PairWalk(singles(classes), strategy)
    taken = split(listed(walk, seed=seed), classes)
    p, n = len(whole[0]), len(whole[1])
    each = {"unique": (p, n), "oversampling": (max(p, n),) * 2, "undersampling": (min(p, n),) * 2}[strategy] if n else (p, 0)
    assert (taken[0].total(), taken[1].total()) == each and len(walk) == sum(each)
    for kind, all_of in zip(taken, whole, strict=True):  # no pair twice more than another
        counts = [kind[pair] for pair in all_of]
        assert not counts or max(counts) - min(counts) <= 1


@pytest.mark.parametrize(("k", "classes", "steps"), [(8, 2, 9), (8, 6, 120), (16, 2, 34)])
def test_an_epoch_is_as_long_as_with_the_package(k: int, classes: int, steps: int) -> None:
    walk = PairWalk(singles([c for c in range(classes) for _ in range(k)]))
    positives, negatives = classes * k * (k + 1) // 2, k * k * classes * (classes - 1) // 2
    assert len(walk) == 2 * max(positives, negatives)
    assert len(walk.batches(16, np.random.default_rng(0))) == steps


def test_numbers_of_pairs_may_be_given() -> None:
    classes = [0, 0, 0, 1, 1]
    taken = split(listed(PairWalk(singles(classes), num_iterations=3)), classes)
    assert (taken[0].total(), taken[1].total()) == (15, 15)
    assert len(PairWalk(singles(classes), max_pairs=7)) == 7
    assert len(PairWalk(singles([0, 0, 1]), positives_only=True)) == 4


def test_epochs_have_orders_of_their_own() -> None:
    walk = PairWalk(singles([0] * 6 + [1] * 6), "undersampling")
    first, second = listed(walk, seed=1), listed(walk, seed=2)
    assert first != second and first == listed(walk, seed=1)


def test_memory_grows_with_the_rows_and_not_with_their_pairs() -> None:
    rows = singles([i % 150 for i in range(20_000)])
    tracemalloc.start()
    walk = PairWalk(rows)
    batches = walk.batches(16, np.random.default_rng(0))
    seen = [walk[int(r)] for i in (0, len(batches) // 2, len(batches) - 1) for r in batches[i]]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(walk) > 390_000_000 and peak < 4_000_000 and all(p.extra is not None for p in seen)


def test_batches_cut_like_a_list() -> None:
    batches = Batches(10, 4, 3)
    assert [len(b) for b in batches] == [4, 4, 2] and sorted(np.concatenate(list(batches)).tolist()) == list(range(10))
    assert [b.tolist() for b in batches[1:5]] == [batches[1].tolist(), batches[2].tolist()]
    with pytest.raises(IndexError):
        batches[3]


def module(framing: Pairs = Pairs(), backbone: Any = None) -> Any:  # noqa: B008
    return framing.build(tiny_task(), backbone or tiny_backbone())


def through(made: Any, rows: list[Example], backbone: Any, pairs: list[int] | None = None) -> tuple[Any, Any]:
    """(scores, batch) of ``rows`` in evaluation mode, or of pairs of them."""
    prompts = [found[0] for found in made.render(rows, (), np.random.default_rng(0))]
    walk = made.walk(prompts)
    made.eval()
    batch = made.collate(prompts if pairs is None else [walk[i] for i in pairs], np.random.default_rng(0))
    return made.scores(backbone, batch), batch


def test_the_losses_are_their_formulas() -> None:
    backbone, rows = tiny_backbone(), list(tiny_task().train.examples)[:5]
    found = {}
    for loss in ("cosine", "contrastive"):
        made = module(Pairs(loss=loss, margin=0.7), backbone)
        scores, batch = through(made, rows, backbone, [0, 1, 2, 5, 7, 8])
        h = made.trunk(backbone, batch)
        c = torch.cosine_similarity(h[:6], h[6:])
        y = batch.targets
        wanted = (c - y) ** 2 if loss == "cosine" else (y * (1 - c) ** 2 + (1 - y) * (0.7 - (1 - c)).clamp_min(0) ** 2) / 2
        found[loss] = made.loss(scores, batch).item()
        assert found[loss] == pytest.approx(wanted.mean().item(), abs=1e-6)
    assert found["cosine"] != found["contrastive"]


def test_single_rows_stand_for_all_their_pairs() -> None:
    backbone, rows = tiny_backbone(), list(tiny_task().train.examples)[:4]
    scores, batch = through(module(backbone=backbone), rows, backbone)
    labels = [e.label for e in rows]
    assert scores.only.logits.shape == (1, 6, 1)
    assert batch.targets.tolist() == [float(labels[i] == labels[j]) for i in range(4) for j in range(i + 1, 4)]
    alone, one = through(module(backbone=backbone), rows[:1], backbone)
    assert one.targets.tolist() == [1.0] and alone.only.logits.item() == pytest.approx(1.0)


def test_infonce_contrasts_positive_pairs() -> None:
    backbone, rows = tiny_backbone(), list(tiny_task().train.examples)[:6]
    made = module(Pairs(loss="infonce", temperature=0.2), backbone)
    scores, batch = through(made, rows, backbone, [0, 1, 2, 3])
    z = torch.nn.functional.normalize(made.trunk(backbone, batch), dim=-1)
    assert made.loss(scores, batch).item() == pytest.approx(info_nce(z[:4] @ z[4:].T / 0.2, batch.targets).item(), abs=1e-6)


@pytest.mark.parametrize(("tuning", "rate"), [(Full(), 1e-3), (LoRA(r=4), 2e-2)], ids=["full", "lora"])
def test_training_brings_classes_together_whatever_is_tuned(tuning: Any, rate: float) -> None:
    task = tiny_task(16)
    stage = dataclasses.replace(STAGE, tuning=tuning, learning_rate=rate, num_train_epochs=4)

    def contrast(learner: Any) -> float:
        """How much nearer rows of one class are than those of two."""
        vectors = np.array([p.label for p in learner.predictions(task.train.examples)])
        assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
        same = np.array([[a.label == b.label for a in task.train] for b in task.train])
        return float((vectors @ vectors.T)[same].mean() - (vectors @ vectors.T)[~same].mean())

    before = contrast(assemble(stage, tiny_backbone(), task, SEEDS))
    assert contrast(stage.run(tiny_backbone(), task, SEEDS)) > before + 0.3


def test_steps_are_those_of_the_pairs_and_explain_says_them() -> None:
    task = tiny_task(16)
    walk = PairWalk(singles([task.label_index(e.label) for e in task.train]))
    recipe = Recipe("r", (STAGE, Train()))
    steps = -(-len(walk) // 16)
    assert explain(recipe, tiny_backbone(), task).stages[0].steps == steps
    assert STAGE.run(tiny_backbone(), task, SEEDS).record["stage"]["steps"] == steps


def test_a_killed_run_continues_bit_for_bit(tmp_path: Any) -> None:
    stage = dataclasses.replace(STAGE, max_steps=6, save_strategy="steps", save_steps=3)
    whole = stage.run(tiny_backbone(), tiny_task(), SEEDS)

    class Killed(Exception):
        pass

    def kill(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == 5:
            raise Killed

    with pytest.raises(Killed):
        stage.run(tiny_backbone(), tiny_task(), SEEDS, around=Surroundings(tmp_path, listener=kill))
    again = stage.run(tiny_backbone(), tiny_task(), SEEDS, around=Surroundings(tmp_path, resume=True))
    assert differing(bits(whole), bits(again)) == []


def test_it_may_be_judged_by_its_loss_while_it_trains() -> None:
    stage = dataclasses.replace(STAGE, max_steps=4, eval_strategy="steps", eval_steps=2)
    history = stage.run(tiny_backbone(), tiny_task(), SEEDS).record["stage"]["history"]
    assert [set(entry) for entry in history] == [{"step", "loss"}] * 2


def test_what_it_cannot_serve_is_refused() -> None:
    with pytest.raises(RecipeError, match="set-valued labels have no one class; use framing head"):
        Pairs().build(tiny_task(kind="multilabel"), tiny_backbone())
    with pytest.raises(RecipeError, match="kind 'regression'"):
        Pairs().build(tiny_task(kind="regression"), tiny_backbone())
    with pytest.raises(RecipeError, match="trains nothing of the model"):
        dataclasses.replace(STAGE, tuning=Frozen()).check("r: stages.0", last=False)
    with pytest.raises(RecipeError, match="compares rows with each other"):
        dataclasses.replace(STAGE, class_weights="balanced").run(tiny_backbone(), tiny_task(), SEEDS)
    with pytest.raises(RecipeError, match="predicts none; leave it out or set loss"):
        dataclasses.replace(STAGE, metric_for_best_model="accuracy").run(tiny_backbone(), tiny_task(), SEEDS)
    one = [e for e in tiny_task().train.examples if e.label == "good"]
    with pytest.raises(DataError, match="at least two classes, found 'good'"):
        module().prepare(None, one, np.random.default_rng(0))
    assert "vector for each text" in STAGE.check("r: stages.0", last=True)[0]


def test_only_a_loss_that_couples_rows_refuses_to_be_cut() -> None:
    task = tiny_task()
    for loss, coupled in (("cosine", False), ("infonce", True)):
        stage = dataclasses.replace(STAGE, framing=Pairs(loss=loss))  # type: ignore[arg-type]
        feed = Feed(assemble(stage, tiny_backbone(), task, SEEDS).framing, task.train.examples, stage, SEEDS)
        if coupled:
            with pytest.raises(MemoryShort, match="pairs couples the rows of a batch"):
                refuse_back_off((), feed, 1)
            feed.world = 2
            with pytest.raises(RecipeError, match="run it in one process"):
                feed.micro(0)
        else:
            refuse_back_off((), feed, 1)
            halves = [dataclasses.replace(feed, rank=rank, world=2).micro(0)[0] for rank in (0, 1)]
            assert sum(len(b.targets) for b in halves if b.targets is not None) == 16


def test_a_head_of_length_one_reads_the_direction_alone() -> None:
    backbone, task = tiny_backbone(), tiny_task()
    made = Head(pool="mean", normalize=True).build(task, backbone)
    batch = made.collate(
        [found[0] for found in made.render(task.train.examples[:3], (), np.random.default_rng(0))], np.random.default_rng(0)
    )
    assert torch.allclose(made.trunk(backbone, batch).norm(dim=-1), torch.ones(3), atol=1e-5)
    assert made.trunk_key() != Head(pool="mean").build(task, backbone).trunk_key() and made.export_state() is None
