"""PET and iPET: golden values, the sets that models label for each other, what each part of the stage reads, and resuming."""

from __future__ import annotations

import dataclasses
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tempering.backbone import Backbone
from tempering.contracts import Example, Seeds
from tempering.errors import DataError, RecipeError
from tempering.fitting import fit
from tempering.framings.cloze import Cloze
from tempering.framings.hidden.masking import Masking
from tempering.plan import explain
from tempering.recipe import Recipe
from tempering.saving import load
from tempering.stages import pet_models
from tempering.stages.pet import PET
from tempering.stages.pet_models import Teacher, Teachers
from tempering.stages.pet_sets import Labelled, distillation_loss, draw, ensemble, others, sizes
from tempering.stages.pet_training import AuxiliaryLM, masked_loss, of_like_length
from tempering.stages.setup import Surroundings
from tempering.stages.train import Train
from tempering.tasks import Task
from tempering.tunings.full import Full
from tempering.tunings.houlsby import Houlsby
from tests.framings.test_masked_lm import save_masked_lm
from tests.laws.bench import bits, differing
from tests.tiny import save_tiny, tiny_examples, tiny_task

SEEDS = Seeds.of(0)
STAGE = PET(
    patterns=("{text} it was {mask}", "{mask} : {text}"),
    words={"bad": "bad", "good": "good"},
    repetitions=2,
    pattern_steps=2,
    pattern_batch_size=8,
    max_steps=3,
    num_train_epochs=1,
    learning_rate=1e-3,
    warmup_steps=0,
)


@pytest.fixture
def body(tmp_path: Path) -> Backbone:
    save_masked_lm("bert", tmp_path / "model")
    return Backbone.load(str(tmp_path / "model"))


def test_the_distillation_loss_is_the_golden_one_and_zero_at_the_target() -> None:
    pred, target = torch.tensor([[1.0, 0.0, -1.0]]), torch.tensor([[2.0, 1.0, 0.5]])
    assert float(distillation_loss(pred, target, 2.0)) == pytest.approx(0.0209485, abs=5e-7)
    assert float(distillation_loss(target + 3.0, target, 2.0)) == pytest.approx(0.0, abs=1e-7)
    both = torch.cat([pred, target]), torch.cat([target, target])
    assert float(distillation_loss(*both)) == pytest.approx(0.0209485 / 2, abs=5e-7)  # mean over rows


def test_the_weighted_mean_is_the_golden_one_and_equal_weights_are_the_mean() -> None:
    logits = [torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]])]
    assert ensemble(logits, [0.9, 0.6]).tolist() == [[pytest.approx(0.6), pytest.approx(0.8)]]
    assert torch.equal(ensemble(logits, [0.7, 0.7]), ensemble(logits))
    assert torch.equal(ensemble(logits, [0.0, 0.0]), ensemble(logits))


@pytest.mark.parametrize(
    ("counts", "generation", "expected"),
    [([16, 16], 1, [64, 64]), ([16, 16], 2, [384, 384]), ([5, 15], 1, [20, 60]), ([0, 0], 1, [5, 5]), ([0, 0], 2, [25, 25])],
)
def test_sets_grow_by_the_scale_with_the_balance_of_the_labels(counts: list[int], generation: int, expected: list[int]) -> None:
    assert sizes(counts, generation, 5.0) == expected
    if sum(counts):  # with the labelled rows, a set is scale^generation as large as those
        assert sum(sizes(counts, generation, 5.0)) + sum(counts) == sum(counts) * 5**generation


def test_a_quarter_of_the_others_is_drawn_and_never_the_model_itself() -> None:
    drawn = [others(9, 3, 0.25, np.random.default_rng(i)) for i in range(50)]
    assert {len(d) for d in drawn} == {2} and all(3 not in d and d == sorted(set(d)) for d in drawn)
    assert {i for d in drawn for i in d} == set(range(9)) - {3}
    assert others(2, 0, 0.25, np.random.default_rng(0)) == [1]  # one at least
    with pytest.raises(DataError, match="only one"):
        others(1, 0, 0.25, np.random.default_rng(0))


def test_draws_follow_the_top_probability_without_replacement() -> None:
    sure = torch.tensor([[9.0, 0.0], [0.1, 0.0], [0.1, 0.0], [0.0, 4.0], [0.0, 5.0]])
    rng = np.random.default_rng(0)
    firsts = Counter(draw(sure, [1, 0], rng)[0].row for _ in range(600))
    chances = sure[:3].softmax(-1)[:, 0]
    assert firsts[0] / 600 == pytest.approx(float(chances[0] / chances.sum()), abs=0.08)
    found = draw(sure, [3, 5], np.random.default_rng(0))
    assert sorted(n.row for n in found if n.label == 0) == [0, 1, 2]
    assert sorted(Counter(n.row for n in found if n.label == 1).values()) == [2, 3]  # two rows for five places: they repeat
    assert {n.row for n in draw(sure, [1, 1], np.random.default_rng(1), most_likely=1)} == {0, 4}
    with pytest.raises(DataError, match="say class 'good' of none of the 3"):
        draw(sure[:3], [1, 1], np.random.default_rng(0), labels=("bad", "good"))


def teachers(stage: PET, rows: int = 24, labelled: int = 8) -> Teachers:
    pool = [dataclasses.replace(e, label=None) for e in tiny_examples(rows, seed=5)]
    return Teachers(stage, None, tiny_task(labelled), pool, SEEDS, Surroundings())  # type: ignore[arg-type]


def test_the_set_of_a_model_uses_no_logits_of_its_own() -> None:
    stage = dataclasses.replace(STAGE, generations=1, others=1.0, scale=2.0)
    made, torch_rng = teachers(stage), torch.Generator().manual_seed(0)
    found = [Teacher(torch.randn(24, 2, generator=torch_rng), 0.5 + i / 10) for i in range(4)]
    sets = [made.new_set(1, i, found) for i in range(4)]
    for i in range(4):
        nonsense = [Teacher(-9 * t.logits, 9.0) if j == i else t for j, t in enumerate(found)]
        assert made.new_set(1, i, nonsense) == sets[i]
        assert [Counter(n.label for n in sets[i])[c] for c in (0, 1)] == [4, 4]
        rest = ensemble([t.logits for j, t in enumerate(found) if j != i], [t.weight for j, t in enumerate(found) if j != i])
        assert all(int(rest[n.row].argmax()) == n.label for n in sets[i])


def test_without_labels_the_first_sets_are_of_the_surest_rows() -> None:
    made = teachers(dataclasses.replace(STAGE, generations=1, zero_shot=True, most_likely=5))
    logits = torch.stack([torch.linspace(-3, 3, 24), torch.zeros(24)], 1)
    new = made.new_set(1, 0, [Teacher(logits, 0.0)] * 4)
    assert sorted(n.row for n in new) == [0, 1, 2, 3, 4, 19, 20, 21, 22, 23]
    assert made.weights([Teacher(logits, 0.3)] * 4) is None


def test_alpha_one_is_no_auxiliary_loss_and_below_it_both_are_weighed(body: Backbone) -> None:
    stage = Train(framing=Cloze("{text} it was {mask}", words=STAGE.words), max_steps=1, num_train_epochs=1)
    learner = stage.run(body, tiny_task(), SEEDS)
    prompts = [p for found in learner.framing.render(tiny_examples(6), (), np.random.default_rng(0)) for p in found]
    assert AuxiliaryLM(1.0, prompts).neutral and AuxiliaryLM(0.5, ()).neutral and not AuxiliaryLM(0.9999, prompts).neutral
    batch = learner.framing.collate(prompts[:4], np.random.default_rng(0))
    supervised = torch.tensor(2.0)
    learner.eval()
    passes = SimpleNamespace(
        batch=batch, supervised=lambda: supervised, stream=lambda *_: np.random.default_rng(7), key=(0,), autocast=nullcontext,
        native_dropout=False, device=torch.device("cpu"),
    )  # fmt: skip
    base = AuxiliaryLM(0.75, prompts).start(learner, {}, 0).base
    assert base is not None
    rng = np.random.default_rng(7)
    rows = of_like_length([len(p.input_ids) for p in prompts], 4, rng)
    masking = Masking.of(body.tokenizer, body.embeddings.get_parameter("weight").shape[0], 0.15, (0.8, 0.1))
    mlm = masked_loss(learner, learner.framing.collate([prompts[i] for i in rows], rng), masking, rng)
    assert base(passes).item() == pytest.approx(0.75 * 2.0 + 0.25 * mlm.item(), abs=1e-6)  # type: ignore[arg-type]


def test_unlabelled_texts_of_a_batch_are_of_like_length_and_each_is_as_likely() -> None:
    lengths = list(range(1, 41))
    rng, seen, padded, real = np.random.default_rng(0), Counter[int](), 0, 0
    for _ in range(2000):
        rows = of_like_length(lengths, 4, rng)
        assert len(rows) == 4
        seen.update(rows)
        padded, real = padded + 4 * max(lengths[i] for i in rows), real + sum(lengths[i] for i in rows)
    assert padded / real < 1.1  # of any four: 1.6
    assert all(abs(seen[i] - 200) < 5 * 200**0.5 for i in range(40))
    assert of_like_length(lengths, 4, np.random.default_rng(1)) == of_like_length(lengths, 4, np.random.default_rng(1))
    assert len(of_like_length([3], 4, rng)) == 4


def test_the_masked_loss_is_the_cross_entropy_of_the_hidden_tokens(body: Backbone, tmp_path: Path) -> None:
    from transformers import AutoModelForMaskedLM

    stage = Train(framing=Cloze("{text} it was {mask}", words=STAGE.words), max_steps=1, num_train_epochs=1, learning_rate=1e-12)
    learner = stage.run(body, tiny_task(), SEEDS)
    prompts = [found[0] for found in learner.framing.render(tiny_examples(5), (), np.random.default_rng(0))]
    batch = learner.framing.collate(prompts, np.random.default_rng(0))
    whole, mask = batch.inputs["input_ids"].clone(), batch.inputs["attention_mask"].bool()
    masking = Masking.of(body.tokenizer, 192, 0.15, (0.8, 0.1))
    hidden, places = masking.corrupt(whole.numpy(), mask.numpy(), None, np.random.default_rng(3))
    theirs = AutoModelForMaskedLM.from_pretrained(tmp_path / "model").eval()
    with torch.no_grad():
        logits = theirs(**batch.inputs | {"input_ids": torch.from_numpy(hidden)}).logits.flatten(0, 1)[torch.from_numpy(places)]
    expected = F.cross_entropy(logits, whole.flatten()[torch.from_numpy(places)])
    learner.eval()
    assert masked_loss(learner, batch, masking, np.random.default_rng(3)).item() == pytest.approx(float(expected), abs=1e-4)
    assert body.tokenizer.mask_token_id not in whole.flatten()[torch.from_numpy(places)]  # the pattern's own mask is never asked for


def test_the_classifier_learns_soft_labels_of_unlabelled_rows_only(body: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels of the training rows move it only through the teachers, which here are given."""
    soft = torch.tensor([[3.0, -3.0]])
    monkeypatch.setattr(Teachers, "soft_labels", lambda self: soft.repeat(len(self.pool), 1))
    stage = dataclasses.replace(STAGE, max_steps=20, learning_rate=1e-2, load_best_model_at_end=False)
    learner = stage.run(body, tiny_task(), SEEDS)
    assert {p.label for p in learner.predictions(tiny_examples(8))} == {"bad"}
    assert type(learner.framing).__name__ == "HeadModule" and learner.record["stage"]["unlabeled"] == 24


def test_every_pattern_is_trained_and_accounted_for(body: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        pet_models, "logits_of", lambda _learner, rows, _size: torch.tensor([[1.0, 0.0], [0.0, 1.0]]).repeat(len(rows) // 2, 1)
    )
    told: list[str] = []
    before = bits(body)  # type: ignore[arg-type]
    stage = dataclasses.replace(STAGE, generations=1, scale=2.0, max_steps=1, learning_rate=1e-12)
    listener = lambda e: told.append(e["text"]) if e["event"] == "note" else None  # noqa: E731
    learner = stage.run(body, tiny_task(), SEEDS, around=Surroundings(listener=listener))
    models = learner.record["stage"]["models"]
    assert [(m["generation"], m["pattern"]) for m in models] == [(g, p) for g in (0, 1) for p in STAGE.patterns for _ in range(2)]
    assert [m["new_rows"] for m in models] == [0] * 4 + [24] * 4 and all(0 <= m["weight"] <= 1 for m in models)
    assert sum("generation 2 of 2" in t for t in told) == 4
    moved = differing(before, {k: v for k, v in bits(body).items() if k in before})  # type: ignore[arg-type]
    assert all(torch.allclose(before[n], body.state_dict()[n], atol=1e-6) for n in moved)  # patterns were trained on copies


@pytest.mark.parametrize(("tuning", "fresh", "readings"), [(Full(), False, 2), (Houlsby(m=4), False, 4), (Full(), True, 4)])
def test_untrained_models_that_are_the_same_read_the_texts_once(
    body: Backbone, tuning: Any, fresh: bool, readings: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two patterns and two repetitions: these are the same model, unless adapters or a language-model head are drawn for each."""
    given = Backbone.load(str(save_tiny("bert", tmp_path / "bare"))) if fresh else body
    stage = dataclasses.replace(STAGE, zero_shot=True, tuning=tuning)
    whole = dataclasses.replace(teachers(stage), backbone=given)
    alone = [dataclasses.replace(teachers(stage), backbone=given)._model(0, m, ()).logits for m in range(4)]
    read: list[int] = []
    logits_of = pet_models.logits_of
    monkeypatch.setattr(pet_models, "logits_of", lambda *asked: (read.append(1), logits_of(*asked))[1])
    assert torch.equal(whole.soft_labels(), ensemble(alone)) and len(read) == readings
    assert [m["pattern"] for m in whole.account] == [p for p in STAGE.patterns for _ in range(2)]
    assert torch.equal(alone[0], alone[1]) is (readings == 2)


def test_a_killed_run_goes_on_behind_the_last_whole_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_masked_lm("bert", tmp_path / "model")
    recipe, task, where = Recipe("pet", (STAGE,)), tiny_task(), tmp_path / "out"
    whole = fit(recipe, task, str(tmp_path / "model"))
    trained = Teachers._trained
    count, checkpoints = [0], list[list[Path]]()

    def dying(self: Any, *given: Any) -> Teacher:
        count[0] += 1
        if count[0] == 3:
            checkpoints.extend(sorted(folder.rglob("*checkpoint-*")) for folder in where.rglob("model-*"))
            raise KeyboardInterrupt
        return trained(self, *given)

    monkeypatch.setattr(Teachers, "_trained", dying)
    with pytest.raises(KeyboardInterrupt):
        fit(recipe, task, str(tmp_path / "model"), output_dir=where)
    learner = fit(recipe, task, str(tmp_path / "model"), output_dir=where, resume=True)
    assert count[0] == 5  # two models were there, the third and the fourth were trained
    assert checkpoints == [[], []]  # the first two models' are gone before the third is trained
    assert differing(bits(whole), bits(learner)) == []
    other = fit(recipe, task, str(tmp_path / "model"), seed=1, output_dir=where)
    assert count[0] == 9 and differing(bits(other), bits(learner))  # what another run left is not taken


def test_a_model_killed_while_it_reads_the_texts_goes_on_from_its_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytewise as in one go, whether the kill came before the logits were written or right after, with the checkpoint still there."""
    save_masked_lm("bert", tmp_path / "model")
    recipe, task, where = Recipe("pet", (STAGE,)), tiny_task(), tmp_path / "out"
    whole = fit(recipe, task, str(tmp_path / "model"))

    def killed(*_given: Any) -> Any:
        raise KeyboardInterrupt

    for place in ("logits_of", "checkpoint.clear"):
        with monkeypatch.context() as patch:
            patch.setattr(f"tempering.stages.pet_models.{place}", killed)
            with pytest.raises(KeyboardInterrupt):
                fit(recipe, task, str(tmp_path / "model"), output_dir=where, resume=True)
        assert [p.name for p in where.rglob("checkpoint-*")] == ["checkpoint-2"]
    assert differing(bits(whole), bits(fit(recipe, task, str(tmp_path / "model"), output_dir=where, resume=True))) == []
    assert not [p for p in where.rglob("*checkpoint-*") if "model-" in str(p.relative_to(where))]


def test_the_classifier_is_saved_and_loaded_like_any_other(body: Backbone, tmp_path: Path) -> None:
    learner = fit(Recipe("pet", (STAGE,)), tiny_task(), body)
    learner.save_pretrained(tmp_path / "saved")
    texts = [e.texts[0] for e in tiny_examples(5, seed=3)]
    assert load(tmp_path / "saved").predict_proba(texts) == learner.predict_proba(texts)


def test_unlabelled_texts_come_from_a_file_and_never_from_dev(body: Backbone, tmp_path: Path) -> None:
    task = tiny_task()
    hidden, fresh = task.dev.examples[0].texts[0], "the film was very good"  # type: ignore[union-attr]
    (tmp_path / "texts.txt").write_text(f"{hidden}\n{fresh}\n", encoding="utf-8")
    pool = dataclasses.replace(STAGE, text=str(tmp_path / "texts.txt")).pool(task)
    assert pool == [Example((fresh,), row=2)]
    (tmp_path / "texts.txt").write_text(f"{hidden}\n", encoding="utf-8")
    with pytest.raises(DataError, match="no text that is not a development or test text"):
        dataclasses.replace(STAGE, text=str(tmp_path / "texts.txt")).pool(task)


def test_unlabelled_pairs_are_rows_with_the_columns_of_the_training_data(tmp_path: Path) -> None:
    """The file needs no labels; of a folder the training rows are read."""
    head = "premise,claim,label\n"
    (tmp_path / "train.csv").write_text(head + "".join(f"it rains {i},wet {i},{'yn'[i % 2]}\n" for i in range(40)), encoding="utf-8")
    task = Task.from_file(tmp_path / "train.csv", text="premise", text_pair="claim")
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool" / "train.csv").write_text("claim,id,premise\ndry,1,it snows\n", encoding="utf-8")
    (tmp_path / "pool" / "test.csv").write_text("claim,id,premise\nhot,1,it burns\n", encoding="utf-8")
    for text in (tmp_path / "pool", tmp_path / "pool" / "train.csv"):
        assert dataclasses.replace(STAGE, text=str(text)).pool(task) == [Example(("it snows", "dry"), row=2)]
    (tmp_path / "one.csv").write_text("premise\nit snows\n", encoding="utf-8")
    for name in ("one.csv", "none.csv"):
        with pytest.raises(
            DataError, match=f"{name}' cannot be read as pairs: .*; call its columns as in the training data, premise and claim"
        ):
            dataclasses.replace(STAGE, text=str(tmp_path / name)).pool(task)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"patterns": ()}, "names none"),
        ({"patterns": ("{text} {mask}", "{text} {mask}")}, "stands there twice"),
        ({"patterns": ("{text} {soft} {mask}",)}, "trained vectors"),
        ({"patterns": ("{text} {mask}",), "repetitions": 1, "generations": 1}, "need other models"),
        ({"framing": "cloze"}, "take framing head, not cloze"),
        ({"stabilizers": ("freelb",)}, "replaces the loss"),
        ({"class_weights": "balanced"}, "class_weights is for labels, and pet's classifier learns the soft labels"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor is for labels"),
    ],
)
def test_what_cannot_work_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        Recipe("pet", (dataclasses.replace(STAGE, **changes),)).check()


def test_a_value_is_refused(body: Backbone) -> None:
    with pytest.raises(RecipeError, match="labels texts by class"):
        STAGE.run(body, tiny_task(kind="regression"), SEEDS)


@pytest.mark.parametrize("name", ["pet", "ipet"])
def test_the_recipes_are_explained(name: str, tmp_path: Path) -> None:
    save_masked_lm("bert", tmp_path)
    recipe = Recipe.load(name)
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe
    lines = explain(recipe, str(tmp_path), tiny_task()).lines()
    count = "36 models (4 patterns x 3 repetitions x 3 generations)" if name == "ipet" else "12 models (4 patterns x 3 repetitions)"
    (costs,) = [line for line in lines if "prompts:" in line]
    assert f"{count} are trained before the classifier, 250 steps of 16 rows each, and each reads the 24 unlabelled texts" in costs
    assert any("24 training rows" in line for line in lines)  # the classifier learns from all of them
    assert "each reads all unlabelled texts" in explain(recipe, str(tmp_path)).stages[0].costs
    assert "the first 12 of them as they are" in explain(recipe.override({"zero_shot": True}), str(tmp_path), tiny_task()).stages[0].costs


def test_notes_on_the_patterns_come_before_and_once(tmp_path: Path) -> None:
    base, task = str(save_tiny("bert", tmp_path / "bare")), tiny_task()
    rows = tuple(dataclasses.replace(e, texts=(e.texts[0], "a film")) for e in task.train)
    pairs = dataclasses.replace(task, train=dataclasses.replace(task.train, examples=rows), dev=None, test=None)
    expected = ["'{text} it was {mask}' never shows", "holds no weights of a language-model head", "'{mask} : {text}' never shows"]
    before = explain(Recipe("pet", (dataclasses.replace(STAGE, eval_strategy="no"),)), base, pairs).notes
    told: list[Any] = []
    dataclasses.replace(STAGE, eval_strategy="no", load_best_model_at_end=False).run(
        Backbone.load(base), pairs, SEEDS, around=Surroundings(listener=told.append)
    )
    during = [event["text"] for event in told if event["event"] == "note" and "generation" not in event["text"]]
    for notes in (before, during):
        assert len(notes) == 3 and all(sum(said in note for note in notes) == 1 for said in expected), notes


def test_new_rows_carry_the_labels_they_were_given(body: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(pet_models, "fit", lambda learner, feed, plan: seen.append(feed.examples))
    made = dataclasses.replace(teachers(STAGE), backbone=body)
    made._trained(STAGE.patterns[0], 1, 0, [Labelled(2, 1), Labelled(2, 1), Labelled(0, 0)], None)
    assert [e.label for e in seen[0][8:]] == ["good", "good", "bad"] and len(seen[0]) == 11
    assert seen[0][8].texts == made.pool[2].texts
