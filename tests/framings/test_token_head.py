"""Token classification: which tokens a word reads, windows, losses, legal tags, spans, folders that transformers and PEFT load."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tempering
from tempering.backbone import Backbone
from tempering.contracts import Batch, Example, Seeds
from tempering.errors import ModelError, RecipeError
from tempering.framings.head import Head
from tempering.framings.spans.decoding import Steps
from tempering.framings.token_head import Pieces, TokenHead, TokenHeadModule
from tempering.learner import Learner
from tempering.plan import explain
from tempering.recipe import Recipe
from tempering.stages.train import Train
from tempering.tags import entities, joined, may_follow, scheme_of
from tempering.tasks import Task
from tempering.tunings.frozen import Frozen
from tempering.tunings.full import Full
from tempering.tunings.lora import LoRA
from tests.laws.bench import stage_of
from tests.laws.settings import live
from tests.tiny import FAMILIES, WORDS, save_tiny, tiny_backbone, tiny_examples, tiny_task

LABELS = ("O", "B-good", "I-good")
SEEDS = Seeds.of(0)
RNG = np.random.default_rng(0)
QUICK = Train(max_steps=3, per_device_train_batch_size=8, learning_rate=1e-2, load_best_model_at_end=False)


def stub(labels: tuple[Any, ...] = LABELS) -> Any:
    return Task.from_examples([tagged(["good", "film", "is"], labels)], kind="tagging") if labels != LABELS else tiny_task(8, "tagging")


def tagged(tokens: list[str], tags: tuple[Any, ...] | None = None) -> Example:
    text, places = joined(tokens)
    return Example((text,), tags, words=places)


def module(value: TokenHead, family: str = "bert", seed: int = 0) -> tuple[TokenHeadModule, Backbone]:
    backbone = tiny_backbone(family)
    torch.manual_seed(seed)
    built = value.build(stub(), backbone)
    return built.eval(), backbone


def batch_of(built: TokenHeadModule, examples: list[Example]) -> Batch:
    return built.collate([p for found in built.render(examples, (), RNG) for p in found], RNG)


# --- alignment -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["bert", "gpt2", "t5", "qwen2"])
def test_every_word_reads_its_own_tokens(family: str) -> None:
    built, backbone = module(TokenHead(align="mean"), family)
    example = tagged(["good-film", "is", "very!", "lovely"])
    ((prompt,),) = built.render([example], (), RNG)
    pieces: Pieces = prompt.extra
    assert pieces.words == (0, 1, 2, 3)
    for word, start, end in zip(("good-film", "is", "very!", "lovely"), pieces.starts, pieces.ends, strict=True):
        mine = backbone.tokenizer(f" {word}" if family == "qwen2" and word != "good-film" else word, add_special_tokens=False)["input_ids"]
        assert list(prompt.input_ids[start:end]) == mine


def test_what_a_row_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """first: the first token; mean: the mean over the tokens; all: a row a token."""
    example = tagged(["good-film", "is"])  # tokens 1..3 and 4 behind [CLS]
    hidden = torch.arange(6, dtype=torch.float32).view(1, 6, 1).expand(1, 6, 32)
    found = {}
    for align in ("first", "mean", "all"):
        built, backbone = module(TokenHead(align=align))  # type: ignore[arg-type]
        monkeypatch.setattr(Backbone, "encode", lambda *_: type("E", (), {"last": hidden})())
        slab = built.scores(backbone, batch_of(built, [example])).only
        assert slab.features is not None and slab.sizes is not None and int(slab.sizes.sum()) == slab.logits.shape[1]
        found[align] = slab.features[:, 0].tolist()
    assert found == {"first": [1, 4], "mean": [2, 4], "all": [1, 2, 3, 4]}


def test_targets_follow_the_rows() -> None:
    task = stub()
    example = tagged(["good-film", "is"], ("B-good", "O"))
    wanted = {"first": task.target(("B-good", "O")), "all": task.target(("B-good",) * 3 + ("O",))}
    for align, targets in wanted.items():
        built, _ = module(TokenHead(align=align))  # type: ignore[arg-type]
        batch = batch_of(built, [example])
        assert batch.targets is not None and tuple(batch.targets.tolist()) == targets
        assert batch.extra["sizes"].tolist() == [len(targets)]


def test_the_loss_is_the_mean_cross_entropy_of_words() -> None:
    built, backbone = module(TokenHead(heads=2))
    examples = [dataclasses.replace(e) for e in tiny_examples(6, "tagging")]
    batch = batch_of(built, examples)
    scores = built.scores(backbone, batch)
    logs = scores.only.logits.log_softmax(-1)
    assert batch.targets is not None
    by_hand = torch.stack([-logs[h, torch.arange(len(batch.targets)), batch.targets].mean() for h in range(2)]).mean()
    assert torch.allclose(built.loss(scores, batch), by_hand, atol=1e-6)
    assert len(batch.targets) == sum(len(e.words) for e in examples)


# --- windows -------------------------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from([*WORDS[:6], "good-film", "a-b-c-d-e"]), min_size=1, max_size=60), st.integers(6, 20), st.integers(0, 3))
def test_no_word_is_lost_or_answered_twice(tokens: list[str], length: int, stride: int) -> None:
    built = _built(length, stride)
    (prompts,) = built.render([tagged(tokens, ("O",) * len(tokens))], (), RNG)
    answered = [w for p in prompts for w in p.extra.words]
    assert sorted(answered) == list(range(len(tokens)))
    assert all(len(p.input_ids) <= length and len(p.target) == len(p.extra.words) for p in prompts)
    for p in prompts:
        assert all(0 < a < b < len(p.input_ids) for a, b in zip(p.extra.starts, p.extra.ends, strict=True))


_MADE: dict[tuple[int, int], TokenHeadModule] = {}


def _built(length: int, stride: int) -> TokenHeadModule:
    if (length, stride) not in _MADE:
        _MADE[length, stride] = module(TokenHead(max_length=length, stride=stride))[0]
    return _MADE[length, stride]


@pytest.mark.parametrize("align", ["first", "mean", "all"])
def test_windows_are_put_together_in_the_order_of_words(align: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that says of each token which it is: the prediction of a word must be that of its token, wherever it was read."""
    value = TokenHead(align=align, max_length=9, stride=2, decoding="free")  # type: ignore[arg-type]
    built, backbone = module(value)
    tokens = [f"w{i}" for i in range(30)]
    marked = {backbone.tokenizer.convert_tokens_to_ids(f"w{i}") for i in range(0, 30, 3)}

    def encode(_self: Any, inputs: dict[str, torch.Tensor]) -> Any:
        is_marked = torch.tensor([[int(i) in marked for i in row] for row in inputs["input_ids"]], dtype=torch.float32)
        return type("E", (), {"last": is_marked.unsqueeze(-1).expand(-1, -1, 32)})()

    monkeypatch.setattr(Backbone, "encode", encode)
    with torch.no_grad():
        built.readout.final.weight.zero_()[1] = 1.0
        built.readout.final.bias.zero_()[0] = 0.5
    learner = Learner(backbone, built, Full())
    for prediction in learner.predictions([tagged(tokens), tagged(tokens[3:5]), tagged(tokens)], batch_size=2)[::2]:
        assert [i for i, tag in enumerate(prediction.label) if tag != "O"] == list(range(0, 30, 3))
        assert len(prediction.each) == 30 and all(abs(sum(chances.values()) - 1) < 1e-6 for chances in prediction.each)


def test_every_window_is_trained_on_and_counted() -> None:
    long = [tagged(["good", "film", "is"] * 12, ("B-good", "O", "O") * 12) for _ in range(4)]
    task = Task.from_examples([*long, tagged(["bad"], ("O",)), Example(("",), (), words=())], kind="tagging")
    stage = dataclasses.replace(QUICK, framing=TokenHead(max_length=14), max_steps=-1, num_train_epochs=1, per_device_train_batch_size=2)
    learner = stage.run(tiny_backbone(), task, SEEDS)
    windows = sum(p.weight > 0 for found in learner.framing.render(task.train.examples, (), RNG) for p in found)
    assert windows > 5 and learner.record["stage"]["steps"] == -(-windows // 2)
    assert explain(Recipe("r", (stage,)), tiny_backbone(), task).stages[0].steps == -(-windows // 2)


def test_an_empty_text_has_no_tags() -> None:
    built, backbone = module(TokenHead())
    empty, full = Learner(backbone, built, Full()).predictions([Example(("",)), Example(("good film",))])
    assert empty.label == () and empty.spans == () and len(full.label) == 2


# --- tags that go together -----------------------------------------------------------------------------------------------------------


def brute_force(logs: np.ndarray, labels: tuple[str, ...]) -> float:
    """The best score of any legal sequence."""
    import itertools

    scheme = scheme_of(labels)

    def legal(path: tuple[int, ...]) -> bool:
        tags = [labels[i] for i in path]
        return all(may_follow(a, b, scheme) for a, b in zip([None, *tags], [*tags, None], strict=True))

    paths = itertools.product(range(len(labels)), repeat=len(logs))
    return max(sum(logs[i, c] for i, c in enumerate(path)) for path in paths if legal(path))


@pytest.mark.parametrize("labels", [("O", "B-a", "I-a", "B-b", "I-b"), ("O", "B-a", "I-a", "E-a", "S-a")])
@pytest.mark.parametrize("seed", range(6))
def test_viterbi_finds_the_best_legal_sequence(labels: tuple[str, ...], seed: int) -> None:
    logs = np.random.default_rng(seed).normal(size=(4, len(labels))) * 2
    path = Steps(labels).best(logs)
    assert sum(logs[i, c] for i, c in enumerate(path)) == pytest.approx(brute_force(logs, labels))


@pytest.mark.parametrize("decoding", ["viterbi", "repair"])
def test_decoded_tags_are_legal(decoding: Any) -> None:
    steps = Steps(("O", "B-a", "I-a", "E-a", "S-a", "B-b", "I-b", "E-b", "S-b"))
    for seed in range(20):
        tags = [steps.labels[i] for i in steps.best(np.random.default_rng(seed).normal(size=(7, 9)), decoding)]
        assert all(may_follow(a, b, "BIOES") for a, b in zip([None, *tags], [*tags, None], strict=True))


def test_a_repair_keeps_the_entities_of_the_likeliest_tags() -> None:
    steps = Steps(("O", "B-a", "I-a"))
    logs = np.log(np.array([[0.1, 0.2, 0.7], [0.6, 0.3, 0.1], [0.3, 0.3, 0.4]]))
    free, mended = ([steps.labels[i] for i in steps.best(logs, how)] for how in ("free", "repair"))  # type: ignore[arg-type]
    assert free == ["I-a", "O", "I-a"] and mended == ["B-a", "O", "B-a"] and entities(free) == entities(mended)


# --- training, prediction, folders ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted() -> Learner:
    stage = Train(framing=TokenHead(), learning_rate=3e-3, num_train_epochs=6, per_device_train_batch_size=8)
    return stage.run(tiny_backbone(), tiny_task(160, "tagging"), SEEDS)


def test_it_learns(fitted: Learner) -> None:
    last = fitted.record["stage"]["history"][-1]
    assert last["accuracy"] > 0.9 and last["f1"] > 0.5


def test_raw_texts_and_lists_of_words_are_tagged(fitted: Learner) -> None:
    text = "the film was lovely, not dull."
    (prediction,) = fitted.predictions([Example((text,))])
    assert len(prediction.label) == 8 and len(fitted.predict([text])[0]) == 8
    assert {(text[s.start : s.end], s.label) for s in prediction.spans} >= {("lovely", "good"), ("dull", "bad")}
    assert all(0 < s.probability <= 1 for s in prediction.spans)
    assert len(fitted.predict([["the", "film", "was", "lovely,"]])[0]) == 4
    (chances,) = fitted.predict_proba([text])
    assert len(chances) == 8 and set(chances[0]) == set(fitted.framing.labels)


def test_plain_tags_have_no_spans() -> None:
    task = Task.from_examples([tagged(["good", "film"], ("ADJ", "NOUN")), tagged(["bad", "book"], ("ADJ", "NOUN"))], kind="tagging")
    learner = dataclasses.replace(QUICK, framing=TokenHead()).run(tiny_backbone(), task, SEEDS)
    assert learner.predictions([Example(("good book",))])[0].spans == ()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("align", ["first", "mean"])
def test_a_folder_of_every_family_loads_elsewhere(family: str, align: Any, tmp_path: Path) -> None:
    """`save_pretrained` itself compares a reload by transformers; here it must have done so where the family has the class."""
    backbone = Backbone.load(str(save_tiny(family, tmp_path / "base")))
    learner = dataclasses.replace(QUICK, framing=TokenHead(align=align, heads=2)).run(backbone, tiny_task(8, "tagging"), SEEDS)
    learner.save_pretrained(tmp_path / "out")
    back, rows = tempering.load(tmp_path / "out"), tiny_examples(4, "tagging", seed=3)
    assert back.predictions(rows) == learner.predictions(rows)
    if backbone.layout.tokens is not None:
        from transformers import AutoModelForTokenClassification

        theirs = AutoModelForTokenClassification.from_pretrained(tmp_path / "out")
        assert theirs.config.id2label == dict(enumerate(learner.framing.labels))


@pytest.mark.parametrize("family", ["bert", "distilbert", "gpt2", "modernbert"])
def test_a_lora_loads_with_peft(family: str, tmp_path: Path) -> None:
    backbone = Backbone.load(str(save_tiny(family, tmp_path / "base")))
    backbone.base_fingerprint = backbone.fingerprint()
    stage = dataclasses.replace(QUICK, framing=TokenHead(), tuning=LoRA(r=2))
    learner = stage.run(backbone, tiny_task(8, "tagging"), SEEDS)
    learner.save_pretrained(tmp_path / "out")
    assert '"TOKEN_CLS"' in (tmp_path / "out" / "adapter_config.json").read_text()
    rows = tiny_examples(4, "tagging", seed=3)
    assert tempering.load(tmp_path / "out").predictions(rows) == learner.predictions(rows)


@pytest.mark.parametrize("name", live("stabilizer"))
def test_every_stabilizer_steadies_it(name: str) -> None:
    stage = stage_of(framing=TokenHead(max_length=12, stride=3), stabilizers=(live("stabilizer")[name],), stage=QUICK)
    Recipe("r", (stage,)).check()
    assert np.isfinite(stage.run(tiny_backbone(), tiny_task(8, "tagging"), SEEDS).record["stage"]["history"][-1]["loss"])


# --- what stands for what, and what is refused ---------------------------------------------------------------------------------------


def test_the_plain_head_stands_for_this_one(tmp_path: Path) -> None:
    stage = dataclasses.replace(QUICK, framing=Head(heads=2, pool="mean", max_length=20))
    learner = stage.run(tiny_backbone(), tiny_task(8, "tagging"), SEEDS)
    assert learner.record["framing"] == TokenHead(heads=2, max_length=20)
    plan = explain(Recipe("r", (stage,)), tiny_backbone(), tiny_task(8, "tagging"))
    assert plan.lines()[2].startswith("stage 1 of 1: framing token_head (heads 2")


def test_a_frozen_body_is_not_cached_and_says_why() -> None:
    stage = dataclasses.replace(QUICK, framing=Head(), tuning=Frozen())
    assert stage.cached and not stage.suited("tagging").cached
    assert "as many outputs as it has words" in stage.suited("tagging").why_not_cached
    learner = stage.run(tiny_backbone(), tiny_task(8, "tagging"), SEEDS)
    assert learner.record["stage"]["cached"] is False and learner.record["stage"]["steps"] == 3


@pytest.mark.parametrize(
    ("work", "said"),
    [
        (lambda: TokenHead().build(tiny_task(8), tiny_backbone()), "token_head cannot serve a task of kind 'classification'"),
        (lambda: Head(layers=(0,)).build(stub(), tiny_backbone()), r"head.layers=\[0\]: words are read at the top layer only"),
        (
            lambda: dataclasses.replace(QUICK, class_weights="balanced").run(tiny_backbone(), tiny_task(8, "tagging"), SEEDS),
            "class_weights 'balanced' weighs a row by its one class",
        ),
    ],
)
def test_refusals(work: Callable[[], Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        work()


def test_a_slow_tokenizer_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = tiny_backbone()
    monkeypatch.setattr(type(backbone.tokenizer), "is_fast", False)
    with pytest.raises(ModelError, match="token_head cannot serve tiny-bert .* fast tokenizer"):
        TokenHead().build(stub(), backbone)


def test_mixed_batches_refuse_it(fitted: Learner) -> None:
    mixed = tempering.MixedLearner(tiny_backbone())
    with pytest.raises(ModelError, match="task ner: it says something of every word .* by itself"):
        mixed.add("ner", fitted)
