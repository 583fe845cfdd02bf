"""In-context learning: what is shown, what fits, what is measured, and what is said."""

from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tempering
from tempering import saving
from tempering.backbone import Backbone
from tempering.contracts import Example, Prediction, Seeds
from tempering.errors import DataError, ModelError, RecipeError
from tempering.framings.asked import left_to_right
from tempering.framings.asked.calibration import content_free
from tempering.framings.asked.choice import answered
from tempering.framings.asked.in_context_module import InContextModule
from tempering.framings.asked.left_to_right import KEPT, log_probabilities, run_prefix
from tempering.framings.asked.retrieval import embedded, nearness
from tempering.framings.in_context import InContext
from tempering.framings.output_head import language_head
from tempering.learner import Learner
from tempering.plan import explain
from tempering.recipe import Recipe
from tempering.stages.setup import Surroundings
from tempering.stages.train import Train
from tempering.stages.use import Use
from tempering.tasks import Task
from tests.framings.test_masked_lm import save_masked_lm
from tests.tiny import NEGATIVE, POSITIVE, save_tiny, tiny_backbone, tiny_examples, tiny_speaker, tiny_task

TEMPLATE = "the {text} was {answer}"
CAUSAL = ("gpt2", "llama", "qwen2")
WRITTEN: dict[str, Any] = {"search": "vocabulary", "calibration": "additive", "max_new_tokens": 2}
CHOSEN: dict[str, Any] = {"search": "candidates", "candidates": ("awful", "good"), "calibration": "batch", "decode": "sample", "seed": 3}
GIVEN: dict[str, Any] = {"template": TEMPLATE, "separator": " and ", "shots": 2}


def learner_of(family: str = "gpt2", task: Any = None, seed: int = 0, **given: Any) -> Learner:
    return Use(InContext(**(GIVEN | given))).run(tiny_speaker(family), task or tiny_task(24), Seeds.of(seed))


def dev() -> tuple[Example, ...]:
    return tuple(tiny_task(24).dev.examples)


def prompts(learner: Learner, examples: Any) -> list[Any]:
    return [p for found in learner.framing.render(examples, (), np.random.default_rng(0)) for p in found]


def scored(learner: Learner, examples: Any, batch_size: int = 64) -> torch.Tensor:
    return learner.score(prompts(learner, examples), batch_size).only.logits[0]


# What is shown


def test_the_prompt_is_instruction_demonstrations_query() -> None:
    learner = learner_of(instruction="it is", template="the {text} was {answer}")
    shown = [learner.framing.pool[i] for i in learner.framing.contexts[0]]
    told = " and ".join(f"the {e.texts[0]} was {e.label}" for e in shown)
    query = next(e for e in tiny_task(24).train.examples if e.texts not in {s.texts for s in shown})
    assert learner.framing.text_of(query) == f"it is and {told} and the {query.texts[0]} was "
    (found,) = prompts(learner, [query])
    text = learner.backbone.tokenizer.decode(found.input_ids)
    assert text == f"it is and {told} and the {query.texts[0]} was"


def test_demonstrations_are_drawn_by_the_seed_and_alike_for_every_query() -> None:
    first, again, other = (learner_of(shots=4, seed=s).framing for s in (0, 0, 1))
    assert first.pool == again.pool and first.contexts == again.contexts
    assert first.pool != other.pool
    texts = {e.texts for e in learner_of().framing.pool}
    assert len({p.extra.shown for p in prompts(learner_of(), [e for e in dev() if e.texts not in texts])}) == 1


def test_as_many_of_each_class_or_in_all() -> None:
    balanced = learner_of(shots=2, per_class=True).framing
    assert sorted(e.label for e in balanced.shown_rows()) == ["bad", "bad", "good", "good"]
    assert len(learner_of(shots=3).framing.shown_rows()) == 3
    assert learner_of(shots=0).framing.contexts == [()]


def test_several_contexts_are_several_draws_whose_probabilities_are_averaged() -> None:
    learner = learner_of(contexts=3)
    assert len(set(learner.framing.contexts)) == 3
    each = scored(learner, dev()).softmax(-1).view(len(dev()), 3, 2).mean(1)
    found = [[p.probabilities["bad"], p.probabilities["good"]] for p in learner.predictions(dev())]
    torch.testing.assert_close(torch.tensor(found), each, rtol=0, atol=1e-5)


def test_what_a_context_begins_with_is_run_once_and_its_queries_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """More contexts than are kept, in batches that hold no whole context: each prefix is run once; scores are as for a row alone."""
    learner, rows = learner_of(contexts=KEPT + 2), tuple(tiny_examples(9, seed=7))
    asked = prompts(learner, rows)
    alone = torch.cat([learner.score([p], 1).only.logits[0] for p in asked])
    ran: list[tuple[int, ...]] = []
    monkeypatch.setattr(left_to_right, "run_prefix", lambda body, ids: ran.append(ids) or run_prefix(body, ids))
    learner.framing.reader.prefixes = left_to_right.Prefixes()
    batches = learner.evaluated(asked, 6, lambda batch, _: len(list(learner.framing.groups(batch))))
    assert [count for _, count in batches] == [1] * (2 * (KEPT + 2))
    torch.testing.assert_close(learner.score(asked, 6).only.logits[0], alone, rtol=0, atol=1e-5)
    assert len(ran) == len(set(ran)) == KEPT + 2


def test_a_query_is_not_among_its_own_demonstrations() -> None:
    learner = learner_of(shots=3)
    shown = learner.framing.shown_rows()
    for e in shown:
        assert learner.framing.text_of(e).count(e.texts[0]) == 1
    assert len(prompts(learner, shown)[0].extra.shown) == 2


def test_the_record_holds_prompt_and_rows_and_the_user_is_told() -> None:
    learner = learner_of()
    assert learner.record["prompt"] == learner.framing.text_of(tiny_task(24).train.examples[0])
    assert learner.record["demonstrations"] == [e.row for e in learner.framing.shown_rows()]
    assert any(repr(learner.record["prompt"]) in note for note in learner.framing.notes)
    assert learner.record["stage"]["found"]["demonstrations"] == 2
    assert not learner.trained()


def test_a_head_that_was_drawn_is_told_about() -> None:
    for family, drawn in (("bert", True), ("gpt2", False)):  # tied: the embeddings themselves
        backbone = tiny_backbone(family)
        language_head(backbone)  # as an earlier stage leaves one
        notes = Use(InContext(**GIVEN)).run(backbone, tiny_task(24), Seeds.of(0)).framing.notes
        assert any("holds no language-model head" in note for note in notes) == drawn


# What fits


def long(words: int) -> Example:
    return Example((" ".join(["film"] * words),), "good", 99)


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_a_long_query_loses_whole_demonstrations_the_farthest_first(family: str) -> None:
    learner = learner_of(family, shots=4)
    framing, limit = learner.framing, learner.framing.reader.limit
    for words in (10, 25, 40, 55, 70, 600):
        (found,) = prompts(learner, [long(words)])
        kept, whole = found.extra.shown, framing.contexts[0]
        assert found.extra.length <= limit == 64
        assert kept == whole[len(whole) - len(kept) :]
        text = learner.backbone.tokenizer.decode(found.input_ids)
        assert text.removeprefix("[CLS] ").startswith(framing.fixed(kept).rstrip())
    assert found.extra.shown == ()
    assert 0 < framing.facts()["queries_cut"] < framing.facts()["queries_with_fewer"] <= 1


def test_balanced_demonstrations_stay_balanced() -> None:
    learner = learner_of(shots=2, per_class=True)
    for words in range(1, 60, 6):
        kept = [learner.framing.pool[i].label for i in prompts(learner, [long(words)])[0].extra.shown]
        assert kept.count("bad") == kept.count("good")


def test_demonstrations_that_cannot_fit_are_refused_with_what_would() -> None:
    with pytest.raises(
        RecipeError, match=r"12 demonstrations in the template 'the \{text\} was \{answer\}' take \d+ tokens, and the"
    ) as told:
        learner_of(shots=12)
    most = int(str(told.value).split("show at most ")[1].split()[0])
    assert 0 < most < 12 and learner_of(shots=most)


@pytest.mark.parametrize("per_class", [False, True])
def test_retrieved_demonstrations_that_can_never_fit_are_refused_too(per_class: bool) -> None:
    shots = 7 if per_class else 14
    with pytest.raises(RecipeError, match=r"in_context: even the shortest 14 demonstrations .* take \d+ tokens, and the context holds 64"):
        learner_of(shots=shots, retrieval="bm25", per_class=per_class)
    assert learner_of(shots=2, retrieval="bm25", per_class=per_class).framing.pool


def test_a_template_that_fills_the_context_is_refused() -> None:
    learner = learner_of(shots=0, template="the " * 70 + "{text} was {answer}")
    with pytest.raises(RecipeError, match="leaves no room for text"):
        prompts(learner, dev())


# What is scored


@pytest.mark.parametrize("family", CAUSAL)
@pytest.mark.parametrize("given", [{}, {"words": {"bad": ["bad", "not good"], "good": "very good"}, "contexts": 2}, {"retrieval": "bm25"}])
def test_the_kept_demonstrations_change_no_score(family: str, given: dict[str, Any]) -> None:
    kept, anew = (scored(learner_of(family, cache=cache, **given), dev(), 5) for cache in (True, False))
    torch.testing.assert_close(kept, anew, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", [*CAUSAL, "bert", "modernbert"])
def test_a_row_scores_the_same_alone_and_in_a_batch(family: str) -> None:
    learner = learner_of(family)
    torch.testing.assert_close(scored(learner, dev(), 1), scored(learner, dev(), 64), rtol=0, atol=1e-5)


def test_probabilities_are_those_of_the_label_words() -> None:
    learner = learner_of(words={"bad": ["bad", "awful"], "good": ["good"]})
    (found,) = prompts(learner, dev()[:1])
    ids = torch.tensor([found.input_ids])
    table: Any = learner.backbone.embeddings.weight
    with torch.no_grad():
        p = (learner.backbone.encode({"input_ids": ids}).last[0, -1] @ table.T).softmax(-1)
    token = learner.backbone.tokenizer.convert_tokens_to_ids
    bad, good = float(p[token("bad")] + p[token("awful")]), float(p[token("good")])
    assert learner.predictions(dev()[:1])[0].probabilities["bad"] == pytest.approx(bad / (bad + good), abs=1e-5)


def test_pmi_compares_with_the_end_of_the_template_alone() -> None:
    plain, pmi = learner_of(shots=0, scoring="sum"), learner_of(shots=0, scoring="pmi")
    unconditional = pmi.framing.get_buffer("unconditional")
    premise = plain.framing.reader.ask(" was ", ["bad", "good"], "", (), 0)
    with torch.no_grad():
        torch.testing.assert_close(unconditional, plain.framing.reader.totals(plain.backbone, [premise], "")[0], rtol=0, atol=1e-6)
    features = [learner.score(prompts(learner, dev())).only.features for learner in (plain, pmi)]
    torch.testing.assert_close(features[1], features[0] - unconditional, rtol=0, atol=1e-5)


def test_the_channel_scores_the_text_after_each_label() -> None:
    learner = learner_of(scoring="channel", template="{answer} : {text}", shots=1)
    query = dev()[0]
    found = learner.score(prompts(learner, [query])).only.features[0]
    tokenizer, fixed = learner.backbone.tokenizer, learner.framing.fixed(prompts(learner, [query])[0].extra.shown)
    table: Any = learner.backbone.embeddings.weight
    for i, label in enumerate(("bad", "good")):
        context = tokenizer(f"{fixed}{label} :")["input_ids"]
        ids = tokenizer(f"{fixed}{label} : {query.texts[0]}")["input_ids"]
        with torch.no_grad():
            logp = (learner.backbone.encode({"input_ids": torch.tensor([ids])}).last[0] @ table.T).log_softmax(-1)
        want = sum(float(logp[j - 1, ids[j]]) for j in range(len(context), len(ids)))
        assert float(found[i]) == pytest.approx(want, abs=1e-4)


# What is measured


@pytest.mark.parametrize("form", ["contextual", "additive"])
@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_a_placeholder_is_calibrated_to_uniform(family: str, form: str) -> None:
    learner = learner_of(family, calibration=form, placeholders=("film",), contexts=2)
    found = scored(learner, [Example(("film",))]).softmax(-1)
    torch.testing.assert_close(found, torch.full((2, 2), 0.5), rtol=0, atol=1e-5)
    plain = learner_of(family, contexts=2)
    assert not torch.allclose(scored(plain, dev()), scored(learner, dev()), atol=1e-4)


def test_the_prior_of_several_placeholders_is_their_mean_under_the_same_demonstrations() -> None:
    learner = learner_of(calibration="contextual", placeholders=("film", "", "the day"))
    p = answered(learner.framing, learner, [("film",), ("",), ("the day",)], 0)
    torch.testing.assert_close(learner.framing.get_buffer("prior")[0], content_free(p).detach(), rtol=0, atol=1e-6)


def test_batch_calibration_centers_the_training_rows() -> None:
    learner = learner_of(calibration="batch")
    rows = tiny_task(24).train.examples
    p = answered(learner.framing, learner, [e.texts for e in rows], 0).exp().mean(0)
    torch.testing.assert_close(learner.framing.get_buffer("prior")[0].exp(), p.detach(), rtol=0, atol=1e-5)


def test_domain_calibration_draws_words_of_the_training_rows_by_the_seed() -> None:
    first, again, other = (learner_of(calibration="domain", shots=0, seed=s).framing.get_buffer("prior") for s in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize(("family", "kind"), [("gpt2", "text"), ("gpt2", "classification"), ("bert", "classification")])
def test_the_first_token_written_is_that_of_p_less_the_least_said_of_nothing(family: str, kind: str) -> None:
    task = text_task() if kind == "text" else tiny_task(24)
    given: dict[str, Any] = {"task": task, "search": "vocabulary", "max_new_tokens": 1}
    learner = learner_of(family, calibration="additive", placeholders=("film", "the book"), **given)
    reader, rows = learner.framing.reader, list(task.dev.examples)  # type: ignore[union-attr]
    empty = [Example((text,)) for text in ("film", "the book")]
    with torch.no_grad():
        asked = [prompt.extra for prompt in prompts(learner, [*rows, *empty])]
        p = log_probabilities(learner.backbone, reader.states(learner.backbone, asked, "")).exp()
    least = p[-2:].amin(0) / p[-2:].amin(0).sum()
    torch.testing.assert_close(learner.framing.get_buffer("first").exp(), least, rtol=0, atol=1e-6)
    ends = reader.tokenizer.eos_token_id if family == "gpt2" else None
    first = [row.topk(100).indices for row in p[:-2]]
    chosen = [int(ids[(row[ids] / row[ids].sum() - least[ids] / least[ids].sum()).argmax()]) for row, ids in zip(p, first, strict=False)]
    said = ["" if i == ends else reader.tokenizer.decode([i]).strip() for i in chosen]
    assert [p.label for p in learner.predictions(rows)] == [next((w for w in task.labels if text.startswith(w)), text) for text in said]
    assert [p.label for p in learner.predictions(rows)] != [p.label for p in learner_of(family, **given).predictions(rows)]


def test_where_keys_are_not_kept_the_first_token_is_calibrated_too(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {"task": text_task(), "search": "vocabulary", "calibration": "additive", "max_new_tokens": 3}
    rows = text_task().dev.examples
    kept = [p.label for p in learner_of("gpt2", **given).predictions(rows)]
    monkeypatch.setattr("tempering.framings.asked.answering.cacheable", lambda _: False)
    assert [p.label for p in learner_of("gpt2", **given).predictions(rows)] == kept


@pytest.mark.parametrize("order", ["global_entropy", "local_entropy"])
def test_the_orders_kept_are_those_of_highest_entropy(order: str) -> None:
    learner = learner_of(shots=3, order=order, permutations=6, contexts=2, probe_tokens=8)
    facts = learner.framing.facts()
    assert len(learner.framing.contexts) == 2 and {tuple(sorted(c)) for c in learner.framing.contexts} == {(0, 1, 2)}
    assert facts["order_entropy_kept"] >= facts["order_entropy_mean"] > 0
    assert {"probes_written", "order_entropy_std"} <= set(facts)
    again = learner_of(shots=3, order=order, permutations=6, contexts=2, probe_tokens=8)
    assert again.framing.contexts == learner.framing.contexts


def test_the_sensitivity_to_order_is_told_and_changes_nothing() -> None:
    learner = learner_of(shots=3, sensitivity=6)
    facts = learner.framing.facts()
    assert facts["order_accuracy_low"] <= facts["order_accuracy_mean"] <= facts["order_accuracy_high"]
    assert learner.framing.contexts == learner_of(shots=3).framing.contexts
    rows = [e for e in tiny_task(24).train.examples if e.texts not in {s.texts for s in learner.framing.pool}]
    accuracy = []
    for order in permutations(learner.framing.contexts[0]):
        learner.framing.contexts = [order]
        accuracy.append(np.mean([p.label == e.label for p, e in zip(learner.predictions(rows), rows, strict=True)]))
    assert facts["order_accuracy_mean"] == pytest.approx(np.mean(accuracy), abs=1e-6)
    assert facts["order_accuracy_std"] == pytest.approx(np.std(accuracy), abs=1e-6)


@pytest.mark.parametrize("order", [None, "nearest_last", "nearest_first"])
@pytest.mark.parametrize("retrieval", ["knn", "bm25"])
def test_the_nearest_rows_stand_where_they_are_told_to(retrieval: str, order: str | None) -> None:
    learner = learner_of(retrieval=retrieval, order=order)
    framing = learner.framing
    embeddings = framing.get_buffer("embeddings") if retrieval == "knn" else None
    nearest = list(framing.neighbors.of(dev(), embeddings))  # type: ignore[union-attr]
    for found, prompt in zip(nearest, prompts(learner, dev()), strict=True):
        assert prompt.extra.shown == (found if order == "nearest_first" else found[::-1])
    training = tiny_task(24).train.examples
    assert all(i not in p.extra.shown for i, p in enumerate(prompts(learner, training)))


def test_the_record_counts_retrieved_demonstrations() -> None:
    assert learner_of(retrieval="bm25", shots=3).framing.facts()["demonstrations"] == 3
    assert learner_of(retrieval="knn", shots=2, per_class=True).record["stage"]["found"]["demonstrations"] == 4


# What is said


def test_a_drawn_answer_is_the_same_for_the_same_text() -> None:
    learner = learner_of(decode="sample", temperature=5.0)
    all_at_once = [p.label for p in learner.predictions(dev())]
    assert [learner.predictions([e])[0].label for e in dev()] == all_at_once
    greedy = [p.label for p in learner_of().predictions(dev())]
    assert greedy != all_at_once
    other = learner_of(decode="sample", temperature=5.0)
    object.__setattr__(other.framing.given, "seed", 7)
    assert [p.label for p in other.predictions(dev())] != all_at_once


def test_candidates_that_are_no_label_may_win() -> None:
    learner = learner_of(search="candidates", candidates=tuple(POSITIVE[1:] + NEGATIVE[1:]), scoring="sum")
    found = learner.predictions(dev())
    top = learner.score(prompts(learner, dev())).only.features.argmax(-1)
    words = ["bad", "good", *POSITIVE[1:], *NEGATIVE[1:]]
    assert [p.label for p in found] == [words[i] for i in top]
    assert learner.record["out_of_label"] == sum(p.label not in ("bad", "good") for p in found) / len(found) > 0
    assert all(list(p.probabilities) == words and sum(p.probabilities.values()) == pytest.approx(1) for p in found)


def among(**given: Any) -> Learner:
    return learner_of(search="candidates", candidates=("awful", "good", "dull"), words={"bad": ["bad", "awful"], "good": ["good"]}, **given)


@pytest.mark.parametrize("scoring", ["sum", "mean", "pmi"])
def test_labels_and_candidates_have_one_distribution(scoring: str) -> None:
    """A candidate that is a class's word counts for the class; of the others each is by itself."""
    learner = among(scoring=scoring)
    score = dict(zip(("bad", "awful", "good", "dull"), learner.score(prompts(learner, dev())).only.features.T, strict=True))
    want = torch.stack([torch.logaddexp(score["bad"], score["awful"]), score["good"], score["dull"]], -1).softmax(-1)
    found = learner.predictions(dev())
    torch.testing.assert_close(torch.tensor([list(p.probabilities.values()) for p in found]), want, rtol=0, atol=1e-5)
    assert [p.label for p in found] == [("bad", "good", "dull")[i] for i in want.argmax(-1)]


def test_candidates_are_drawn_with_the_labels_and_not_only_where_they_are_likeliest() -> None:
    def where(learner: Learner, seed: int = 0) -> set[int]:
        object.__setattr__(learner.framing.given, "seed", seed)
        return {i for i, p in enumerate(learner.predictions(dev())) if p.label == "dull"}

    drawing = among(decode="sample", temperature=50.0)
    likeliest, *drawn = where(among()), *(where(drawing, seed) for seed in (1, 2))
    assert drawn[0] != drawn[1] and all(rows - likeliest and len(rows) < len(dev()) for rows in drawn)


@pytest.mark.parametrize("form", ["contextual", "additive", "domain", "batch"])
def test_the_prior_is_of_labels_and_candidates(form: str) -> None:
    learner = among(calibration=form, contexts=2, **({"placeholders": ("film",)} if form in ("contextual", "additive") else {}))
    assert learner.framing.get_buffer("prior").shape == (2, 3)
    assert learner.framing.get_buffer("prior").exp().sum(-1).tolist() == pytest.approx([1, 1])
    plain, found = ([list(p.probabilities.values()) for p in made.predictions(dev())] for made in (among(contexts=2), learner))
    assert not np.allclose([row[2] for row in plain], [row[2] for row in found], atol=1e-4)
    if form == "contextual":
        assert list(learner.predictions([Example(("film",))])[0].probabilities.values()) == pytest.approx([1 / 3] * 3, abs=1e-5)


def test_a_prior_of_the_labels_alone_is_refused_when_it_is_loaded(tmp_path: Path) -> None:
    base = save_tiny("gpt2", tmp_path / "base")
    given = GIVEN | {"search": "candidates", "candidates": ("dull",), "calibration": "contextual"}
    folder = tempering.fit(Recipe("mine", (Use(InContext(**given)),)), tiny_task(24), str(base)).save_pretrained(tmp_path / "model")
    path = folder / saving.KEPT
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "prior"}))
    with pytest.raises(ModelError, match="a prior of its labels and none of its candidates; fit it again"):
        tempering.load(folder)


@pytest.mark.parametrize(
    ("family", "given", "note"),
    [
        ("gpt2", {"search": "candidates", "candidates": ("good", "bad")}, "search: labels says the same"),
        ("bert", {"search": "vocabulary", "max_new_tokens": 3}, "answers in one token: max_new_tokens=3 writes no more"),
        ("bert", {"order": "local_entropy"}, "order local_entropy asks about training rows, and probe_tokens does nothing"),
    ],
)
def test_what_does_nothing_on_this_task_and_model_is_told(family: str, given: dict[str, Any], note: str) -> None:
    assert any(note in found for found in learner_of(family, **given).framing.notes)
    assert not any(note in found for found in learner_of(family).framing.notes)


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_the_whole_vocabulary_is_searched(family: str) -> None:
    learner = learner_of(family, search="vocabulary", max_new_tokens=2)
    found = learner.predictions(dev())
    assert all(isinstance(p.label, str) for p in found)
    assert learner.record["out_of_label"] == sum(p.label not in ("bad", "good") for p in found) / len(found)
    assert learner.predictions(dev()[:1])[0].label == found[0].label


def text_task() -> Task:
    rows = [Example((e.texts[0],), "great" if e.label == "good" else "awful", e.row) for e in tiny_examples(16)]
    return Task.from_examples(train=rows[:12], dev=rows[12:], kind="text")


def test_free_text_is_one_of_the_candidates_or_what_the_model_writes() -> None:
    chosen = learner_of(task=text_task(), search="candidates", candidates=("great", "awful"))
    found: list[Prediction] = chosen.predictions(text_task().dev.examples)
    assert {p.label for p in found} <= {"great", "awful"} and all(sum(p.probabilities.values()) == pytest.approx(1) for p in found)
    assert np.isfinite(chosen.mean_loss(prompts(chosen, text_task().dev.examples)))
    free = learner_of(task=text_task(), search="vocabulary", max_new_tokens=3)
    assert all(isinstance(p.label, str) for p in free.predictions(text_task().dev.examples))
    assert free.mean_loss(prompts(free, text_task().dev.examples)) > 0


# The whole way


@pytest.mark.parametrize("family", ["gpt2", "bert"])
@pytest.mark.parametrize("given", [{"calibration": "contextual", "contexts": 2}, {"retrieval": "knn"}, {"scoring": "pmi"}, WRITTEN, CHOSEN])
def test_it_is_saved_by_name_and_predicts_the_same_again(family: str, given: dict[str, Any], tmp_path: Path) -> None:
    base = tmp_path / "base"
    (save_masked_lm if family == "bert" else save_tiny)(family, base)
    recipe = Recipe("mine", (Use(InContext(**(GIVEN | given))),))
    learner = tempering.fit(recipe, tiny_task(24), str(base))
    folder = learner.save_pretrained(tmp_path / "model")
    assert not list(folder.glob("model*.safetensors"))
    back = tempering.load(folder)
    assert back.predictions(dev()) == learner.predictions(dev())
    assert back.record["prompt"] == learner.record["prompt"] and back.record["metrics"] == learner.record["metrics"]
    assert learner.record["trained_parameters"] == 0


def test_another_base_than_the_one_it_was_made_with_is_refused(tmp_path: Path) -> None:
    base = save_tiny("gpt2", tmp_path / "base")
    learner_dir = tmp_path / "model"
    tempering.fit(Recipe("mine", (Use(InContext(**GIVEN)),)), tiny_task(24), str(base)).save_pretrained(learner_dir)
    save_tiny("gpt2", base, seed=1)
    with pytest.raises(ModelError, match="was trained on another"):
        tempering.load(learner_dir)


@pytest.mark.parametrize("name", ["in-context", "zero-shot", "in-context-calibrated", "channel", "pmi", "knn-prompting"])
def test_the_plan_of_every_recipe(name: str) -> None:
    found = explain(Recipe.load(name), tiny_backbone("llama"))
    assert explain(Recipe.load(name), tiny_backbone("llama"), tiny_task(24)).stages[0].steps == 0
    assert found.stages[0].backbone_trained == found.stages[0].head_trained == 0
    assert found.loads_with == ("tempering",)
    assert any("parameters in the model (0.00%" in line for line in found.lines())


def test_a_pair_gets_the_plain_format_of_pairs() -> None:
    rows = [Example((e.texts[0], "it was"), e.label, e.row) for e in tiny_examples(12)]
    learner = Use(InContext(shots=1)).run(tiny_backbone("gpt2"), Task.from_examples(train=rows), Seeds.of(0))
    assert learner.framing.pattern.pair
    with pytest.raises(DataError, match="asks for a pair of texts, found 1"):
        learner.predict(["one text"])


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"order": "nearest_last"}, "set retrieval to knn or bm25"),
        ({"order": "global_entropy", "retrieval": "bm25"}, "set retrieval to none"),
        ({"order": "local_entropy", "shots": 1}, "needs at least 2 shots"),
        ({"retrieval": "knn", "calibration": "contextual"}, "use batch"),
        ({"retrieval": "knn", "calibration": "additive", "search": "vocabulary"}, "set calibration or retrieval to none"),
        ({"retrieval": "knn", "contexts": 2}, "set it to 1"),
        ({"search": "candidates"}, "give both"),
        ({"candidates": ("x",)}, "give both"),
        ({"premise": "x"}, "set that, or drop it"),
        ({"scoring": "channel", "search": "vocabulary"}, "set search: labels"),
        ({"encoder": "minilm"}, "set that, or drop it"),
        ({"calibration": "contextual", "placeholders": ()}, "give at least one"),
        ({"order": "global_entropy", "shots": 3, "contexts": 8}, "3 shots have 6 different orders: .* give contexts of at most that"),
        ({"order": "local_entropy", "permutations": 4, "contexts": 5}, "contexts=5 of permutations=4: .* or more permutations"),
        ({"calibration": "contextual", "search": "vocabulary"}, "lifts the rarest tokens .* use additive"),
        ({"calibration": "batch", "search": "vocabulary"}, "calibration batch divides .* use additive"),
        ({"scoring": "pmi", "search": "vocabulary"}, "compares given answers, and search: vocabulary writes one"),
        ({"alpha": 0.5}, "alpha is the power of scoring: length_norm"),
        ({"temperature": 2.0}, "temperature acts on drawn answers only; set decode: sample"),
        ({"top_k": 5, "decode": "sample"}, "top_k draws among the likeliest tokens .* set search: vocabulary and decode: sample"),
        ({"top_k": 5, "search": "vocabulary"}, "top_k draws among the likeliest tokens"),
        ({"contexts": 3, "search": "vocabulary"}, "contexts=3 do nothing: with search: vocabulary the model writes after one prompt alone"),
        ({"sensitivity": 4, "search": "vocabulary"}, "sensitivity judges given answers, and search: vocabulary writes one"),
        ({"sensitivity": 1}, "give at least 2, or 0 for none"),
        ({"sensitivity": 4, "shots": 1}, "sensitivity orders demonstrations; give at least 2 shots"),
        ({"contexts": 3, "shots": 0}, "contexts=3 of 0 shots are all the same"),
        ({"order": "random", "retrieval": "bm25"}, "set it to nearest_last or nearest_first"),
        ({"search": "candidates", "candidates": ("x", "x")}, "name each once"),
        ({"permutations": 6}, "permutations acts with order: global_entropy or local_entropy only"),
        ({"probe_tokens": 6}, "probe_tokens acts with order: global_entropy or local_entropy only"),
        ({"metric": "euclidean", "retrieval": "bm25"}, "metric acts with retrieval: knn only"),
        ({"placeholders": ("x",), "calibration": "batch"}, "placeholders acts with calibration: contextual or additive only"),
        ({"max_new_tokens": 4}, "max_new_tokens acts with search: vocabulary only"),
        ({"seed": 1}, "seed acts with decode: sample .the seed of the run draws demonstrations. only"),
    ],
)
def test_contradictions_are_refused_before_anything_is_loaded(given: dict[str, Any], complaint: str) -> None:
    with pytest.raises(RecipeError, match=complaint):
        Recipe.from_plain({"stages": [{"use": {"framing": {"in_context": given}}}]})


@pytest.mark.parametrize(
    ("family", "given", "error", "complaint"),
    [
        ("t5", {}, ModelError, r"in_context cannot serve tiny-t5 \(t5\).*use a causal language model"),
        ("bert", {"scoring": "channel", "template": "{answer} {text}"}, RecipeError, "scoring channel reads the text after the label"),
        ("gpt2", {"scoring": "channel"}, RecipeError, "channel needs the answer before every text"),
        ("gpt2", {"template": "{answer} {text}"}, RecipeError, "needs the answer last, after every text"),
        ("gpt2", {"words": {"bad": "zzz", "good": "good"}}, RecipeError, r"words: 'zzz' becomes \[UNK\] in this model's vocabulary"),
        ("gpt2", {"shots": 30, "max_length": 60}, RecipeError, "shots=30, but there are 24 labelled training rows"),
        ("gpt2", {"shots": 13, "per_class": True}, RecipeError, "label 'bad' has 12 training rows"),
        (
            "gpt2",
            {"shots": 2, "per_class": True, "order": "local_entropy", "contexts": 25, "permutations": 30},
            RecipeError,
            "24 different",
        ),
        ("gpt2", {"shots": 24, "retrieval": "bm25"}, RecipeError, "24 shots are to be retrieved from 24 training rows"),
        (
            "gpt2",
            {"words": {"bad": "awful", "good": "good"}, "search": "candidates", "candidates": ("bad",)},
            RecipeError,
            "'bad' is also the name of a label, which words call 'awful'",
        ),
    ],
)
def test_what_cannot_work_is_refused_by_name(family: str, given: dict[str, Any], error: type, complaint: str) -> None:
    with pytest.raises(error, match=complaint):
        learner_of(family, **given)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"order": "global_entropy"}, "order global_entropy measures .* set order to random, or search to candidates"),
        ({"order": "local_entropy"}, "order local_entropy measures"),
        ({"per_class": True}, "per_class shows rows of each class, and a task of free text with search: vocabulary has none"),
    ],
)
def test_what_needs_given_answers_is_refused_of_free_text(given: dict[str, Any], complaint: str) -> None:
    with pytest.raises(RecipeError, match=complaint):
        learner_of(task=text_task(), search="vocabulary", **given)
    if "order" in given:
        assert learner_of(task=text_task(), search="candidates", candidates=("great", "awful"), **given).framing.contexts


def test_the_sensitivity_to_order_needs_rows_that_are_not_shown() -> None:
    with pytest.raises(RecipeError, match="found 4 of 4 rows shown and 0 to ask about; change shots"):
        learner_of(task=Task.from_examples(train=tiny_examples(4)), shots=4, sensitivity=4)


def test_other_kinds_of_task_are_refused() -> None:
    with pytest.raises(RecipeError, match="cannot serve a task of kind 'regression'"):
        learner_of(task=tiny_task(12, "regression"))
    with pytest.raises(RecipeError, match="set search to candidates, or to vocabulary"):
        learner_of(task=text_task())


def test_training_moves_the_model_by_the_same_likelihoods() -> None:
    """Fixed-prompt tuning of a causal model: the loss is minus the log-probability of the right answer, and falls."""
    stage = Train(framing=InContext(**(GIVEN | {"shots": 1})), max_steps=8, learning_rate=3e-3, per_device_train_batch_size=12)
    told: list[dict[str, Any]] = []
    learner = stage.run(tiny_backbone("gpt2"), tiny_task(24), Seeds.of(0), around=Surroundings(listener=told.append))
    losses = [event["loss"] for event in told if event["event"] == "step"]
    assert losses[-1] < losses[0] and learner.trained()


def trained(**given: Any) -> Learner:
    stage = Train(framing=InContext(**(GIVEN | {"shots": 1} | given)), max_steps=3, eval_steps=2, learning_rate=1e-2)
    return stage.run(tiny_backbone("gpt2"), tiny_task(24), Seeds.of(0))


def test_neighbors_are_found_by_the_first_model_in_training_and_by_the_trained_one_after(monkeypatch: pytest.MonkeyPatch) -> None:
    original, seen = InContextModule.finish, []

    def finish(self: InContextModule, learner: Learner, *rest: Any) -> None:
        seen.append([p.extra.shown for p in prompts(learner, dev())])
        original(self, learner, *rest)

    monkeypatch.setattr(InContextModule, "finish", finish)
    learner = trained(retrieval="knn", shots=3)
    monkeypatch.undo()
    fresh = learner_of(retrieval="knn", shots=3)
    assert seen == [[p.extra.shown for p in prompts(fresh, dev())]]
    pool = [e.texts[0] for e in learner.framing.pool]
    vectors = learner.framing.get_buffer("embeddings")
    torch.testing.assert_close(vectors, embedded(learner.backbone, pool), rtol=0, atol=1e-6)
    assert not torch.allclose(vectors, fresh.framing.get_buffer("embeddings"), atol=1e-3)
    near = nearness(vectors, embedded(learner.backbone, [e.texts[0] for e in dev()]), "cosine")
    assert [p.extra.shown[-1] for p in prompts(learner, dev())] == near.argmax(-1).tolist()
    assert learner.record["stage"]["finished"]


def test_the_premise_is_compared_with_while_neighbors_are_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(InContextModule, "finish", lambda self, *_: seen.append(self.get_buffer("unconditional").clone()))
    trained(retrieval="bm25", scoring="pmi", template=TEMPLATE)
    assert bool((seen[0] < 0).all())


def test_orders_cannot_be_told_apart_without_any_text() -> None:
    rows = tiny_examples(4)
    task = Task.from_examples(train=rows)
    with pytest.raises(RecipeError, match="it wrote none, and all 4 rows are shown: give fewer shots"):
        learner_of("bert", task, shots=4, order="global_entropy")
    assert learner_of("bert", task, shots=3, order="global_entropy").framing.contexts


@pytest.mark.slow
def test_a_real_model_reads_the_same_with_and_without_the_kept_prefix() -> None:
    folder = Path(__file__).parents[3] / "shared" / "models" / "stories260k"
    if not folder.exists():
        pytest.skip("stories260k is not beside the project")
    rows = [Example((f"the little dog was {w} and ran home to his friend",), ("sad", "happy")[i % 2], i) for i, w in enumerate("abcdefgh")]
    found = []
    for cache in (True, False):
        task = Task.from_examples(train=rows)
        learner = Use(InContext(shots=4, cache=cache)).run(Backbone.load(str(folder)), task, Seeds.of(0))
        found.append(scored(learner, [Example(("the big dog was very happy",)), Example(("it rained all day",))]))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-4)
