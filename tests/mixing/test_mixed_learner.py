"""Row i of a mixed batch is row i of its task's own run: scores, gradients, order, for every kind of tuning and their mixture."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from tempering.contracts import Example, Prediction, Seeds
from tempering.errors import DataError
from tempering.framings.head import Head, HeadModule
from tempering.framings.in_context import InContext
from tempering.framings.text_to_text import TextToText
from tempering.learner import as_examples
from tempering.mixing.learner import MixedLearner
from tempering.mixing.rows import join_inputs
from tempering.stages.train import Train
from tempering.stages.use import Use
from tempering.tunings import by_row
from tempering.tunings.bottleneck import Bottleneck
from tempering.tunings.full import Full
from tempering.tunings.houlsby import Houlsby
from tempering.tunings.lora import LoRA, LowRank
from tests.mixing.shared import KINDS, Made, batch_of, batches_of, learner_of, mixture
from tests.tiny import FAMILIES, tiny_backbone, tiny_examples, tiny_task


@pytest.fixture(scope="module")
def made() -> Made:
    return mixture(KINDS)


def gap(mixed: MixedLearner, alone: dict[str, Any], names: list[str] | None = None) -> float:
    """The largest difference between any row's logits in one mixed batch and by itself."""
    batches = batches_of({name: alone[name] for name in names or alone})
    with torch.no_grad():
        slabs = mixed.eval()(batches).slabs
        assert [slab.task for slab in slabs] == list(batches)
        return max(float((s.logits - alone[s.task].eval()(batches[s.task]).only.logits).abs().max()) for s in slabs)


def test_every_kind_shares_the_pass_and_scores_as_alone(made: Made) -> None:
    mixed, alone = made
    assert mixed.apart == {} and gap(mixed, alone) < 1e-5


@pytest.mark.parametrize("pair", [("lora-4", "lora-8"), ("houlsby", "houlsby-small"), ("bitfit", "bitfit-too"), ("lora-4", "bitfit")])
def test_pairs_score_as_alone(pair: tuple[str, str], made: Made) -> None:
    assert gap(*made, names=list(pair)) < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_scores_as_alone(family: str) -> None:
    unbiased = family in ("modernbert", "llama", "qwen2", "t5")
    refused = {"bitfit"} if unbiased else set()
    refused |= {"prefix-long"} if family in ("mpnet", "deberta-v2") else set()
    names = {"lora-4", "lora-8", "houlsby", "bitfit", "ia3", "prefix-long", "prompt", "prompt-long", "parallel"} - refused
    mixed, alone = mixture({name: KINDS[name] for name in KINDS if name in names}, family)
    assert gap(mixed, alone) < 1e-5
    if family == "deberta-v2":  # relative positions go through its norms and maps too, and have no rows
        assert {"lora-8", "houlsby"} <= set(mixed.apart) and "lora-4" not in mixed.apart
    elif family == "bart":  # its prompts stand before the encoder alone, which the decoder's mask does not know
        assert set(mixed.apart) == {"prompt", "prompt-long"}
    else:
        assert mixed.apart == {}


def test_texts_of_other_lengths_are_not_padded_to_the_longest(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    mixed, alone = made
    words = {"lora-4": 2, "houlsby": 60, "bitfit": 3, "lora-8": 58}
    batches = {name: batch_of(alone[name], [Example(("good " * (n - i % 2),), "bad") for i in range(16)]) for name, n in words.items()}
    shapes: list[tuple[int, ...]] = []
    inner = mixed.backbone.encode
    monkeypatch.setattr(mixed.backbone, "encode", lambda x, layers=False: shapes.append(tuple(x["input_ids"].shape)) or inner(x, layers))
    with torch.no_grad():
        slabs = mixed.eval()(batches).slabs
    assert [slab.task for slab in slabs] == list(words)
    for slab in slabs:
        torch.testing.assert_close(slab.logits, alone[slab.task].eval()(batches[slab.task]).only.logits, rtol=0, atol=1e-5)
    real = sum(int(b.inputs["attention_mask"].sum()) for b in batches.values())
    assert len(shapes) == 2 and sum(rows * width for rows, width in shapes) < 1.1 * real


def test_a_wrong_change_in_a_row_would_be_noticed(made: Made) -> None:
    mixed, alone = made
    swapped = alone | {"lora-4": alone["lora-4-too"]}
    assert gap(mixed, swapped, ["lora-4", "bitfit"]) > 1e-2


def test_rows_of_no_task_see_the_backbone(made: Made) -> None:
    mixed, alone = made
    parts = [batch.inputs for batch in batches_of(alone).values()][:3]
    with torch.no_grad():
        spans, found = mixed.eval().encode(parts, [0, -1, 3])
        plain = tiny_backbone().eval().encode(join_inputs(parts, 0))
    rows = slice(spans[1].start, spans[1].stop)
    torch.testing.assert_close(found.last[rows], plain.last[rows], rtol=0, atol=1e-5)
    assert float((found.last - plain.last)[: spans[1].start].abs().max()) > 1e-2


def test_like_modules_are_computed_at_once(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    mixed, alone = made
    seen: list[tuple[type, int]] = []
    for kind in (LowRank, Bottleneck):
        inner = kind.rowwise.__func__  # type: ignore[attr-defined]
        spy = classmethod(lambda cls, modules, x, owner, inner=inner: seen.append((cls, len(modules))) or inner(cls, modules, x, owner))
        monkeypatch.setattr(kind, "rowwise", spy)
    assert gap(mixed, alone, ["lora-4", "lora-8", "lora-4-too", "houlsby", "houlsby-small"]) < 1e-5
    assert {(LowRank, 3), (Bottleneck, 2)} <= set(seen)


def test_modules_without_a_rowwise_form_run_in_turn(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(LowRank, "rowwise")
    assert gap(*made, names=["lora-4", "lora-8", "lora-4-too"]) < 1e-5


def test_gradients_are_those_of_each_task_alone(made: Made) -> None:
    mixed, alone = (copy.deepcopy(part) for part in made)
    names = [name for name in KINDS if name != "frozen"]
    batches = batches_of({name: alone[name] for name in names})
    mixed.train()
    losses = [mixed[s.task].framing.loss(type(found)((s,)), batches[s.task]) for found in [mixed(batches)] for s in found.slabs]
    torch.stack(losses).sum().backward()
    for name in names:
        alone[name].train()
        alone[name].framing.loss(alone[name](batches[name]), batches[name]).backward()
        mine, theirs = mixed[name].trained(), alone[name].trained()
        assert mine.keys() == theirs.keys()
        for key, weight in theirs.items():
            torch.testing.assert_close(mine[key].grad, weight.grad, rtol=1e-4, atol=1e-6, msg=f"{name} {key}")
    assert all(w.grad is None for w in mixed["frozen"].trained().values())  # no rows: None, not zeros
    assert all(w.grad is None and not w.requires_grad for w in mixed.backbone.parameters())


def test_permuting_rows_permutes_predictions(made: Made) -> None:
    mixed, alone = made
    texts = [e.texts[0] for e in tiny_examples(20)]
    names = [list(alone)[i % len(alone)] for i in range(20)]
    straight = mixed.predict_proba(texts, names, batch_size=7)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0)).tolist()
    shuffled = mixed.predict_proba([texts[i] for i in order], [names[i] for i in order], batch_size=7)
    for place, i in enumerate(order):
        assert shuffled[place] == pytest.approx(straight[i], abs=1e-6)
        assert straight[i] == pytest.approx(alone[names[i]].predict_proba([texts[i]])[0], abs=1e-5)


def test_every_framing_puts_the_scores_of_its_prompts_together_itself(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HeadModule, "combine", lambda self, asked, scores: [Prediction(e.texts[0]) for e in asked.examples])
    assert made[0].predict(["good", "bad", "a film"], ["lora-4", "houlsby", "lora-4"]) == ["good", "bad", "a film"]


GPT: dict[str, tuple[Any, str]] = {
    "vocabulary": (InContext(shots=2, search="vocabulary", max_new_tokens=2), "classification"),
    "contexts": (InContext(shots=2, contexts=3), "classification"),
    "sample": (InContext(shots=2, decode="sample", temperature=9.0), "classification"),
    "written": (TextToText(answers="trie"), "classification"),
    "free": (TextToText(answers="free", max_new_tokens=3), "classification"),
}


def test_every_framing_predicts_in_its_own_way() -> None:
    """Answers that are written, drawn or averaged over contexts: as each task's learner by itself says."""
    mixed, alone = MixedLearner(tiny_backbone("gpt2")), {}
    for name, (framing, kind) in GPT.items():
        stage = Use(framing) if isinstance(framing, InContext) else Train(framing=framing, tuning=LoRA(r=2), max_steps=1)
        alone[name] = stage.run(tiny_backbone("gpt2"), tiny_task(24, kind), Seeds.of(0))
        mixed.add(name, copy.deepcopy(alone[name]))
    assert {"written", "free"} <= set(mixed.apart)
    texts = [e.texts[0] for e in tiny_examples(12, seed=3)]
    found = mixed.predictions(texts * len(GPT), [name for name in GPT for _ in texts], batch_size=7)
    for i, name in enumerate(GPT):
        mine, theirs = found[12 * i : 12 * i + 12], alone[name].predictions(as_examples(texts))
        assert [p.label for p in mine] == [p.label for p in theirs], name
        assert [dict(p.probabilities) for p in mine] == [pytest.approx(dict(p.probabilities), abs=1e-5) for p in theirs], name


@pytest.mark.parametrize("bad", [float("nan"), None, b"a", ("a", None), "ab\ud83d"])
def test_what_is_no_text_is_refused_by_its_place(bad: Any, made: Made) -> None:
    mixed, alone = made
    for predict in (alone["lora-4"].predict, lambda texts: mixed.predict(texts, ["bitfit", "lora-4"])):
        with pytest.raises(DataError, match=r"texts\[1\]: expected"):
            predict(["a", bad])


def test_iterators_of_texts_are_read_once(made: Made) -> None:
    mixed, alone = made
    texts, pairs = ["a good day", "a bad day"], [("a good", "day"), ("a bad", "day")]
    for predict in (alone["lora-4"].predict_proba, lambda texts: mixed.predict_proba(texts, "lora-4")):
        assert predict(iter(texts)) == predict(map(str, texts)) == predict(texts)
        assert predict(zip(*zip(*pairs, strict=True), strict=True)) == predict(iter(pair) for pair in pairs) == predict(pairs)
        assert len(predict(pairs)) == 2


def test_base_tensors_are_shared_and_a_copy_shares_nothing(made: Made) -> None:
    mixed, alone = made
    changed = sum(w.numel() for learner in alone.values() for w in learner.trained().values())
    assert sum(p.numel() for p in mixed.parameters()) == sum(p.numel() for p in mixed.backbone.parameters()) + changed
    other = copy.deepcopy(mixed)
    solo = mixed.solo("lora-4")
    with torch.no_grad():
        for weight in (*other.parameters(), *solo.parameters()):
            weight.add_(1.0)
    assert gap(mixed, alone) < 1e-5


def test_a_copy_of_the_whole_scores_by_itself(made: Made) -> None:
    mixed, alone = made
    other = copy.deepcopy(mixed)
    with torch.no_grad():
        for weight in mixed["lora-4"].trained().values():
            weight.add_(1.0)
    try:
        assert gap(other, alone) < 1e-5 < gap(mixed, alone)
    finally:
        with torch.no_grad():
            for weight in mixed["lora-4"].trained().values():
                weight.sub_(1.0)


def test_no_hook_is_left_on_the_backbone(made: Made) -> None:
    mixed, alone = made
    mixed(batches_of(alone))
    left = [hook for m in mixed.backbone.modules() for hook in (*m._forward_hooks.values(), *m._forward_pre_hooks.values())]
    assert [hook for hook in left if not hook.__module__.startswith("transformers.")] == []  # its own collect hidden states


def test_a_learner_that_has_run_before_is_taken_in_alike() -> None:
    framing, tuning = Head(layers=(0, 1, 2), pool="mean"), Houlsby(m=4)
    mixed, learner = MixedLearner(tiny_backbone()), learner_of(tuning, "a", framing=framing)
    alone = {"a": copy.deepcopy(learner), "b": copy.deepcopy(learner)}
    learner.predict(["a good day"])  # asks for the states of all layers, for which transformers leaves hooks behind
    for name in alone:
        mixed.add(name, learner if name == "a" else copy.deepcopy(alone[name]))
    assert mixed.apart == {} and gap(mixed, alone) < 1e-5


def test_a_body_of_its_own_runs_apart_with_equal_scores() -> None:
    mixed, alone = mixture({"a": LoRA(r=2), "whole": Full(), "b": Houlsby(m=2)})
    assert list(mixed.apart) == ["whole"] and "is a matrix of its own" in mixed.apart["whole"]
    assert gap(mixed, alone) < 1e-5


def test_heads_of_several_layers_and_kinds() -> None:
    mixed, alone = mixture({"a": LoRA(r=2), "b": Houlsby(m=2)}, framing=Head(layers=(0, 1, -1), pool="mean", heads=3))
    mixed.add("c", learner_of(LoRA(r=3), "c", kind="regression"))
    alone["c"] = mixed.solo("c")
    assert mixed.apart == {} and gap(mixed, alone) < 1e-5


def test_dropout_is_on_for_those_that_want_it_and_off_for_the_frozen() -> None:
    mixed, alone = mixture({"frozen": KINDS["frozen"], "lora": LoRA(r=2)}, still=False)
    batches = batches_of(alone)
    mixed.train()
    with torch.no_grad():
        first, second = mixed(batches), mixed(batches)
    assert torch.equal(first.slabs[0].logits, second.slabs[0].logits)
    assert not torch.equal(first.slabs[1].logits, second.slabs[1].logits)


@pytest.mark.parametrize(
    ("texts", "tasks", "message"),
    [(["a", "b"], ["lora-4"], "2 texts and 1 task names"), (["a"], "lora4", "no task 'lora4'; did you mean lora-4")],
)
def test_wrong_requests_are_named(texts: list[str], tasks: Any, message: str, made: Made) -> None:
    with pytest.raises(DataError, match=message):
        made[0].predict(texts, tasks)


@pytest.mark.parametrize("name", ["", "a/b", "lora-4", ".."])
def test_names_that_cannot_be_folders_or_are_taken_are_refused(name: str, made: Made) -> None:
    with pytest.raises(DataError, match="give every task another name"):
        made[0].add(name, learner_of(LoRA(r=2), "x"))


def test_nothing_asked_is_nothing_answered(made: Made) -> None:
    assert made[0].predict([], []) == []


@pytest.mark.parametrize("shape", [(4, 6), (4, 3, 6), (4, 2, 3, 6)])
def test_maps_by_row_are_each_rows_own(shape: tuple[int, ...]) -> None:
    weights, biases = [torch.randn(5, 6), torch.randn(2, 6)], [torch.randn(5), torch.randn(2)]
    x, owner = torch.randn(shape), torch.tensor([1, 0, 0, 1])
    found = by_row.linear_by_row(weights, x, owner, biases)
    for i, t in enumerate(owner.tolist()):
        torch.testing.assert_close(found[i][..., : len(biases[t])], torch.nn.functional.linear(x[i], weights[t], biases[t]))
        assert not found[i][..., len(biases[t]) :].any()
    torch.testing.assert_close(by_row.linear_by_row(weights, x, owner), by_row.linear_by_row(weights, x, owner, [b * 0 for b in biases]))
