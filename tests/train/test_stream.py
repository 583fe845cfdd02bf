"""Running text as training rows: what is held out and left out, order and masks from the seeds alone, a kill in the middle of an epoch."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tempering.contracts import Example, Seeds
from tempering.corpora import tokenizing
from tempering.corpora.nearest import Curate
from tempering.corpora.tokenizing import tokens_of
from tempering.corpora.worker import text_hash
from tempering.errors import DataError, RecipeError, ResumeError
from tempering.framings.causal_lm import CausalLM
from tempering.framings.masked_lm import MaskedLM
from tempering.framings.sentence_order import SentenceOrder
from tempering.learner import Learner
from tempering.plan import explain
from tempering.recipe import Recipe
from tempering.stages.setup import Surroundings, assemble, rows_of
from tempering.stages.train import Train
from tempering.tasks import Split, Task
from tempering.train.feed import Feed
from tempering.train.progress import Event
from tempering.train.stream import Stream, expected_rows, open_stream, secret, split, streams
from tests.laws.bench import bits, differing
from tests.tiny import NEGATIVE, POSITIVE, WORDS, tiny_backbone, tiny_examples, tiny_task

SEEDS = Seeds.of(0)
LOOP: dict[str, Any] = {
    "max_steps": 7,
    "num_train_epochs": 1,
    "per_device_train_batch_size": 8,
    "learning_rate": 1e-2,
    "warmup_steps": 0,
    "eval_strategy": "steps",
    "eval_steps": 2,
    "save_strategy": "steps",
    "save_steps": 1,
}
QUIET = Surroundings()


class KilledError(Exception):
    """Stands for a kill."""


def texts(count: int = 60, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices((*WORDS, *POSITIVE, *NEGATIVE), k=rng.randint(3, 90))) for _ in range(count)]


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file of texts that is large enough to be mapped."""
    monkeypatch.setattr(tokenizing, "SMALL", 0)
    monkeypatch.setenv("TEMPERING_CACHE", str(tmp_path / "cache"))
    (tmp_path / "corpus.txt").write_text("\n".join(texts()))
    return str(tmp_path / "corpus.txt")


def stage(text: str, framing: Any = None, **more: Any) -> Train:
    return Train(framing=framing or MaskedLM(0.2), text=text, **LOOP | more)


def stream(given: Train, task: Any, family: str = "bert") -> tuple[Stream, Learner]:
    learner = assemble(given, tiny_backbone(family), task, SEEDS)
    return open_stream(given, learner, task, SEEDS, lambda _: None), learner


def words_of(rows: Any, learner: Learner) -> list[str]:
    return [learner.backbone.tokenizer.decode(p.input_ids, skip_special_tokens=True) for p in rows]


@pytest.mark.parametrize("packed", [False, True])
def test_held_out_by_document_and_all_else_trained_on(corpus: str, packed: bool) -> None:
    found, learner = stream(stage(corpus, MaskedLM(0.2, packed=packed)), tiny_task())
    train, held = (" ".join(words_of(part, learner)).split() for part in (found.rows, found.held_out))
    given = [text.split() for text in texts()]
    assert sorted(train + held) == sorted(w for text in given for w in text)
    held_texts = [text for text in given if " ".join(text) in " ".join(held)]
    assert len(held_texts) == 3 and sum(len(t) for t in held_texts) == len(held)  # 1 in 20, whole ones
    again, _ = stream(stage(corpus, MaskedLM(0.2, packed=packed)), tiny_task())
    assert words_of(again.held_out, learner) == words_of(found.held_out, learner) and again.key == found.key


@pytest.mark.parametrize("text", ["unlabeled", "file"])
@pytest.mark.parametrize("packed", [False, True])
def test_nothing_is_held_out_that_nobody_would_read(text: str, packed: bool, corpus: str) -> None:
    task = tiny_task(60)
    given = stage(corpus if text == "file" else "unlabeled", MaskedLM(0.2, packed=packed), eval_strategy="no")
    if text == "unlabeled" and not packed:
        train, held = rows_of(given, task, SEEDS)
        assert sorted(e.texts for e in train) == sorted(e.texts for e in task.train) and not held
        return
    found, learner = stream(given, task)
    wanted = texts() if text == "file" else [e.texts[0] for e in task.train]
    assert sorted(" ".join(words_of(found.rows, learner)).split()) == sorted(" ".join(wanted).split()) and not len(found.held_out)
    assert expected_rows(given, learner, task) == len(found.rows)


@pytest.mark.parametrize("text", ["unlabeled", "file"])
@pytest.mark.parametrize("packed", [False, True])
def test_no_text_of_the_dev_or_test_split_is_trained_on(text: str, packed: bool, corpus: str) -> None:
    train, dev, test = tiny_examples(24), tiny_examples(8, start=100), tiny_examples(8, start=200)
    leaked = [dataclasses.replace(e, texts=(f" {e.texts[0].replace(' ', '  ')}",)) for e in (dev[0], test[1])]  # copies differ in blanks
    task = Task.from_examples(train=[*train, *leaked], dev=dev, test=test)
    with Path(corpus).open("a") as file:
        file.write("\n" + "\n".join(e.texts[0] for e in (dev[3], test[0])))
    given = stage(corpus if text == "file" else "unlabeled", MaskedLM(0.2, packed=packed))
    hidden = {text_hash(e.texts[0]) for e in (*dev, *test)}
    if text == "unlabeled" and not packed:
        parts = [[e.texts[0] for e in part] for part in rows_of(given, task, SEEDS)]
        assert hidden.isdisjoint(text_hash(t) for part in parts for t in part) and sum(map(len, parts)) == 24
        return
    found, learner = stream(given, task)
    seen = " | ".join(words_of([*found.rows, *found.held_out], learner))
    assert not [e.texts[0] for e in (*dev, *test) if e.texts[0] in seen]
    assert all(e.texts[0].split()[0] in seen for e in train)


@pytest.mark.parametrize("text", ["unlabeled", "file"])
@pytest.mark.parametrize("framing", [MaskedLM(0.2), MaskedLM(0.2, packed=True), SentenceOrder()])
def test_a_text_that_repeats_is_trained_on_or_held_out_and_never_both(text: str, framing: Any, corpus: str) -> None:
    distinct = [f"w{i} the film was {POSITIVE[i % 3]}. the meal w{i} was {NEGATIVE[i % 3]}." for i in range(40)]
    copies = [t.replace(" ", "  ") if i % 2 else t for i, t in enumerate(distinct * 25)]  # copies differ in blanks
    Path(corpus).write_text("\n".join(copies))
    given, task = stage(corpus if text == "file" else "unlabeled", framing), tiny_task()
    if text == "unlabeled":
        task = dataclasses.replace(task, train=Split("train", tuple(Example((t,), None) for t in copies)))
    if streams(given):
        tokens = tokens_of(copies, tiny_backbone().tokenizer)
        train, held = ([copies[i] for i in part] for part in split(given, tokens, secret(task), SEEDS))
    else:
        train, held = ([e.texts[0] for e in part] for part in rows_of(given, task, SEEDS))
    hashes = [{text_hash(t) for t in part} for part in (train, held)]
    assert len(held) == 2 and len(train) == 38 * 25  # 1 in 20 of the texts that differ, each read once
    assert hashes[0].isdisjoint(hashes[1]) and len(hashes[0] | hashes[1]) == 40


def test_where_no_text_repeats_documents_are_drawn_one_by_one() -> None:
    """The first of a permutation of all documents are held out: runs that are finished stay what they are."""
    task, different = tiny_task(), texts(300)
    tokens, given = tokens_of(different, tiny_backbone().tokenizer), stage("unlabeled")
    task = dataclasses.replace(task, train=Split("train", tuple(Example((t,), None) for t in different)))
    assert len(set(different)) == 300
    order = np.random.default_rng(SEEDS.sampling).permutation(300)
    train, held = split(given, tokens, secret(task), SEEDS)
    assert train.tolist() == sorted(order[15:]) and held.tolist() == sorted(order[:15])
    rows, kept = rows_of(given, task, SEEDS)
    assert [e.texts[0] for e in (*kept, *rows)] == [different[i] for i in order] and len(kept) == 15


@pytest.mark.parametrize("framing", [MaskedLM(0.2), MaskedLM(0.2, packed=True, masking="span")])
def test_masks_differ_from_epoch_to_epoch_and_repeat_with_the_seeds(framing: MaskedLM, corpus: str) -> None:
    found, learner = stream(stage(corpus, framing), tiny_task())

    def epoch(number: int, seeds: Seeds = SEEDS) -> list[Any]:
        feed = Feed(learner.framing, found.rows, stage(corpus, framing), seeds, ready=found.rows)  # type: ignore[arg-type]
        steps = range(number * feed.steps_per_epoch, (number + 1) * feed.steps_per_epoch)
        return [(b.inputs["input_ids"].tolist(), b.extra["positions"].tolist()) for s in steps for b in feed.micro(s)]

    assert epoch(0) == epoch(0) != epoch(1) and epoch(3) == epoch(3)
    assert epoch(0) != epoch(0, dataclasses.replace(SEEDS, order=9)) and epoch(0) != epoch(0, dataclasses.replace(SEEDS, dropout=9))


@pytest.mark.parametrize(
    ("framing", "family"),
    [(MaskedLM(0.2), "bert"), (MaskedLM(0.2, packed=True, masking="whole_word"), "bert"), (CausalLM(packed=True), "gpt2")],
)
def test_a_kill_in_the_middle_of_an_epoch_leaves_no_trace(framing: Any, family: str, corpus: str, tmp_path: Path) -> None:
    given, task = stage(corpus, framing), tiny_task()

    def run(around: Surroundings) -> Learner:
        return given.run(tiny_backbone(family), task, SEEDS, around=around)

    def killer(step: int) -> Any:
        def listen(event: Event) -> None:
            if event["event"] == "step" and event["step"] == step:
                raise KilledError

        return listen

    whole = run(Surroundings(tmp_path / "a"))
    for step in (2, 5):
        with pytest.raises(KilledError):
            run(Surroundings(tmp_path / "b", resume=True, listener=killer(step)))
    broken = run(Surroundings(tmp_path / "b", resume=True))
    assert differing(bits(whole), bits(broken)) == [] and whole.record["stage"] == broken.record["stage"]
    history = whole.record["stage"]["history"]
    assert whole.record["stage"]["steps"] == 7 and history[-1]["loss"] < whole.record["stage"]["before"]["loss"]


def test_a_checkpoint_belongs_to_its_text(corpus: str, tmp_path: Path) -> None:
    around = Surroundings(tmp_path / "a", resume=True)
    stage(corpus).run(tiny_backbone(), tiny_task(), SEEDS, around=around)
    Path(corpus).write_text("\n".join(texts(seed=1)))
    with pytest.raises(ResumeError, match="another text"):
        stage(corpus).run(tiny_backbone(), tiny_task(), SEEDS, around=around)


def test_curated_text_is_like_the_task_and_holds_it(corpus: str) -> None:
    near, far = [f"the film was {w}" for w in POSITIVE], [f"w{i} w{i + 1} w{i + 2}" for i in range(0, 60, 3)]
    Path(corpus).write_text("\n".join([*far, *near, near[0]]))
    task = Task.from_examples(train=[Example((f"the film was very {w}",), "x" if i % 2 else "y") for i, w in enumerate(POSITIVE)])
    found, learner = stream(stage(corpus, curate=Curate(2)), task)
    seen = words_of([*found.rows, *found.held_out], learner)
    assert {e.texts[0] for e in task.train} <= set(seen) and not set(far) & set(seen)
    assert len(seen) == len(set(seen)) <= 16 and set(near) & set(seen)
    everything, learner = stream(stage(corpus, curate=Curate(50, "random")), task)
    assert len(everything.rows) + len(everything.held_out) == 20 + 8 + 8  # what stands twice counts once


def test_rows_are_told_before_anything_is_trained(corpus: str) -> None:
    for framing in (MaskedLM(0.2), MaskedLM(0.2, packed=True)):
        recipe = Recipe("r", (stage(corpus, framing, max_steps=-1),))
        expected = explain(recipe, tiny_backbone(), tiny_task()).stages[0]
        found, _ = stream(stage(corpus, framing), tiny_task())
        assert expected.rows == len(found.rows) and expected.steps == -(-len(found.rows) // 8)
    assert explain(Recipe("r", (stage(corpus, curate=Curate()),)), tiny_backbone(), tiny_task()).stages[0].rows is None


def test_rows_of_a_long_text_are_estimated_from_its_beginning(corpus: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempering.train.stream.SAMPLE", 4_000)
    Path(corpus).write_text("\n".join(texts(400)))
    expected = explain(Recipe("r", (stage(corpus),)), tiny_backbone(), tiny_task()).stages[0].rows
    found, _ = stream(stage(corpus), tiny_task())
    assert expected is not None and expected == pytest.approx(len(found.rows), rel=0.15)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"text": "unlabeled", "curate": Curate()}, "curate says how a corpus is read"),
        ({"text": "unlabeled", "column": "x"}, "column says how a corpus is read"),
        ({"text": "labeled", "documents": "file"}, "documents says how a corpus is read"),
    ],
)
def test_settings_of_a_corpus_need_one(given: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        Recipe("r", (Train(framing=MaskedLM(), **given),)).check()


def test_a_corpus_without_anything_to_train_on(corpus: str) -> None:
    task = tiny_task()
    Path(corpus).write_text("\n".join(e.texts[0] for e in task.dev.examples))
    with pytest.raises(DataError, match="found none beside that of the dev and test splits"):
        stream(stage(corpus), task)
    with pytest.raises(DataError, match=r"no such file"):
        stream(stage(f"{corpus}x"), task)


def test_the_mask_rate_of_a_long_stream(corpus: str) -> None:
    Path(corpus).write_text("\n".join(texts(1500)))
    for framing in (MaskedLM(), MaskedLM(masking="whole_word"), MaskedLM(masking="span", packed=True)):
        found, learner = stream(stage(corpus, framing, per_device_train_batch_size=64), tiny_task())
        feed = Feed(learner.framing, found.rows, stage(corpus, framing, per_device_train_batch_size=64), SEEDS, ready=found.rows)  # type: ignore[arg-type]
        batches = [b for step in range(feed.steps_per_epoch) for b in feed.micro(step)]
        masked = sum(len(b.targets) for b in batches if b.targets is not None)
        real = int(found.rows.lengths.sum()) - 2 * len(found.rows.starts)  # special tokens are never masked
        assert masked / real == pytest.approx(0.15, abs=0.003)
        hidden = np.concatenate([b.inputs["input_ids"].flatten()[b.extra["positions"]].numpy() for b in batches])
        targets = np.concatenate([b.targets.numpy() for b in batches if b.targets is not None])
        assert np.mean(hidden == learner.backbone.tokenizer.mask_token_id) == pytest.approx(0.8, abs=0.02)
        assert np.mean(hidden == targets) == pytest.approx(0.1, abs=0.02)
