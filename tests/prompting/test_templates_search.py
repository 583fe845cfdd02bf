"""The search for templates: one shared beam equal to exhaustive enumeration, fillings that become valid templates, choice on dev alone."""

from __future__ import annotations

import dataclasses
import itertools
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from tempering.backbone import Backbone
from tempering.contracts import Example
from tempering.errors import ModelError, RecipeError, TemperingError
from tempering.framings.cloze import Cloze
from tempering.framings.templates.coding import PieceCoder
from tempering.framings.templates.encoder import TemplateEncoder
from tempering.framings.verbalizers.auto_words import AutoWords
from tempering.prompting.beam import aggregated, shared_beam
from tempering.prompting.fillers import MaskFiller, SpanFiller
from tempering.prompting.scoring import ranked, rows_on, score, untrained
from tempering.prompting.search import Settings, find_prompts
from tempering.prompting.selecting import begun, fine_tuned, with_cloze
from tempering.prompting.sketches import Form, Words, in_fields, words_of
from tempering.prompting.templates_search import Candidate, search
from tempering.recipe import Recipe
from tempering.tasks import Task
from tempering.train.evaluate import Evaluator
from tests.framings.test_masked_lm import save_masked_lm
from tests.tiny import VOCAB, save_tiny, tiny_backbone, tiny_config, tiny_model, tiny_task, tiny_whole

WORDS = {"bad": ("bad",), "good": ("good",)}
SENTINELS = ("<extra_id_0>", "<extra_id_1>", "<extra_id_2>")
QUICK = {"max_steps": 2, "num_train_epochs": 1, "min_steps": 0}


def span_tokenizer() -> Any:
    """A tokenizer whose last three words are the sentinels."""
    vocab = [*VOCAB[:-3], *SENTINELS]
    core = Tokenizer(models.WordLevel({t: i for i, t in enumerate(vocab)}, unk_token="[UNK]"))
    core.normalizer, core.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.BertPreTokenizer()
    eos = ("</s>", vocab.index("</s>"))
    core.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[eos])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="[UNK]", eos_token="</s>", pad_token="[PAD]", extra_special_tokens=list(SENTINELS)
    )


def save_span_filler(folder: Path) -> str:
    """A tiny T5 with sentinels, as transformers saves it."""
    tiny_model("t5", loader="AutoModelForSeq2SeqLM").save_pretrained(folder)
    span_tokenizer().save_pretrained(folder)
    return str(folder)


def filler_of(beam: int = 20, **more: Any) -> SpanFiller:
    """A tiny T5 whose last three words are the sentinels."""
    tokenizer = span_tokenizer()
    assert tokenizer.convert_tokens_to_ids(list(SENTINELS)) == [189, 190, 191]
    backbone = Backbone(tiny_model("t5"), tokenizer, "tiny-t5", whole=partial(tiny_whole, "t5", 0))
    return SpanFiller(backbone.eval(), beam, **more)


def let_gaps_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A random model would hardly ever end a gap."""
    following = SpanFiller._next

    def ending(self: SpanFiller, written: tuple[int, ...], memories: Any) -> torch.Tensor:
        found = following(self, written, memories)
        found[190:] += 16.0 * (len(written) > 1)
        return found

    monkeypatch.setattr(SpanFiller, "_next", ending)


def test_the_two_ways_to_aggregate_are_the_golden_ones() -> None:
    logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    assert aggregated(logits).tolist() == pytest.approx([-1.23954, -1.23954, -2.23954], abs=1e-5)
    assert aggregated(logits, "mean_logits").tolist() == pytest.approx([-0.86199, -0.86199, -1.86199], abs=1e-5)


@torch.no_grad()
def test_a_wide_beam_on_a_tiny_t5_is_exhaustive_enumeration_of_two_tokens() -> None:
    filler = filler_of(beam=40_000)
    sketches = Form("after").sketches(tiny_task(4).train.examples, [(6,), (14,), (6,), (14,)], filler.coder, 20)
    memories = list(filler._memories([[*s.head, 189, *s.word, 190, *s.tail] for s in sketches]))
    never = (frozenset[int](),)
    found = shared_beam(lambda ids: filler._next((189, *ids), memories), never, filler.banned, filler.stops, filler.beam, 2)
    config = tiny_config("t5")
    whole = transformers.T5ForConditionalGeneration(config).eval()  # the class of transformers, with the same weights
    whole.load_state_dict(filler.backbone.model.state_dict(), strict=False)
    allowed = [i for i in range(192) if i not in filler.banned]
    first, second = torch.zeros(192), torch.zeros(192, 192)
    for s in sketches:
        ids = torch.tensor([[*s.head, 189, *s.word, 190, *s.tail, 5]])
        memory = whole.encoder(ids)
        begun = torch.tensor([[0, 189, t] for t in range(192)])
        states = transformers.modeling_outputs.BaseModelOutput(memory.last_hidden_state.expand(192, -1, -1))
        logs = whole(encoder_outputs=states, decoder_input_ids=begun).logits.log_softmax(-1)
        first += logs[0, 1] / len(sketches)
        second += logs[:, 2] / len(sketches)
    expected = {(a, b): float(first[a] + second[a, b]) for a, b in itertools.product(allowed, allowed)}
    assert {h.ids for h in found} == set(expected) and len(found) == len(expected)
    assert max(abs(h.score - expected[h.ids]) for h in found) < 1e-3
    assert [h.score for h in found] == sorted((h.score for h in found), reverse=True)


def test_parts_end_at_their_tokens_and_forbidden_ones_are_never_written() -> None:
    logs = torch.tensor([-1.0, -2.0, -3.0, -0.1, -4.0])

    def following(ids: tuple[int, ...]) -> torch.Tensor:
        return logs

    found = shared_beam(following, (frozenset((0,)), frozenset((4,))), frozenset((3, 4)), frozenset((2,)), beam=50, steps=5)
    done = [h for h in found if h.parts == 2]
    assert done[0].ids == (0, 4) and done[0].score == pytest.approx(-5.0)
    assert all(3 not in h.ids and h.ids[-1] == 4 and h.ids.count(4) == 1 for h in done)
    assert all((2, 2) not in itertools.pairwise(h.ids) for h in found)
    assert any(h.ids == (0, 1, 4) for h in done) and any(h.ids == (1, 0, 4) for h in done)


def test_span_fillings_become_templates_of_every_form(monkeypatch: pytest.MonkeyPatch) -> None:
    let_gaps_end(monkeypatch)
    for where, begins in (("after", "{text} "), ("before", "")):
        filler = filler_of(beam=12, steps=6)
        made = Form(where).sketches(tiny_task(4).train.examples, [(6,)] * 4, filler.coder, 20)  # type: ignore[arg-type]
        fillings = filler.fill(made)[:5]
        assert fillings and all(not {189, 190, 191} & {*f.left, *f.right} for f in fillings)
        found = [c for c in search(tiny_task(4), WORDS, filler, n=10) if c.where == where]
        assert found
        assert all(c.template.count("{mask}") == 1 and c.template.count("{text}") == 1 and c.template.startswith(begins) for c in found)
        assert all(Cloze(c.template, words=WORDS).templates == (c.template,) for c in found)


def test_the_label_word_of_each_example_stands_between_the_gaps() -> None:
    filler = filler_of()
    (one,) = Form("between").sketches([Example(("good film .", "The room"), "good")], [(6,)], filler.coder, 8)
    tokens = filler.backbone.tokenizer.convert_ids_to_tokens
    assert (tokens(one.head), one.word, tokens(one.tail)) == (["good", "film"], (6,), ["the", "room"])
    (cut,) = Form("after").sketches([Example(("a b c the film was",), "good")], [(6,)], filler.coder, 2)
    assert tokens(cut.head) == ["film", "was"]  # the end stays, next to the gap
    (other,) = Form("before").sketches([Example(("the film was",), "good")], [(6,)], filler.coder, 2)
    assert tokens(other.tail) == ["the", "film"]


def test_templates_are_written_as_the_forms_say() -> None:
    left, right = Words("It was", True), Words(".", False)
    assert Form("after").template(left, right) == "{text} It was {mask}."
    assert Form("before").template(left, right) == "It was {mask}. {text}"
    assert Form("between").template(Words("?", False), Words(",", False)) == "{text:strip_punct}? {mask}, {text_pair:lower_first}"
    assert in_fields("{text:strip_punct}? {mask}, {text_pair}", ("a", "b")) == "{a:strip_punct}? {mask}, {b}"
    assert in_fields("{text} \\{ {soft:3} {mask}.", ()) == "{text} \\{ {soft:3} {mask}."
    assert Form("after").template(Words("", False), Words("}{", True)) == "{text} {mask} \\}\\{"


def test_words_that_encode_otherwise_are_left_out() -> None:
    coder = PieceCoder(tiny_backbone("qwen2").tokenizer)
    whole = coder.encode([" was"], [True])[0]
    assert words_of(whole, coder) == Words("was", True) and words_of((), coder) == Words("", False)
    letters = [coder.tokenizer.convert_tokens_to_ids(c) for c in ("\u0120w", "a", "s")]
    assert None in letters or words_of(letters, coder) is None  # the merged word would be read in their place


@torch.no_grad()
def test_a_masked_model_fills_from_left_to_right(tmp_path: Path) -> None:
    theirs = save_masked_lm("bert", tmp_path).eval()
    filler = MaskFiller(Backbone.load(str(tmp_path)), 5000, shapes=((1, 1),))
    task = tiny_task(4)
    words = [(VOCAB.index(str(e.label)),) for e in task.train]
    sketches = Form("after").sketches(task.train.examples, words, filler.coder, 20)
    best = filler.fill(sketches)[0]
    logs = np.zeros((2, 192))
    for s in sketches:
        ids = torch.tensor([[2, *s.head, 4, *s.word, 4, 3]])
        logs[0] += theirs(ids).logits[0, len(s.head) + 1].log_softmax(-1).numpy() / 4
        ids[0, len(s.head) + 1] = best.left[0]
        logs[1] += theirs(ids).logits[0, len(s.head) + 3].log_softmax(-1).numpy() / 4
    assert best.score == pytest.approx((logs[0][best.left[0]] + logs[1][best.right[0]]) / 2, abs=1e-4)
    allowed = [i for i in range(192) if i not in filler.banned]
    assert logs[1][best.right[0]] == pytest.approx(max(logs[1][i] for i in allowed), abs=1e-4)


def test_templates_are_chosen_on_dev_and_ties_go_to_the_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def fake(recipe: Recipe, task: Any, model: str, seed: int, metrics: tuple[str, ...]) -> Any:
        seen.append(task.test)
        template = recipe.stages[-1].framing.template
        found = {"{text} a {mask}": (0.9, 0.7), "{text} b {mask}": (0.9, 0.3), "{text} c {mask}": (0.5, 0.1)}[template]
        return type("L", (), {"record": {"metrics": {"dev": dict(zip(("accuracy", "loss"), found, strict=True))}, "seconds": 1.0}})

    monkeypatch.setattr("tempering.prompting.selecting.fit", fake)
    task = dataclasses.replace(tiny_task(), test=tiny_task().dev)
    clozes = [Cloze(f"{{text}} {w} {{mask}}", words=WORDS) for w in "abc"]
    found = fine_tuned(clozes, Recipe.load("cloze"), task, "m")
    assert [t.template for t in found] == ["{text} b {mask}", "{text} a {mask}", "{text} c {mask}"] and seen == [None] * 3


def test_the_whole_search_ends_in_a_recipe_that_loads(tmp_path: Path) -> None:
    save_masked_lm("bert", tmp_path / "m")
    recipe = Recipe.load("cloze").override(QUICK)
    settings = Settings(candidates=6, beam=4, finalists=2, keep=2, auto_words=False)
    found = find_prompts(tiny_task(), str(tmp_path / "m"), Cloze(words=WORDS), dataclasses.replace(settings, keep=1), recipe)
    assert len(found.tuned) == 2 and found.recipe.stages[-1].framing.templates == (found.tuned[0].template,)
    assert "no encoder-decoder was named" in found.recipe.description
    assert Recipe.from_yaml(found.recipe.to_yaml()) == found.recipe
    several = find_prompts(tiny_task(), str(tmp_path / "m"), Cloze(words=WORDS), settings, recipe)
    assert len(several.recipe.stages[-1].framing.templates) == 2 and not several.tuned


def test_label_words_may_be_searched_first(tmp_path: Path) -> None:
    save_masked_lm("bert", tmp_path / "m")
    settings = Settings(candidates=2, beam=3, finalists=1, auto_words=True)
    found = find_prompts(tiny_task(), str(tmp_path / "m"), Cloze("{text} {mask}"), settings, Recipe.load("cloze").override(QUICK))
    words = dict(found.recipe.stages[-1].framing.words)
    assert set(words) == {"bad", "good"} and len({w for (w,) in words.values()}) == 2 and not found.worded


def test_label_words_are_chosen_on_dev_among_the_best_untrained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LM-BFF's fourth step: the assignments that do best untrained are fine-tuned, and development rows choose."""
    save_masked_lm("bert", tmp_path / "m")
    cloze, task, tried = Cloze("{text} {mask}"), dataclasses.replace(tiny_task(), test=tiny_task().dev), list[Any]()

    def fake(recipe: Recipe, task: Any, model: str, seed: int, metrics: tuple[str, ...]) -> Any:
        words = dict(recipe.stages[-1].framing.words)
        tried.extend([] if words in tried else [words])
        assert task.test is None
        dev = {"accuracy": 0.9 if len(tried) == 3 and words == tried[2] else 0.5, "loss": 0.5}
        return type("L", (), {"record": {"metrics": {"dev": dev}, "seconds": 1.0}})

    monkeypatch.setattr("tempering.prompting.selecting.fit", fake)
    settings = Settings(candidates=2, beam=3, finalists=3, auto_words=True)
    found = find_prompts(task, str(tmp_path / "m"), cloze, settings, Recipe.load("cloze").override(QUICK))
    chosen = untrained(dataclasses.replace(cloze, verbalizer=AutoWords()), task, Backbone.load(str(tmp_path / "m")), 0).framing.verbalizer
    best = [dict(zip(("bad", "good"), ((chosen.coder.word(i),) for i in one.ids), strict=True)) for one in chosen.found[:3]]
    assert tried == best and dict(found.recipe.stages[-1].framing.words) == best[2] != best[0]
    assert [t["words"]["bad"] for t in found.as_dict()["worded"]] == [list(best[i]["bad"]) for i in (2, 0, 1)]
    assert "on 12 development rows among the best 3, fine-tuned" in found.notes[0]


def test_the_recipes_own_metric_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(recipe: Recipe, task: Any, model: str, seed: int, metrics: tuple[str, ...]) -> Any:
        assert metrics == ("f1:good",)
        high = recipe.stages[-1].framing.template == "{text} a {mask}"
        dev = {"accuracy": 0.9 - high * 0.1, "f1:good": 0.1 + high * 0.1, "loss": 0.5}
        return type("L", (), {"record": {"metrics": {"dev": dev}, "seconds": 1.0}})

    monkeypatch.setattr("tempering.prompting.selecting.fit", fake)
    clozes = [Cloze(f"{{text}} {w} {{mask}}", words=WORDS) for w in "ba"]
    found = fine_tuned(clozes, Recipe.load("cloze").override({"metric_for_best_model": "f1:good"}), tiny_task(), "m")
    assert [t.template for t in found] == ["{text} a {mask}", "{text} b {mask}"]


def test_what_was_found_is_put_where_the_recipe_has_its_cloze() -> None:
    found = Cloze("{text} so {mask}", words=WORDS)
    within = Recipe.load("lm-bff").override({"framing.contexts": 3, "framing.framing.max_length": 32})
    made = with_cloze(within, begun(within, found))
    framing = made.stages[-1].framing
    assert (framing.contexts, framing.framing) == (3, dataclasses.replace(found, max_length=32)) and made.search == within.search
    auto = Recipe.load("cloze-auto-words")
    assert begun(auto, found).verbalizer == AutoWords() and with_cloze(auto, begun(auto, found)).search == auto.search
    assert with_cloze(auto, found).search == ()  # a manual verbalizer has no rank
    other = dataclasses.replace(auto, search={"framing.template": ["{text} {mask}"], "learning_rate": [1e-5]})
    assert dict(with_cloze(other, found).search) == {"learning_rate": (1e-5,)}
    with pytest.raises(RecipeError, match="recipe 'full': its last stage holds no cloze"):
        begun(Recipe.load("full"), found)


def test_zero_shot_scores_are_ranked_and_never_of_test_rows(tmp_path: Path) -> None:
    save_masked_lm("bert", tmp_path)
    backbone, task = Backbone.load(str(tmp_path)), tiny_task()
    found = ranked(
        [score(Cloze(t, words=WORDS), task, backbone, rows_on(task, "dev", 9)) for t in ("{text} {mask}", "{mask} {text}")], task
    )
    keys = [(-s.metrics["accuracy"], s.metrics["loss"]) for s in found]
    assert keys == sorted(keys) and found[0].rows == 9 and sum(found[0].predicted.values()) == pytest.approx(1)
    with pytest.raises(RecipeError, match="dev or train rows, found 'test'"):
        rows_on(task, "test", 5)


def test_no_more_training_rows_are_read_than_are_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless something is chosen from them; what is scored stays the same."""
    save_masked_lm("bert", tmp_path)
    backbone, task = Backbone.load(str(tmp_path)), tiny_task(40)
    rows = rows_on(task, "train", 5)
    cloze = Cloze("{text} {mask}", words=WORDS, max_length=8)
    whole = Evaluator(rows, task.kind, task.labels)(untrained(cloze, task, backbone))[0]
    read: list[Any] = []
    encode = TemplateEncoder.encode
    monkeypatch.setattr(TemplateEncoder, "encode", lambda self, examples: (read.extend(examples), encode(self, examples))[1])
    found = score(cloze, task, backbone, rows)
    assert found.metrics == whole and read == [*rows, *rows]  # for the note, and to be scored
    assert any("of 5 training rows" in note and "were shortened to 8 tokens" in note for note in found.notes)
    for given, of in (
        (dataclasses.replace(cloze, verbalizer=AutoWords()), task),
        (dataclasses.replace(cloze, words={"low": "bad", "high": "good"}), tiny_task(40, "regression")),
    ):
        read.clear()
        score(given, of, backbone, of.train.examples[:5])
        assert len(read) > 40


def test_what_a_search_must_refuse_is_refused_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writing templates takes most of the time."""
    save_masked_lm("bert", tmp_path / "m")
    save_tiny("bert", tmp_path / "body")
    save_tiny("gpt2", tmp_path / "causal")
    t5 = save_span_filler(tmp_path / "t5")
    monkeypatch.setattr("tempering.prompting.search.search", lambda *given: pytest.fail("searched"))
    task, cloze = tiny_task(), Cloze(words=WORDS)
    one, two = ([Example((*e.texts, "the day"), e.label) for e in split] for split in (task.train, task.dev))
    pairs = Task.from_examples(train=one, dev=two)
    fill, words = Settings(filler=t5), Settings(auto_words=True)
    several = Cloze(words={"bad": ("the film",), "good": ("good",)})
    for name, given, asked, settings, said in (
        ("m", task, several, fill, "label word 'the film' of class 'bad' is 2 tokens"),
        ("m", dataclasses.replace(task, dev=None), cloze, fill, "has no development rows"),
        ("m", dataclasses.replace(task, dev=None), Cloze(), words, "has no development rows"),
        ("m", task, Cloze("{text} {soft:2} {mask}", words=WORDS), fill, "weights of its own that would stay as they are drawn"),
        ("body", task, cloze, fill, "name words at random"),
        ("body", task, Cloze(), words, "name words at random"),
        ("causal", pairs, cloze, fill, "the mask must stand last"),
    ):
        with pytest.raises(TemperingError, match=said):
            find_prompts(given, str(tmp_path / name), asked, settings, Recipe.load("cloze").override(QUICK))
    wrong = Recipe.load("cloze").override(QUICK | {"metric_for_best_model": "spearman"})
    with pytest.raises(RecipeError, match="spearman"):
        find_prompts(task, str(tmp_path / "m"), cloze, fill, wrong)


def test_templates_that_the_model_cannot_read_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_tiny("gpt2", tmp_path / "causal")
    written = [Candidate(f"{{text}} {words}", 0.0, "after") for words in ("it was {mask}", "it {mask} .", "{mask} was")]
    monkeypatch.setattr("tempering.prompting.search.search", lambda *given: written)
    told: list[Any] = []
    settings = Settings(finalists=1, filler=save_span_filler(tmp_path / "t5"))
    find = partial(find_prompts, tiny_task(), str(tmp_path / "causal"), Cloze(words=WORDS), settings, listener=told.append)
    found = find()
    assert {t for c in found.candidates for t in c.templates} == {"{text} it was {mask}", "{text} It was {mask}"}
    (said,) = [event["text"] for event in told if "left out" in event["text"]]
    assert said.startswith("2 of 3 templates cannot be used and are left out; the first: ") and "'{text} it {mask} .'" in said
    del written[0]
    with pytest.raises(RecipeError, match="none of 2 templates that were written can be used"):
        find()


def test_the_template_of_the_words_competes_with_those_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its words were fine-tuned under it, so that what it reaches is known, and no worse recipe is written; it is not tuned again."""
    save_masked_lm("bert", tmp_path / "m")
    seen: list[str] = []

    def fake(recipe: Recipe, task: Any, model: str, seed: int, metrics: tuple[str, ...]) -> Any:
        template = recipe.stages[-1].framing.template
        seen.append(template)
        dev = {metrics[0]: 0.9 if template == "{text} It was {mask}." else 0.5, "loss": 0.5}
        return type("L", (), {"record": {"metrics": {"dev": dev}, "seconds": 1.0}})

    monkeypatch.setattr("tempering.prompting.selecting.fit", fake)
    for kind, by in (("classification", "zero-shot training accuracy"), ("regression", "Pearson's r")):
        seen.clear()
        settings = Settings(candidates=2, beam=3, finalists=2, auto_words=True)
        found = find_prompts(tiny_task(kind=kind), str(tmp_path / "m"), Cloze(), settings, Recipe.load("cloze").override(QUICK))
        assert any(c.templates == ("{text} It was {mask}.",) for c in found.candidates)
        assert seen[:2] == ["{text} It was {mask}."] * 2 and "{text} It was {mask}." not in seen[2:]
        assert found.recipe.stages[-1].framing.templates == ("{text} It was {mask}.",) == (found.tuned[0].template,)
        assert by in found.notes[0]


def test_the_generic_template_speaks_of_the_fields_there_are(tmp_path: Path) -> None:
    save_masked_lm("bert", tmp_path / "m")
    settings = Settings(candidates=1, beam=2, finalists=1)
    found = find_prompts(tiny_task(), str(tmp_path / "m"), Cloze(words=WORDS, fields=("sentence",)), settings)
    assert "{sentence} It was {mask}." in {t for c in found.candidates for t in c.templates}


def test_models_that_cannot_fill_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot fill spans"):
        SpanFiller(tiny_backbone("bart"))
    with pytest.raises(ModelError, match="no mask to fill"):
        MaskFiller(tiny_backbone("gpt2"))
    with pytest.raises(ModelError, match="name words at random"):
        score(Cloze("{text} {mask}", words=WORDS), tiny_task(), tiny_backbone("bert"), tiny_task().dev.examples)  # type: ignore[union-attr]
