"""`Cloze`: scores equal to the whole model's at the mask, values between poles, what is trained, what is refused, and that it learns."""

from __future__ import annotations

import copy
import dataclasses
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional as F

from tempering.backbone import Backbone
from tempering.contracts import Batch, Example, Seeds
from tempering.errors import DataError, ModelError, RecipeError
from tempering.fitting import fit
from tempering.framings.cloze import Cloze
from tempering.framings.demonstrations import Demonstrations
from tempering.framings.gaps.poles import value_of
from tempering.framings.masked_lm import MaskedLM
from tempering.framings.verbalizers.soft import Soft
from tempering.learner import Learner
from tempering.recipe import Recipe
from tempering.saving import load
from tempering.stages.setup import Surroundings
from tempering.stages.train import Train
from tempering.stages.use import Use
from tempering.tasks import Task
from tempering.tunings.bitfit import BitFit
from tempering.tunings.frozen import Frozen
from tempering.tunings.full import Full
from tempering.tunings.lora import LoRA
from tempering.tunings.top_layers import TopLayers
from tests.framings.test_masked_lm import save_masked_lm
from tests.tiny import NEGATIVE, POSITIVE, WORDS, save_tiny, tiny_backbone, tiny_model, tiny_task, tiny_tokenizer

BatchOf = Callable[[Any, list[Example]], Batch]
TaskOf = Callable[..., Any]
TONES = {"bad": "bad", "good": "good", "so so": "was"}
POLES = {"low": "bad", "high": "good"}
ENCODERS = ("bert", "roberta", "electra", "albert", "modernbert", "deberta-v2")


@pytest.mark.parametrize("family", ENCODERS)
@torch.no_grad()
def test_scores_are_the_logits_of_the_words_at_the_mask(
    family: str, tmp_path: Path, batch_of: BatchOf, examples: list[Example], task_of: TaskOf
) -> None:
    theirs = save_masked_lm(family, tmp_path)
    backbone = Backbone.load(str(tmp_path)).eval()
    module = Cloze("{text} it was {mask} .", words=TONES).build(task_of(), backbone)
    batch = batch_of(module, examples)
    ids = batch.inputs["input_ids"]
    places = (ids == backbone.tokenizer.mask_token_id).nonzero()
    assert places.tolist() == [[i, p] for i, (p,) in enumerate(batch.extra["mask_positions"].tolist())]
    words = backbone.tokenizer.convert_tokens_to_ids(["bad", "good", "was"])
    expected = theirs(**batch.inputs).logits[places[:, 0], places[:, 1]][:, words]
    slab = module.scores(backbone, batch).only
    assert (slab.logits[0] - expected).abs().max() < 1e-5 and expected.std(0).max() > 1e-3
    assert slab.features is not None and slab.features.shape == (4, backbone.embeddings.weight.shape[1])
    labelled = slab._replace(targets=torch.tensor([0, 1, 2, 0]))
    assert torch.allclose(module.loss(SimpleNamespace(only=labelled), batch), F.cross_entropy(expected, labelled.targets), atol=1e-5)
    found = module.decode(SimpleNamespace(only=slab))
    assert [p.label for p in found] == [("bad", "good", "so so")[i] for i in expected.argmax(-1).tolist()]
    assert sum(found[0].probabilities.values()) == pytest.approx(1.0)


@torch.no_grad()
def test_a_decoder_names_the_next_word(tmp_path: Path, batch_of: BatchOf, examples: list[Example], task_of: TaskOf) -> None:
    theirs = tiny_model("gpt2", loader="AutoModelForCausalLM")
    theirs.save_pretrained(tmp_path)
    tiny_tokenizer("gpt2").save_pretrained(tmp_path)
    backbone = Backbone.load(str(tmp_path)).eval()
    module = Cloze("{text} it was {mask}", words=TONES).build(task_of(), backbone)
    words = backbone.tokenizer.convert_tokens_to_ids(["bad", "good", "was"])
    slab = module.scores(backbone, batch_of(module, examples)).only
    for i, example in enumerate(examples):
        alone = backbone.tokenizer(f"{example.texts[0]} it was", return_tensors="pt")
        assert (slab.logits[0, i] - theirs(**alone).logits[0, -1, words]).abs().max() < 1e-5


def test_a_batch_of_one_is_a_row_of_a_batch(batch_of: BatchOf, examples: list[Example], task_of: TaskOf) -> None:
    backbone = tiny_backbone("modernbert").eval()
    module = Cloze("{soft:2} {text} it was {mask}", words=TONES).build(task_of(), backbone)
    whole = module.scores(backbone, batch_of(module, examples)).only.logits[0]
    for i, example in enumerate(examples):
        assert torch.allclose(module.scores(backbone, batch_of(module, [example])).only.logits[0, 0], whole[i], atol=1e-5)


def test_the_users_own_mask_changes_nothing_but_the_text(batch_of: BatchOf, task_of: TaskOf) -> None:
    backbone = tiny_backbone("bert").eval()
    module = Cloze("{text} it was {mask}", words=TONES).build(task_of(), backbone)
    batch = batch_of(module, [Example(("[MASK] film [SEP] [CLS]",), None, 1)])
    assert torch.isfinite(module.scores(backbone, batch).only.logits).all()
    (place,) = batch.extra["mask_positions"][0].tolist()
    assert place == batch.inputs["input_ids"].shape[1] - 2


def test_vectors_in_the_template_stand_where_their_words_would(batch_of: BatchOf, examples: list[Example], task_of: TaskOf) -> None:
    backbone = tiny_backbone("bert").eval()
    plain = Cloze("{text} it was {mask}", words=TONES).build(task_of(), backbone)
    soft = Cloze("{text} {soft:it was} {mask}", words=TONES).build(task_of(), backbone)
    a, b = (m.scores(backbone, batch_of(m, examples)).only.logits for m in (plain, soft))
    assert torch.allclose(a, b, atol=1e-6)
    assert soft.soft.table is not None and soft.soft.table.shape == (2, 32)
    soft.soft.table.data *= torch.linspace(-3.0, 3.0, 32)  # a constant would be taken out again by the norm
    moved = soft.scores(backbone, batch_of(soft, examples)).only.logits
    assert (moved - b).abs().max() > 1e-3
    assert not backbone.embeddings._forward_hooks
    shared = Cloze("{soft#a:2} {text} {soft#a:2} {mask}", words=TONES).build(task_of(), backbone)
    assert shared.soft.table is not None and shared.soft.table.shape == (2, 32) and shared.soft.rows == ((0, 1), (0, 1))


def test_several_masks_for_one_verbalizer(batch_of: BatchOf, examples: list[Example], task_of: TaskOf) -> None:
    from tempering.framings.verbalizers.multi_mask import MultiMask

    backbone = tiny_backbone("bert").eval()
    words = {"bad": "very bad", "good": "very good", "so so": "not very good"}
    module = Cloze("{text} it was {mask}", words=words, verbalizer=MultiMask()).build(task_of(), backbone)
    batch = batch_of(module, examples)
    assert batch.extra["mask_positions"].shape == (4, 3)
    assert module.scores(backbone, batch).only.logits.shape == (1, 4, 3)


@pytest.mark.parametrize("reference", [False, True])
def test_a_value_is_read_between_two_poles(reference: bool, batch_of: BatchOf, examples: list[Example], task_of: TaskOf) -> None:
    backbone = tiny_backbone("bert").eval()
    task = task_of("regression", values=(1.0, 2.0, 6.0))
    module = Cloze("{text} it was {mask}", words=POLES, reference_kl=reference).build(task, backbone)
    assert module.bounds.tolist() == [1.0, 6.0]
    rows = [dataclasses.replace(e, label=float(i)) for i, e in enumerate(examples)]
    batch = batch_of(module, rows)
    scores = module.scores(backbone, batch)
    classes = Cloze("{text} it was {mask}", words={"bad": "bad", "good": "good"}).build(task_of(labels=("bad", "good")), backbone)
    low, high = classes.scores(backbone, batch_of(classes, examples)).only.logits[0].T
    assert torch.allclose(scores.only.logits[0, :, 0], high - low, atol=1e-6)
    p = torch.stack([low, high], -1).softmax(-1)
    assert [round(f.label, 4) for f in module.decode(scores)] == [round(float(v), 4) for v in (1.0 + 5.0 * p[:, 1]).detach()]
    s = ((torch.arange(4.0) - 1.0) / 5.0).clamp(0, 1)
    t = torch.stack([1 - s, s], -1)
    each = F.kl_div(p.log(), t, log_target=reference, reduction="none")
    expected = each.mean() if reference else each.sum(-1).mean()
    assert torch.allclose(module.loss(scores, batch), expected, atol=1e-6)
    weighted = scores._replace(slabs=(scores.only._replace(weights=torch.tensor([1.0, 0.0, 0.0, 0.0])),))
    assert module.loss(weighted, batch).item() == pytest.approx(
        module.loss(module.scores(backbone, batch_of(module, rows[:1])), batch).item(), abs=1e-6
    )
    assert value_of(torch.tensor(0.0), module.bounds).item() == 3.5


def test_values_without_labels_and_scales_without_length(batch_of: BatchOf, examples: list[Example], task_of: TaskOf) -> None:
    backbone, task = tiny_backbone("bert"), task_of("regression")
    module = Cloze("{text} it was {mask}", words=POLES, bounds=(0.0, 5.0)).build(task, backbone)
    assert module.bounds.tolist() == [0.0, 5.0]
    batch = batch_of(module, examples)
    with pytest.raises(DataError, match="needs a value in every row"):
        module.loss(module.scores(backbone, batch), batch)
    with pytest.raises(RecipeError, match="found 3 and 3; give both ends"):
        Cloze("{text} it was {mask}", words=POLES).build(task_of("regression", values=(3, 3)), backbone)
    with pytest.raises(RecipeError, match="read off two label words.*give words"):
        Cloze("{text} it was {mask}").build(task, backbone)


def test_words_stand_in_the_order_of_the_classes_however_they_are_listed(task_of: TaskOf) -> None:
    backbone, poles = tiny_backbone("bert"), {"high": "good", "low": "bad"}
    module = Cloze("{text} it was {mask}", words=poles).build(task_of("regression"), backbone)
    assert module.verbalizer.labels == ("low", "high") and list(module.words) == ["low", "high"]
    with pytest.raises(RecipeError, match="between the poles low and high, found words for bottom, top"):
        Cloze("{text} it was {mask}", words={"bottom": "bad", "top": "good"}).build(task_of("regression"), backbone)
    classes = Cloze("{text} it was {mask} not {label:0}", words=dict(reversed(TONES.items()))).build(task_of(), backbone)
    assert list(classes.words) == list(classes.labels) == list(TONES)
    assert classes.text.words[0] == (backbone.tokenizer.convert_tokens_to_ids("bad"),)


@pytest.mark.parametrize(
    ("tuning", "head"), [(Full(), True), (TopLayers(layers=(-1,)), True), (LoRA(r=2), False), (BitFit(), False), (Frozen(), False)]
)
def test_the_language_model_head_follows_the_body(tuning: Any, head: bool) -> None:
    backbone = tiny_backbone("bert")
    MaskedLM().build(None, backbone)  # an earlier stage has trained it
    tuning.attach(backbone)
    module = Cloze("{text} it was {mask}", words={"bad": "bad", "good": "good"}, verbalizer=Soft()).build(tiny_task(), backbone)
    learner = Learner(backbone, module, tuning)
    trained = {n for n in learner.trained() if "lm_head" in n}
    assert bool(trained) == head and "framing.verbalizer.weight" in learner.trained()


def test_words_however_they_are_given() -> None:
    mapping = Cloze(words={"bad": "awful", "good": ["great", "fine"]})
    assert mapping.words == (("bad", ("awful",)), ("good", ("great", "fine"))) and mapping.mappings == ("words",)
    listed = Cloze(words=["awful", ["great", "fine"]])
    assert listed.words == ("awful", ("great", "fine")) and listed.mappings == ()
    backbone = tiny_backbone("bert")
    for value in (mapping, listed):
        assert value.build(tiny_task(), backbone).words == {"bad": ("awful",), "good": ("great", "fine")}
        text = Recipe("r", (Train(framing=value),)).to_yaml()
        assert Recipe.from_yaml(text).stages[0].framing == value
    assert "bad:" in Recipe("r", (Train(framing=mapping),)).to_yaml()
    assert Cloze("{text} {mask}").build(tiny_task(), backbone).words == {"bad": ("bad",), "good": ("good",)}  # the labels' own names
    promptsource = Cloze("{{text}} so ||| {{ answer_choices[label] }}")
    assert promptsource.build(tiny_task(), backbone).words == {"bad": ("bad",), "good": ("good",)}
    entry = "jinja: '{{text}} so {{mask}}'\nanswer_choices: happy ||| bad"  # the order of names says nothing
    assert Cloze(entry).build(tiny_task(), backbone).words == {"bad": ("bad",), "good": ("happy",)}
    assert Cloze(entry).named == ("happy", "bad")


def test_a_file_of_promptsource_becomes_its_text(tmp_path: Path) -> None:
    path = tmp_path / "t.yaml"
    path.write_text("templates:\n  a: !Template\n    name: n\n    jinja: '{{text}} was {{mask}}'\n    answer_choices: happy ||| bad\n")
    value = Cloze(f"promptsource:{path}#n")
    path.unlink()
    assert value.build(tiny_task(), tiny_backbone("bert")).words["good"] == ("happy",)
    assert Recipe.from_yaml(Recipe("r", (Use(framing=value),)).to_yaml()).stages[0].framing == value


def test_a_named_setting_brings_words_limits_and_scale(task_of: TaskOf) -> None:
    backbone = tiny_backbone("bert")
    backbone.tokenizer.add_tokens(["terrible", "yes", "no"])
    backbone.model.resize_token_embeddings(200)
    task = task_of(labels=("negative", "positive"))
    module = Cloze("lm-bff/mr").build(task, backbone)
    assert module.words == {"negative": ("terrible",), "positive": ("great",)} and module.text.limits == (110, 50)
    task = task_of("regression")
    task.train = [Example(("a", "b"), 1.0), Example(("a", "b"), 2.0)]
    value = Cloze("lm-bff/stsb")
    assert value.build(task, backbone).bounds.tolist() == [0.0, 5.0] and value.length() == 128


@pytest.mark.parametrize(
    ("cloze", "expected"),
    [
        (Cloze("{text} it was", words=TONES), r"template '\{text\} it was' has no mask; write \{mask\}"),
        (Cloze("{text} {title} {mask}", words=TONES), "unknown field 'title'"),
        (
            Cloze("{text} {mask}", words={"bad": "bad", "good": "lovely day", "so so": "was"}),
            r"template '\{text\} \{mask\}': label word 'lovely day' of class 'good' is 2 tokens.*verbalizer: multi_mask",
        ),
        (Cloze("{text} {mask}", words={"bad": "bad", "good": "superb", "so so": "was"}), "'superb' of class 'good' is unknown"),
        (Cloze("{text} {mask}", words=("bad", "good")), "words: expected one entry for each of bad, good, so so, found 2"),
        (Cloze("{text} " + "was " * 70 + "{mask}", words=TONES), "its own tokens are 71, and 62 fit beside special ones in 64"),
        (Cloze("lm-bff/sst2"), "its label words are for the classes"),
    ],
)
def test_what_cannot_work_is_refused_with_the_fix(cloze: Cloze, expected: str, task_of: TaskOf) -> None:
    with pytest.raises(RecipeError, match=expected):
        cloze.build(task_of(), tiny_backbone("bert"))


def test_other_refusals(task_of: TaskOf) -> None:
    backbone = tiny_backbone("bert")
    with pytest.raises(RecipeError, match="cannot serve a task of kind 'multilabel'.*use framing head"):
        Cloze().build(task_of("multilabel"), backbone)
    tags = Task.from_examples([Example(("Ada x",), ("B-PER", "O"), words=((0, 3), (4, 5)))] * 3, kind="tagging")
    with pytest.raises(RecipeError, match="cannot serve a task of kind 'tagging'.*use framing cloze_ner, head or text_to_text"):
        Cloze().build(tags, backbone)
    with pytest.raises(RecipeError, match="label 0 is no word.*give words"):
        Cloze().build(task_of(labels=(0, 1)), backbone)
    backbone.tokenizer.mask_token = None
    with pytest.raises(ModelError, match="no mask token; choose an encoder"):
        Cloze(words=TONES).build(task_of(), backbone)
    with pytest.raises(ModelError, match="no masks; use framing text_to_text"):
        Cloze(words=TONES).build(task_of(), tiny_backbone("t5"))
    with pytest.raises(ModelError, match="reads from left to right.*ends with its one mask"):
        Cloze("{text} was {mask} .", words=TONES).build(task_of(), tiny_backbone("gpt2"))
    with pytest.raises(ValidationError, match=r"character 1 is not closed"):
        Cloze("{text it was {mask}")
    with pytest.raises(ValidationError, match="words must map each label to its word"):
        Cloze(words="great")
    with pytest.raises(ValidationError, match="write it in quotes, found 1"):
        Cloze(words={"bad": [1]})
    with pytest.raises(ValidationError, match="expected a verbalizer"):
        Cloze(verbalizer=Full())


def test_nothing_to_train_is_refused_with_the_recipe() -> None:
    with pytest.raises(RecipeError, match="tuning frozen trains nothing.*framing cloze has no weights of its own; use"):
        Recipe("r", (Train(framing=Cloze(), tuning=Frozen()),)).check()
    Recipe("r", (Train(framing=Cloze(verbalizer=Soft()), tuning=Frozen()),)).check()
    soft = Train(framing=Cloze("{text} {soft} {mask}"), tuning=Frozen())
    Recipe("r", (soft,)).check()
    assert not soft.cached and soft.why_not_cached == "vectors inside its prompts are trained"
    assert Train(framing=Cloze(verbalizer=Soft()), tuning=Frozen()).cached
    with pytest.raises(RecipeError, match="weights of its own that would stay as they are drawn"):
        Recipe("r", (Use(framing=Cloze("{text} {soft} {mask}")),)).check()
    Recipe("r", (Use(framing=Cloze("{text} {soft:it was} {mask}")),)).check()


@pytest.mark.parametrize("words", [{"negative": "bad", "positive": "good"}, ("bad", "good", "was"), ()])
def test_a_plan_without_data_goes_by_the_labels_that_have_words(words: Any, tmp_path: Path) -> None:
    from tempering.plan import explain

    template = "{text} it was {mask}"
    for framing in (Cloze(template, words=words or ("bad", "good")), Demonstrations(Cloze(template, words=words or ("bad", "good")))):
        plan = explain(Recipe("r", (Train(framing=framing),)), str(save_tiny("bert", tmp_path / "m")))
        assert plan.stages[0].head_trained == 32 * 32 + 32 + 2 * 32 + 192 and plan.loads_with == ("tempering",)


def test_the_labels_it_names() -> None:
    assert Cloze(words={"a": "x", "b": "y"}).named == ("a", "b") and Cloze(words=("x", "y")).named == ("class 0", "class 1")
    assert Cloze("lm-bff/snli").named == ("contradiction", "neutral", "entailment") and Cloze().named == ()


def test_notes_say_what_was_taken_for_granted() -> None:
    told: list[dict[str, Any]] = []
    quick: dict[str, Any] = {"max_steps": 1, "eval_strategy": "no"}
    Train(framing=Cloze(max_length=12), **quick).run(
        tiny_backbone("bert"), tiny_task(), Seeds.of(0), around=Surroundings(listener=told.append)
    )
    texts = " ".join(event["text"] for event in told if event["event"] == "note")
    assert "no template given: '{text} It was {mask}.' is used" in texts
    assert "holds no weights of a language-model head" in texts
    assert "training rows" in texts and "were shortened to 12 tokens, by truncation longest" in texts


def test_a_text_of_a_pair_that_no_template_shows_is_told(task_of: TaskOf) -> None:
    pair = task_of()
    pair.train = [Example(("a", "b"), "bad")]

    def told(*templates: str, **more: Any) -> list[str]:
        notes = Cloze(templates, words=TONES, **more).build(pair, tiny_backbone("bert")).notes
        return [note for note in notes if "the rows are pairs" in note]

    (note,) = told("{text} it was {mask}")
    assert "'{text} it was {mask}' never shows {text_pair}: the second text is not read" in note
    assert "never shows {one}: the first text is not read" in told("{two} it was {mask}", fields=("one", "two"))[0]
    assert len(told("{text} it was {mask}", "{text} {mask} {text_pair}", "{mask} {text_pair}")) == 2
    assert not told("{text} {mask} {text_pair}")
    pair.train = [Example(("a",), "bad")]
    assert not told("{text} it was {mask}")


def test_the_generic_template_of_a_pair_and_of_a_decoder(task_of: TaskOf) -> None:
    pair = task_of()
    pair.train = [Example(("a", "b"), "bad")]
    assert str(Cloze(words=TONES).build(pair, tiny_backbone("bert")).text.template) == "{text:strip_punct}? {mask}, {text_pair}"
    assert str(Cloze(words=TONES).build(pair, tiny_backbone("gpt2")).text.template) == "{text} {text_pair} It was {mask}"


def test_a_frozen_models_output_is_kept_and_gives_the_same(tmp_path: Path) -> None:
    from tempering.cache import TrunkCache

    stage = Train(
        framing=Cloze("{text} it was {mask}", verbalizer=Soft()), tuning=Frozen(), max_steps=5, learning_rate=1e-2, eval_strategy="no"
    )
    cached = stage.run(tiny_backbone("bert"), tiny_task(), Seeds.of(0), around=Surroundings(cache=TrunkCache(tmp_path)))
    assert stage.cached and cached.record["stage"]["cached"] and list(tmp_path.glob("*.rows.npy"))
    dev = tiny_task().dev.examples
    prompts = [p[0] for p in cached.framing.render(dev, (), np.random.default_rng(0))]
    live = cached.score(prompts).only.logits
    kept = cached.score(prompts, features=TrunkCache(tmp_path).features(cached, prompts)).only.logits
    assert torch.allclose(live, kept, atol=1e-6)


def _tone(rng: random.Random, tone: int) -> str:
    mine = (NEGATIVE, POSITIVE)[tone]
    return " ".join([*rng.choices(WORDS[:6], k=2), *rng.choices(mine[1:4], k=3), "it", "was", mine[0]])


@pytest.fixture(scope="module")
def speaker() -> Backbone:
    """A tiny masked LM that has read sentences in which a text's tone decides the word after "it was"."""
    rng = random.Random(0)
    task = Task.from_examples([Example((_tone(rng, i % 2),), row=i + 1) for i in range(400)])
    backbone = tiny_backbone("modernbert")
    loop: dict[str, Any] = {"learning_rate": 2e-3, "max_steps": 400, "per_device_train_batch_size": 16, "warmup_steps": 0.1}
    stage = Train(framing=MaskedLM(0.2), text="unlabeled", eval_strategy="no", **loop)
    stage.run(backbone, task, Seeds.of(0))
    return backbone


def _labelled(n: int, seed: int) -> list[Example]:
    rng = random.Random(seed)
    return [Example((_tone(rng, i % 2).rsplit(" it was", 1)[0],), ("bad", "good")[i % 2], i + 1) for i in range(n)]


def _accuracy(learner: Learner, rows: list[Example]) -> float:
    return float(np.mean([p.label == e.label for p, e in zip(learner.predictions(rows), rows, strict=True)]))


def test_a_model_that_knows_the_words_needs_no_training_and_few_rows_help(speaker: Backbone) -> None:
    """Zero-shot beats chance by far; tuned on 8 rows the cloze is at least as good, and no worse than a new head on the same rows."""
    task, test = Task.from_examples(_labelled(8, 1), kind="classification"), _labelled(200, 2)
    cloze = Cloze("{text} it was {mask}", words=("bad", "good"))
    zero = _accuracy(Use(cloze).run(copy.deepcopy(speaker), task, Seeds.of(0)), test)
    loop: dict[str, Any] = {"learning_rate": 3e-4, "max_steps": 20, "per_device_train_batch_size": 8, "eval_strategy": "no"}
    few = _accuracy(Train(framing=cloze, **loop).run(copy.deepcopy(speaker), task, Seeds.of(0)), test)
    head = _accuracy(Train(**loop).run(copy.deepcopy(speaker), task, Seeds.of(0)), test)
    assert zero > 0.9 and few >= zero - 0.02 and few >= head


@pytest.mark.parametrize(
    ("name", "template", "words", "rate"),
    [
        ("fixed-lm", "{text} {mask} awful dull", ("bad", "good"), 0.1),  # a prompt that speaks for one class
        ("prompt-and-lm", "{text} {soft:2} {mask}", ("good", "bad"), 1e-3),  # words that say the opposite
    ],
)
def test_trained_prompts_beat_chance_where_the_model_alone_does_not(
    speaker: Backbone, name: str, template: str, words: tuple[str, str], rate: float
) -> None:
    """The strategies that train vectors, beside a model that stands still and one that moves with them."""
    stage = Recipe.load(f"strategy-{name}").stages[-1]
    task, test, body = Task.from_examples(_labelled(32, 1), kind="classification"), _labelled(200, 2), copy.deepcopy(speaker)
    bare = Cloze(template.replace(" {soft:2}", ""), words=words)
    zero = _accuracy(Use(bare).run(copy.deepcopy(speaker), task, Seeds.of(0)), test)
    loop: dict[str, Any] = {"max_steps": 60, "num_train_epochs": 1, "min_steps": 0, "eval_strategy": "no", "head_learning_rate": None}
    framing = dataclasses.replace(stage.framing, template=template, words=words)
    learner = dataclasses.replace(stage, framing=framing, learning_rate=rate, **loop).run(body, task, Seeds.of(0))
    before, after = speaker.model.state_dict(), learner.backbone.model.state_dict()
    assert all(torch.equal(w, after[n]) for n, w in before.items()) is (name == "fixed-lm")
    assert zero < 0.65 and _accuracy(learner, test) > 0.8


def test_a_template_may_call_the_texts_as_their_columns_are_called(tmp_path: Path) -> None:
    """As templates of promptsource and lm-evaluation-harness do; whatever the order of the columns, also after saving and loading."""
    save_masked_lm("bert", tmp_path / "model")
    rows = "".join(f"the film was {['bad', 'good'][i % 2]},it was so,{i % 2}\n" for i in range(40))
    (tmp_path / "rows.csv").write_text(f"premise,claim,label\n{rows}", encoding="utf-8")
    task = Task.from_file(tmp_path / "rows.csv", text="premise", text_pair="claim", dev_fraction=0)
    texts = [e.texts for e in task.train]
    plain, words = Cloze("{text_pair} ? {mask} , {text}", words=("bad", "good")), {"words": ("bad", "good")}
    said = Use(plain).run(Backbone.load(str(tmp_path / "model")), task, Seeds.of(0)).predict_proba(texts)
    for template in (
        "{claim} ? {mask} , {premise}",
        "{{claim}} ? {{mask}} , {{premise}}",
        ("{claim} ? {mask} , {premise}", "{premise} {mask}"),
    ):
        learner = fit(Recipe("r", (Use(Cloze(template, **words)),)), task, str(tmp_path / "model"), output_dir=tmp_path / "run")
        assert learner.record["framing"].fields == ("premise", "claim")
        found = learner.predict_proba(texts)
        assert isinstance(template, tuple) or found == said
        learner.save_pretrained(tmp_path / "saved")
        assert load(tmp_path / "saved").predict_proba(texts) == found
    for odd in ("{claim} {mask} {text}", "{claims} {mask}"):
        with pytest.raises(RecipeError, match="unknown field 'claim"):
            Cloze(odd, **words).build(task, Backbone.load(str(tmp_path / "model")))


@pytest.mark.slow
def test_a_real_model_reads_reviews_without_training() -> None:
    shared = Path(__file__).parents[3] / "shared"
    model, data = shared / "models" / "minilm-mlm", shared / "data" / "sst2"
    if not model.exists() or not data.exists():
        pytest.skip(f"no real weights at {model}, or no data at {data}")
    task = Task.from_file(data)
    assert task.dev is not None
    rows = random.Random(0).sample(list(task.dev.examples), 100)
    learner = Use(Cloze("lm-bff/sst2")).run(Backbone.load(str(model)), task.with_train(range(8)), Seeds.of(0))
    assert _accuracy(learner, rows) > 0.58  # 0.67 when this was written; chance is 0.5
