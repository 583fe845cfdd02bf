"""SimCSE: the loss by its formula and golden values, where its partners come from, and what it refuses."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from tempering.batching import even_batches
from tempering.contracts import Example, Seeds
from tempering.dropout import dropout_stream
from tempering.errors import DataError, MemoryShort, ModelError, RecipeError
from tempering.fitting import fit
from tempering.framings.contrastive import Contrastive
from tempering.framings.pairs import Pairs
from tempering.framings.vectored.vectors import info_nce
from tempering.plan import explain
from tempering.recipe import Recipe
from tempering.stages.setup import Surroundings, assemble
from tempering.stages.train import Train
from tempering.tasks import Task
from tempering.train.feed import Feed
from tempering.train.memory import refuse_back_off
from tempering.tunings.frozen import Frozen
from tempering.tunings.full import Full
from tests.tiny import tiny_backbone, tiny_task

SEEDS = Seeds.of(0)
STAGE = Train(framing=Contrastive(), text="unlabeled", learning_rate=1e-3, max_steps=4, per_device_train_batch_size=8, warmup_steps=0)
PAIRS = (
    ("a film", "it was good", "entailment"),
    ("a film", "it was bad", "contradiction"),
    ("a film", "a day", "neutral"),
    ("the story", "a story was told", "entailment"),
    ("the meal", "the meal was great", "entailment"),
    ("the meal", "no meal was there", "contradiction"),
    ("the meal", "a meal", "entailment"),
)


def nli() -> Task:
    rows = [Example((a, b), label, i) for i, (a, b, label) in enumerate(PAIRS, start=1)]
    return Task.from_examples(train=rows, kind="classification")


def made(framing: Contrastive, task: Any = None, backbone: Any = None) -> Any:
    return framing.build(task or tiny_task(), backbone or tiny_backbone())


def batched(module: Any, rows: Any) -> Any:
    prompts = [p for found in module.render(rows, (), np.random.default_rng(0)) for p in found]
    return module.collate(prompts, np.random.default_rng(0))


@pytest.mark.parametrize("rows", [2, 7, 64])
def test_equal_vectors_lose_exactly_log_of_the_batch(rows: int) -> None:
    logits = torch.ones(rows, rows) / 0.05
    assert info_nce(logits, torch.arange(rows)).item() == pytest.approx(math.log(rows), abs=1e-6)


@given(seed=st.integers(0, 1000), rows=st.integers(2, 9), classes=st.integers(1, 9))
def test_the_loss_is_that_of_khosla_and_without_equal_classes_cross_entropy(seed: int, rows: int, classes: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, rows + 2, generator=rng)
    targets = torch.randint(classes, (rows,), generator=rng)
    chances = logits.softmax(-1).log()
    each = [torch.stack([chances[i, j] for j in range(rows) if targets[j] == targets[i]]).mean() for i in range(rows)]
    assert info_nce(logits, targets).item() == pytest.approx(-torch.stack(each).mean().item(), abs=1e-5)
    assert info_nce(logits, torch.arange(rows)).item() == pytest.approx(F.cross_entropy(logits, torch.arange(rows)).item(), abs=1e-5)
    order = torch.randperm(rows, generator=rng)
    moved = torch.cat([logits[order][:, order], logits[order][:, rows:]], 1)
    assert info_nce(moved, targets[order]).item() == pytest.approx(info_nce(logits, targets).item(), abs=1e-5)


def test_weights_weigh_rows() -> None:
    logits, targets = torch.randn(4, 4), torch.arange(4)
    each = F.cross_entropy(logits, targets, reduction="none")
    weights = torch.tensor([1.0, 0.0, 2.0, 1.0])
    assert info_nce(logits, targets, weights).item() == pytest.approx(((each * weights).sum() / 4).item(), abs=1e-6)


def test_the_loss_of_a_batch_is_the_formula_and_rows_may_change_places() -> None:
    backbone, rows = tiny_backbone(), list(tiny_task().train.examples)[:6]
    module = made(Contrastive(temperature=0.1, head="none"), backbone=backbone).eval()
    batch = batched(module, rows)
    h = module.trunk(backbone, batch)[:6]
    similar = torch.cosine_similarity(h[:, None], h[None], dim=-1) / 0.1
    loss = module.loss(module.scores(backbone, batch), batch).item()
    assert loss == pytest.approx(-(similar.diag() - similar.logsumexp(-1)).mean().item(), abs=1e-5)
    turned = batched(module, rows[::-1])
    assert module.loss(module.scores(backbone, turned), turned).item() == pytest.approx(loss, abs=1e-5)


def test_without_dropout_a_text_and_its_copy_are_one_and_with_it_they_differ() -> None:
    backbone, rows = tiny_backbone(), list(tiny_task().train.examples)[:5]
    module = made(Contrastive(temperature=0.5), backbone=backbone)
    batch = batched(module, rows)
    backbone.eval()
    module.train()
    still = module.scores(backbone, batch).only.logits[0]
    assert torch.allclose(still.diag() * 0.5, torch.ones(5), atol=1e-5)
    backbone.train()
    with dropout_stream(0, device=torch.device("cpu")):
        moved = module.scores(backbone, batch).only.logits[0]
    assert (moved.diag() * 0.5 < 1 - 1e-4).all()
    assert len(module.trunk(backbone, batch)) == 10


def test_the_mlp_is_there_in_training_only() -> None:
    backbone, rows = tiny_backbone().eval(), list(tiny_task().train.examples)[:4]
    module = made(Contrastive(), backbone=backbone)
    batch = batched(module, rows)
    training, evaluating = (module.train(mode).scores(backbone, batch).only.features for mode in (True, False))
    h = module.trunk(backbone, batch)[:4]
    assert torch.allclose(evaluating, F.normalize(h, dim=-1), atol=1e-6)
    assert torch.allclose(training, F.normalize(torch.tanh(module.mlp(h)), dim=-1), atol=1e-5)
    assert made(Contrastive(head="none")).mlp is None


def test_entailed_texts_are_partners_and_contradicted_ones_hard_negatives() -> None:
    task, backbone = nli(), tiny_backbone()
    module = made(Contrastive("supervised", temperature=0.2, head="none"), task, backbone).eval()
    rendered = module.render(task.train.examples, (), np.random.default_rng(0))
    assert [len(found) for found in rendered] == [1, 0, 0, 1, 1, 0, 1]
    ids = {text: module.text.encode([Example((text,))])[0].ids for row in PAIRS for text in row[:2]}
    assert [(p.input_ids, *p.extra) for found in rendered for p in found] == [
        (ids["a film"], ids["it was good"], ids["it was bad"]),
        (ids["the story"], ids["a story was told"], None),
        (ids["the meal"], ids["the meal was great"], ids["no meal was there"]),
        (ids["the meal"], ids["a meal"], ids["no meal was there"]),
    ]
    batch = batched(module, task.train.examples)
    h = F.normalize(module.trunk(backbone, batch), dim=-1)
    assert h.shape[0] == 4 + 4 + 3
    wanted = F.cross_entropy(h[:4] @ h[4:].T / 0.2, torch.arange(4)).item()
    assert module.loss(module.scores(backbone, batch), batch).item() == pytest.approx(wanted, abs=1e-6)


def test_steps_and_plan_count_the_positive_pairs() -> None:
    stage = dataclasses.replace(STAGE, framing=Contrastive("supervised"), text="labeled", max_steps=-1, num_train_epochs=1,
                                per_device_train_batch_size=2, eval_strategy="no")  # fmt: skip
    assert stage.run(tiny_backbone(), nli(), SEEDS).record["stage"]["steps"] == 2
    assert explain(Recipe("r", (stage, Train())), tiny_backbone(), nli()).stages[0].steps == 2


def test_classes_are_positives_of_each_other() -> None:
    task, backbone = tiny_task(), tiny_backbone()
    module = made(Contrastive("supervised", head="none"), task, backbone).eval()
    batch = batched(module, task.train.examples[:6])
    assert batch.targets.tolist() == [task.label_index(e.label) for e in task.train.examples[:6]]
    z = F.normalize(module.trunk(backbone, batch)[:6], dim=-1)
    wanted = info_nce(z @ z.T / 0.05, batch.targets).item()
    assert module.loss(module.scores(backbone, batch), batch).item() == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("mode", ["unsupervised", "supervised"])
def test_it_is_a_stage_before_the_task(mode: Any) -> None:
    text = "unlabeled" if mode == "unsupervised" else "labeled"
    first = dataclasses.replace(STAGE, framing=Contrastive(mode), text=text)
    told: list[Any] = []
    learner = fit(Recipe("r", (first, Train(max_steps=2))), tiny_task(60), tiny_backbone(), listener=told.append)
    assert "accuracy" in learner.record["metrics"]["dev"] and learner.backbone.changed
    assert set(learner.record["earlier"][0]["history"][0]) == {"step", "loss"}
    assert not [e for e in told if e["event"] == "note" and "vector" in e["text"]]


def test_training_lowers_the_held_out_loss() -> None:
    stage = dataclasses.replace(STAGE, framing=Contrastive(pool="mean"), max_steps=40, learning_rate=3e-4)
    record = stage.run(tiny_backbone(), tiny_task(200), SEEDS).record["stage"]
    assert record["history"][-1]["loss"] < record["before"]["loss"]


@pytest.mark.parametrize("framing", [Contrastive(), Pairs(loss="cosine"), Pairs(loss="infonce")])
def test_held_out_texts_are_compared_whatever_their_length(framing: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss of the whole split in one batch is the formula, also where cutting by length would save padding; of more it is even."""
    rows = [Example(("good " * n,), ("bad", "good")[n % 2], n) for n in range(1, 22)]
    learner = assemble(Train(framing=framing), tiny_backbone(), Task.from_examples(rows, rows), SEEDS)
    prompts = [p for said in learner.framing.render(rows, (), np.random.default_rng(0)) for p in said]
    sizes, collate = list[int](), learner.framing.collate
    monkeypatch.setattr(learner.framing, "collate", lambda p, rng: (sizes.append(len(p)), collate(p, rng))[1])
    monkeypatch.setattr("tempering.batching.SPARE", 1)
    whole = learner.mean_loss(prompts, 64)
    learner.mean_loss(prompts, 20)
    assert sizes == [21, 11, 10]
    (drawn,) = even_batches(21, 64, np.random.default_rng(0))
    batch = collate([prompts[i] for i in drawn], np.random.default_rng(0))
    with torch.no_grad():
        assert whole == pytest.approx(float(learner.framing.loss(learner.eval()(batch), batch)), rel=1e-4)


def test_a_prediction_is_a_vector_of_length_one() -> None:
    learner = STAGE.run(tiny_backbone(), tiny_task(), SEEDS)
    vectors = np.array(learner.predict(["a good film", "bad", "a good film"]))
    assert vectors.shape[0] == 3 and np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert np.allclose(vectors[0], vectors[2], atol=1e-6) and not np.allclose(vectors[0], vectors[1], atol=1e-3)
    assert "vector for each text" in STAGE.check("r: stages.0", last=True)[0]


def test_a_model_without_dropout_is_refused_and_one_with_it_in_attention_alone_is_not() -> None:
    backbone = tiny_backbone()
    for part in backbone.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    for part in backbone.modules():
        if hasattr(part, "dropout_prob"):
            part.dropout_prob = 0.0
    with pytest.raises(ModelError, match=r"without dropout, so that a text and its copy come out equal; choose a model"):
        STAGE.run(backbone, tiny_task(), SEEDS)
    dataclasses.replace(STAGE, framing=Contrastive("supervised"), text="labeled").run(backbone, tiny_task(), SEEDS)


def test_a_frozen_model_is_refused() -> None:
    with pytest.raises(RecipeError, match="use tuning full, lora"):
        dataclasses.replace(STAGE, tuning=Frozen()).check("r: stages.0", last=False)
    assert dataclasses.replace(STAGE, tuning=Full()).check("r: stages.0", last=False) == []


def test_rows_that_teach_nothing_are_named() -> None:
    stage = dataclasses.replace(STAGE, framing=Contrastive("supervised", positive="same"), text="labeled")
    with pytest.raises(
        DataError, match=r"labelled 'same' \(labels found: contradiction, entailment, neutral\), found 0; .*framing.positive"
    ):
        stage.run(tiny_backbone(), nli(), SEEDS)
    with pytest.raises(RecipeError, match="kind 'regression'; use mode: unsupervised"):
        made(Contrastive("supervised"), tiny_task(kind="regression"))
    with pytest.raises(RecipeError, match="needs labels, but text is 'unlabeled'"):
        dataclasses.replace(STAGE, framing=Contrastive("supervised")).check("r: stages.0", last=False)


def test_the_rows_of_a_batch_stay_together() -> None:
    task = tiny_task()
    feed = Feed(assemble(STAGE, tiny_backbone(), task, SEEDS).framing, task.train.examples, STAGE, SEEDS)
    with pytest.raises(MemoryShort, match=r"contrastive couples the rows of a batch.*per_device_train_batch_size"):
        refuse_back_off((), feed, 1)
    feed.world = 2
    with pytest.raises(RecipeError, match="contrastive compares the rows of a batch"):
        feed.micro(0)


@pytest.mark.parametrize(("family", "how"), [("bert", "first"), ("gpt2", "last"), ("t5", "mean")])
def test_auto_pools_what_has_read_all(family: str, how: str) -> None:
    assert made(Contrastive(), backbone=tiny_backbone(family)).pooling.how == how


def test_a_killed_run_continues_bit_for_bit(tmp_path: Any) -> None:
    stage = dataclasses.replace(STAGE, save_strategy="steps", save_steps=2, eval_strategy="no", load_best_model_at_end=False)
    whole = stage.run(tiny_backbone(), tiny_task(), SEEDS)

    class Killed(Exception):
        pass

    def kill(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == 3:
            raise Killed

    with pytest.raises(Killed):
        stage.run(tiny_backbone(), tiny_task(), SEEDS, around=Surroundings(tmp_path, listener=kill))
    again = stage.run(tiny_backbone(), tiny_task(), SEEDS, around=Surroundings(tmp_path, resume=True))
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name]), name
