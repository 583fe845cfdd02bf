"""Decoding: with and without a cache, in any batch, under every control; and that tunings reach what is written."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from tempering.backbone import Backbone
from tempering.contracts import Batch, Example, Seeds
from tempering.errors import ModelError, RecipeError
from tempering.framings.text_to_text import TextToText
from tempering.framings.writing.base import CUE, turned
from tempering.framings.writing.controls import MustInclude, PartSiblings
from tempering.framings.writing.encoding import Encoder
from tempering.framings.writing.model import assembled
from tempering.framings.writing.states import begin_id, given_states
from tempering.learner import Learner
from tempering.recipe import Recipe
from tempering.stabilizers.freelb import FreeLB
from tempering.stabilizers.lnsr import LNSR
from tempering.stabilizers.r_drop import RDrop
from tempering.stabilizers.supcon import SupCon
from tempering.stages.setup import Surroundings, assemble
from tempering.stages.train import Train
from tempering.stages.use import Use
from tempering.tasks.task import Split, Task
from tempering.tunings.frozen import Frozen
from tempering.tunings.full import Full
from tempering.tunings.houlsby import Houlsby
from tempering.tunings.ia3 import IA3
from tempering.tunings.lora import LoRA
from tempering.tunings.prefix_tuning import PrefixTuning
from tempering.tunings.prompt_tuning import PromptTuning
from tests.laws.bench import STAGE, run, stage_of
from tests.tiny import tiny_backbone, tiny_examples, tiny_task
from tests.tunings.shared import disturb

WRITERS = ("t5", "bart", "gpt2", "llama", "qwen2")
TUNINGS = (LoRA(r=2, target_modules=("query", "value", "ffn_in")), IA3(), Houlsby(m=4), PrefixTuning(p=3, m=None), PromptTuning(p=3))
ROOM = 8


def writer(family: str = "t5", tuning: Any = Full(), **given: Any) -> Learner:  # noqa: B008
    task = Task.from_examples([Example(e.texts, "the film was very good") for e in tiny_examples(4)], kind="text")
    framing = TextToText(**{"max_target_length": ROOM, **given})
    found = assemble(Train(framing=framing, tuning=tuning), tiny_backbone(family), task, Seeds.of(0))
    disturb(found.backbone)
    return found.eval()


def said(found: Learner, rows: Sequence[Example], size: int = 64) -> list[str]:
    return [p.label for p in found.predictions(rows, size)]


@torch.no_grad()
def uncached(found: Learner, example: Example, sharpen: float = 0.0) -> list[int]:
    """Greedy decoding by hand: the whole text so far is read again for every token."""
    module, backbone = found.framing, found.backbone
    inputs = {"input_ids": torch.tensor(module.source.encode([example]))}
    written: list[int] = []
    while len(written) < ROOM and module.end not in written:
        ids = torch.tensor([[*written, 0]])
        real = torch.zeros_like(ids, dtype=torch.bool)
        real[:, -1] = True
        written.append(int(module.logits(backbone, given_states(backbone, inputs, ids, real))[0].argmax()))
    return written


@pytest.mark.parametrize("family", WRITERS)
@pytest.mark.parametrize("tuning", TUNINGS, ids=lambda t: type(t).__name__)
def test_cached_generation_is_uncached_generation_in_any_batch(family: str, tuning: Any) -> None:
    found, rows = writer(family, tuning), tiny_examples(4)
    texts = said(found, rows)
    for row, text in zip(rows, texts, strict=True):
        assert found.framing._text(uncached(found, row), None) == text
    assert said(found, rows, size=1) == said(found, rows, size=3) == texts


@pytest.mark.parametrize("family", ["t5", "bart", "gpt2"])
@pytest.mark.parametrize("tuning", TUNINGS, ids=lambda t: type(t).__name__)
def test_every_added_weight_gets_a_gradient_from_a_target(family: str, tuning: Any) -> None:
    """Also those in the decoder's self-attention, its cross-attention and its feed-forward layers."""
    found = writer(family, tuning).train()
    prompts = [p for row in found.framing.render([Example(("a film",), "very good"), Example(("bad",), "sad")], (), None) for p in row]
    batch: Batch = found.framing.collate(prompts, None)  # type: ignore[arg-type]
    found.framing.loss(found(batch), batch).backward()
    trained = {n: w for n, w in found.named_parameters() if w.requires_grad}
    assert trained and [n for n, w in trained.items() if w.grad is None or not w.grad.any()] == []
    where = [n for n in trained if "decoder." in n and not isinstance(tuning, PromptTuning)]
    if found.backbone.opened and not isinstance(tuning, PromptTuning):
        sites = ("EncDecAttention", "SelfAttention") if family == "t5" else ("encoder_attn", "self_attn")
        if not isinstance(tuning, Houlsby):
            assert all(any(site in n for n in where) for site in sites)
        assert sum(w.numel() for w in found.backbone.parameters() if w.requires_grad) == tuning.count(found.backbone)


def test_the_assembled_model_shares_every_module() -> None:
    for family in WRITERS:
        found = writer(family)
        model = assembled(found.backbone, found.backbone.lm_head)  # type: ignore[arg-type]
        mine = {id(w) for w in found.backbone.parameters()}
        assert {id(w) for w in model.parameters()} <= mine and not any(w.is_meta for w in (*model.parameters(), *model.buffers()))


@torch.no_grad()
def log_probability(found: Learner, example: Example, text: list[int]) -> float:
    module = found.framing
    ids = torch.tensor([text])
    states = given_states(found.backbone, {"input_ids": torch.tensor(module.source.encode([example]))}, ids, torch.ones_like(ids) > 0)
    return float(module.logits(found.backbone, states).log_softmax(-1).gather(1, ids[0][:, None]).sum())


def test_beams_find_likelier_texts_than_greed() -> None:
    rows = tiny_examples(4)
    greedy, beams = writer(), writer(num_beams=4, length_penalty=0.0)
    gains = []
    for row in rows:
        model = assembled(beams.backbone, beams.backbone.lm_head)  # type: ignore[arg-type]
        out = model.generate(
            input_ids=torch.tensor(beams.framing.source.encode([row])),
            generation_config=beams.framing.framing.generation(
                {"eos_token_id": beams.framing.end, "pad_token_id": 0, "decoder_start_token_id": begin_id(beams.backbone)},
                beams.framing.tokenizer,
                ROOM,
            ),
        )
        best = out.sequences[0, 1:].tolist()
        best = best[: best.index(beams.framing.end) + 1] if beams.framing.end in best else best
        assert float(out.sequences_scores[0]) == pytest.approx(log_probability(beams, row, best), abs=1e-3)
        gains.append(float(out.sequences_scores[0]) - log_probability(greedy, row, uncached(greedy, row)))
    assert min(gains) > -1e-3 and max(gains) > 0


def test_seeds_reproduce_draws_and_the_coldest_draw_is_greed() -> None:
    rows = tiny_examples(6)
    drawn = {seed: said(writer(do_sample=True, temperature=2.0, generation_seed=seed), rows) for seed in (0, 1)}
    assert drawn[0] == said(writer(do_sample=True, temperature=2.0), rows) != drawn[1]
    assert said(writer(do_sample=True, top_k=1), rows) == said(writer(), rows) == said(writer(do_sample=True, top_p=1e-6), rows)
    before = torch.random.get_rng_state()
    said(writer(do_sample=True), rows[:2])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_several_texts_are_named_with_their_weights() -> None:
    (beams,) = writer(num_beams=4, num_return_sequences=3).predictions(tiny_examples(1))
    assert len(beams.probabilities) <= 3 and sum(beams.probabilities.values()) == pytest.approx(1)
    assert beams.label == max(beams.probabilities, key=beams.probabilities.__getitem__)
    (draws,) = writer(do_sample=True, temperature=3.0, num_return_sequences=4).predictions(tiny_examples(1))
    assert all(round(4 * share) >= 1 for share in draws.probabilities.values()) and sum(draws.probabilities.values()) == pytest.approx(1)


@pytest.mark.parametrize("family", ["t5", "gpt2"])
def test_words_that_must_occur_occur_and_the_text_ends(family: str) -> None:
    rows = tiny_examples(5)
    for given in ({}, {"inclusion_bonus": 50.0}, {"num_beams": 3}):
        texts = said(writer(family, must_include=("happy day", "warm"), max_target_length=10, **given), rows)
        assert all("happy day" in text and "warm" in text for text in texts)
    assert not any("happy day" in text for text in said(writer(family), rows))


def test_a_missing_text_is_written_when_the_room_runs_out() -> None:
    step = MustInclude([[[5, 6]], [[7]]], end=1, begin=1, room=6, bonus=2.0)
    scores = torch.zeros(3, 10)
    found = step(torch.tensor([[0, 9], [0, 5], [0, 7]]), scores)  # nothing yet; one begun; one done
    assert found[:, 1].tolist() == [-torch.inf] * 3 and scores.eq(0).all()
    assert found[0, [5, 7]].tolist() == [2, 2] and found[1, [6, 7]].tolist() == [2, 2] and found[2, [5, 7]].tolist() == [2, 0]
    late = step(torch.tensor([[0, 9, 9]]), torch.zeros(1, 10))  # 4 left: 3 tokens and the end
    assert late[0].isfinite().nonzero().flatten().tolist() in ([5], [7])
    done = step(torch.tensor([[0, 5, 6, 7]]), torch.zeros(1, 10))
    assert done.eq(0).all()


def test_siblings_lose_by_rank() -> None:
    scores = torch.tensor([[0.0, -1.0, -2.0, -3.0, -4.0]])
    step = PartSiblings(0.5, beams=1, begin=1)
    assert torch.equal(step(torch.zeros(1, 1, dtype=torch.long), scores), scores)
    found = step(torch.zeros(1, 2, dtype=torch.long), scores)
    assert found[0].tolist() == [0.0, -1.5, -3.0, -4.0, -5.0]  # k = 0, 1, then 2 for the rest
    rows = tiny_examples(4)
    plain, parted = (writer(num_beams=4, num_return_sequences=4, sibling_penalty=p).predictions(rows) for p in (0.0, 1e3))
    starts = [[len({(text.split() or [""])[0] for text in p.probabilities}) for p in found] for found in (plain, parted)]
    assert set(starts[1]) == {4} and min(starts[0]) < 4  # no beam has two children


@pytest.mark.parametrize("family", ["t5", "bart", "gpt2"])
def test_guidance_steers_away_from_nothing(family: str) -> None:
    """Scale 1 is plain decoding; each step is nothing + g (given - nothing), re-derived here for the first token."""
    rows = tiny_examples(3)
    found = writer(family, guidance_scale=3.0, guidance_source="bad film")
    assert said(writer(family, guidance_scale=1.0), rows) == said(writer(family), rows)
    module, backbone = found.framing, found.backbone
    first, one = torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1, dtype=torch.bool)
    with torch.no_grad():
        given, nothing = (
            module.logits(backbone, given_states(backbone, {"input_ids": torch.tensor([ids])}, first, one)).log_softmax(-1)
            for ids in (module.source.encode(rows[:1])[0], module.source.blank("bad film"))
        )
    expected = int((nothing + 3.0 * (given - nothing)).argmax())
    text = found.framing.tokenizer.decode([expected], skip_special_tokens=True)
    assert said(found, rows[:1])[0].startswith(text)
    assert said(found, rows) == said(found, rows, size=1)


def test_limits_of_length_words_and_repetition() -> None:
    rows = tiny_examples(4)
    length = [len(t.split()) for t in said(writer(max_new_tokens=3), rows)]
    assert max(length) <= 3
    assert min(len(t.split()) for t in said(writer(min_new_tokens=6, bad_words=("[CLS]", "[SEP]", "[MASK]", "[UNK]")), rows)) >= 4
    texts = said(writer(), rows)
    word = texts[0].split()[0]
    assert not any(word in t.split() for t in said(writer(bad_words=(word,)), rows))
    for text in said(writer(no_repeat_ngram_size=2), rows):
        pairs = list(zip(text.split(), text.split()[1:], strict=False))
        assert len(pairs) == len(set(pairs))
    stopped = said(writer(stop_strings=(word,)), rows)
    assert stopped[0] == "" and all(word not in t for t in stopped)


def test_a_causal_batch_is_turned_to_the_left() -> None:
    batch = Batch({"input_ids": torch.tensor([[5, 6, 7], [8, 0, 0]]), "attention_mask": torch.tensor([[1, 1, 1], [1, 0, 0]])})
    found = turned(batch, 3)
    assert found["input_ids"].tolist() == [[5, 6, 7], [3, 3, 8]] and found["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1]]


def test_a_prefix_may_be_given_in_the_place_of_another() -> None:
    """Control by prefix: one model, one prefix an attribute, of which a text is written under one."""
    rows, written = tiny_examples(4), []
    for seed in (1, 2):
        backbone: Backbone = tiny_backbone("t5")
        torch.manual_seed(seed)
        task = Task.from_examples([Example(e.texts, "good") for e in rows], kind="text")
        stage = Train(framing=TextToText(max_target_length=ROOM), tuning=PrefixTuning(p=3, m=None))
        found = assemble(stage, backbone, task, Seeds.of(seed)).eval()
        written.append(said(found, rows))
    assert written[0] != written[1]


@pytest.mark.parametrize("family", ["t5", "bart", "gpt2"])
@pytest.mark.parametrize("answers", ["likelihood", "trie"])
def test_stabilizers_perturb_what_is_read(family: str, answers: Any) -> None:
    """FreeLB asks which tokens are real wherever the body reads them, R-Drop for the same scores twice, SupCon for features of rows."""
    for stabilizer in (FreeLB(k=2, adv_lr=0.5, init_mag=0.3), RDrop(1.0), SupCon(0.5)):
        stage = stage_of(Full(), [stabilizer], TextToText(answers=answers), dataclasses.replace(STAGE, max_steps=1, eval_strategy="no"))
        told: list[dict[str, Any]] = []
        run(stage, family, around=Surroundings(listener=told.append))
        assert [math.isfinite(e["loss"]) for e in told if e["event"] == "step"] == [True]
    stage = dataclasses.replace(stage, stabilizers=(LNSR(1.0),))
    if family == "gpt2":
        run(stage, family)
    else:
        with pytest.raises(ModelError, match=rf"lnsr cannot serve tiny-{family}.*hold different tokens"):
            run(stage, family)


def test_a_causal_batch_says_which_tokens_are_read() -> None:
    for answers in ("likelihood", "free"):
        found = assemble(Use(TextToText(answers=answers)), tiny_backbone("gpt2"), tiny_task(8), Seeds.of(0)).eval()
        prompts = [p for row in found.framing.render(tiny_examples(3), (), None) for p in row]
        batch, seen = found.framing.collate(prompts, None), []
        found.backbone.model.register_forward_pre_hook(
            lambda _m, _a, given, seen=seen: seen.append(given["attention_mask"]), with_kwargs=True
        )
        found(batch)
        assert torch.equal(seen[0], batch.extra["read"])


def test_a_pretrained_writer_is_used_without_training() -> None:
    """T0's way: nothing is trained; a training stage that would train nothing is refused."""
    rows, task = tiny_examples(4), tiny_task(8)
    found = Use(TextToText()).run(tiny_backbone("t5"), task, Seeds.of(0))
    assert {p.label for p in found.predictions(rows)} <= {"bad", "good"} and found.trained() == {}
    stage = Train(framing=TextToText(), tuning=Frozen())
    with pytest.raises(RecipeError, match="no weights of its own.*stage use"):
        Recipe("idle", (stage,)).check()
    with pytest.raises(RecipeError, match="nothing would be trained"):
        assemble(stage, tiny_backbone("t5"), task, Seeds.of(0))


def cut(framing: TextToText, rows: Sequence[Example], family: str = "t5") -> tuple[Any, tuple[str, ...]]:
    """The framing prepared on ``rows``, and what it tells."""
    task = Task("texts", "text", (), Split("train", tuple(rows)))
    found = assemble(Train(framing=framing), tiny_backbone(family), task, Seeds.of(0))
    found.framing.prepare(found, task.train.examples, np.random.default_rng(0))
    return found.framing, found.framing.notes


@pytest.mark.parametrize("family", ["t5", "gpt2"])
def test_targets_and_sources_that_lose_their_end_are_told_of(family: str) -> None:
    rows = [Example((" ".join(["good"] * n),), " ".join(["film"] * n), n) for n in (2, 4, 9, 20)]
    more = 0 if family == "t5" else len(tiny_backbone(family).tokenizer(CUE)["input_ids"])
    end = 1 if family == "t5" else 0
    (note,) = cut(TextToText(max_target_length=5), rows, family)[1]
    assert note == (
        "2 of 4 (50%) training targets lose their end, so that the model learns to stop there: they take up to 21 tokens with the one that"
        " ends them, and max_target_length is 5; give max_target_length=21"
    )
    (note,) = cut(TextToText(max_source_length=10 + more, max_target_length=30), rows, family)[1]
    assert note == (
        f"1 of 4 (25%) training sources lose the end of their longest text: they take up to {20 + more + end} tokens, and {10 + more} are"
        f" read; give max_source_length={20 + more + end}, or leave it out"
    )
    assert cut(TextToText(max_target_length=30), rows, family)[1] == ()
    long = [Example((" ".join(["good"] * 80),), " ".join(["film"] * 80), 1)]
    sources, targets = cut(TextToText(max_target_length=8), long, family)[1]
    assert sources.endswith("are read; this model reads no more beside the target")
    most = 64 if family == "t5" else 32
    assert targets.endswith(f"give max_target_length={most}, the most that this model has room for, or shorten them")
    assert cut(TextToText(max_target_length=most), long, family)[1][1].endswith(f"max_target_length is {most}; shorten them")


def test_counting_them_reads_no_text_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    ids = Encoder.ids
    monkeypatch.setattr(Encoder, "ids", lambda self, parts: (read.append(len(parts)), ids(self, parts))[1])
    rows = tiny_examples(8)
    module, _ = cut(TextToText(), [dataclasses.replace(e, label="a film") for e in rows])
    task, before = module._ready[0], sum(read)
    first = module.render(task, (), np.random.default_rng(0))
    assert sum(read) == before and module._ready is None
    assert module.render(task, (), np.random.default_rng(0)) == first and sum(read) > before


def test_texts_that_were_drawn_alike_are_one_with_all_the_weight() -> None:
    framing = TextToText(answers="free", do_sample=True, num_return_sequences=2)
    found = assemble(Train(framing=framing), tiny_backbone("t5"), tiny_task(8), Seeds.of(0))
    (same,) = found.framing.said([[("good", 1.0)]], tiny_examples(1))
    assert same.probabilities == {"bad": 0.0, "good": 1.0}
