"""Every kind of task as text: targets written and read back, learned by a tiny model, saved and loaded."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import tempering
from tempering.backbone import Backbone
from tempering.contracts import Example, Seeds
from tempering.errors import ModelError, RecipeError
from tempering.fitting import fit
from tempering.framings.head import Head
from tempering.framings.text_to_text import TextToText
from tempering.framings.writing.linear import linear, locate, parse
from tempering.framings.writing.targets import Names, Values, targets_of
from tempering.learner import Learner
from tempering.plan import explain
from tempering.recipe import Recipe
from tempering.saving import loads_with
from tempering.stages.setup import assemble
from tempering.stages.train import Train
from tempering.stages.use import Use
from tempering.streams import seeds_before
from tempering.tags import joined
from tempering.tasks.task import Task
from tempering.tunings.full import Full
from tempering.tunings.houlsby import Houlsby
from tempering.tunings.ia3 import IA3
from tempering.tunings.lora import LoRA
from tests.tiny import WORDS, save_tiny, tiny_backbone, tiny_examples, tiny_task, tiny_tokenizer

TOKENS = ["Ada", "Lovelace", "saw", "New", "York", ",", "not", "York", "."]
TEXT, PLACES = joined(TOKENS)
TAGS = ("B-PER", "I-PER", "O", "B-LOC", "I-LOC", "O", "O", "B-LOC", "O")


def test_entities_are_written_in_their_order_and_read_back() -> None:
    example = Example((TEXT,), TAGS, 1, PLACES)
    said = linear(example, TAGS)
    assert said == "PER: Ada Lovelace; LOC: New York; LOC: York"
    found = parse(said, example, ("LOC", "PER"), "IOB2")
    assert found.tags == TAGS and (found.broken, found.lost) == (0, 0)
    assert [(TEXT[s.start : s.end], s.label) for s in found.spans] == [("Ada Lovelace", "PER"), ("New York", "LOC"), ("York", "LOC")]
    assert linear(example, ("O",) * 9) == "none" and parse("none", example, ("LOC",), "IOB2").tags == ("O",) * 9


@pytest.mark.parametrize(
    ("said", "tags", "broken", "lost"),
    [
        ("loc: new  york", {3: "B-LOC", 4: "I-LOC"}, 0, 0),  # case and spaces aside
        ("LOC: York; LOC: York", {4: "B-LOC", 7: "B-LOC"}, 0, 0),  # each from where the last ended
        ("LOC: Paris; PER: Ada", {0: "B-PER"}, 0, 1),
        ("ORG: Ada; PER Ada; PER: ", {}, 3, 0),
        ("PER: Ad", {}, 0, 1),  # a part of a word
        ("LOC: York; PER: Ada", {4: "B-LOC"}, 0, 1),  # out of order
        ("", {}, 0, 0),
    ],
)
def test_what_is_not_as_asked_is_dropped_and_counted(said: str, tags: dict[int, str], broken: int, lost: int) -> None:
    found = parse(said, Example((TEXT,), None, 1, PLACES), ("LOC", "PER"), "IOB2")
    assert found.tags == tuple(tags.get(i, "O") for i in range(9)) and (found.broken, found.lost) == (broken, lost)


def test_places_are_found_through_any_white_space() -> None:
    assert locate("a  b\tc", ["b", "c"]) == (3, 6) and locate("abc", ["b", "x"]) is None and locate("aab", ["a", "b"]) == (1, 3)


def test_numbers_are_rounded_as_t5_rounds_them() -> None:
    values = Values(0.2, 0.0, 5.0)
    assert [values.at(x) for x in (0.0, 2.57, 3.1, 4.91, -0.05)] == ["0.0", "2.6", "3.2", "5.0", "0.0"]
    assert len(values.choices()) == 26 and values.choices()[:3] == ["0.0", "0.2", "0.4"] and values.choices()[-1] == "5.0"
    row = Example(("a",))
    assert [values.read(said, row).label for said in ("3.4", "9", "-1", "nan", "many")] == [3.4, 5.0, 0.0, 2.5, 2.5]
    assert values.missed == {"no number": 2}
    assert Values(1.0, 1, 3).choices() == ["1", "2", "3"] and Values(0.25, 0, 0.5).choices() == ["0.00", "0.25", "0.50"]


def test_words_of_classes() -> None:
    names = Names.of((0, 1), {"0": "Not Good", "1": "good"})
    row = Example(("a",), 1)
    assert names.text(row) == "good" and [names.read(s, row).label for s in ("good", " not  good", "fine")] == [1, 0, "fine"]
    assert names.missed == {"no label": 1}
    sets = targets_of(tiny_task(8, "multilabel"), {}, 0.2)
    assert sets.text(Example(("a",), ("long", "good"))) == "good, long" and sets.text(Example(("a",), ())) == "none"
    assert [sets.read(s, row).label for s in ("long, good", "none", "good,x")] == [("good", "long"), (), ("good",)]


@pytest.mark.parametrize(("labels", "key"), [(("false", "true"), True), ((False, True), "true"), ((0, 1), 1.0), (("0", "1"), 1)])
def test_words_are_found_however_yaml_reads_the_label(labels: tuple[Any, ...], key: Any) -> None:
    framing = TextToText(words={key: "yes"})
    assert Names.of(labels, dict(framing.words)).words == (str(labels[0]), "yes") and framing.named == (str(key),)
    with pytest.raises(RecipeError, match="both name class"):
        Names.of(labels, {key: "yes", str(labels[1]): "no"} if str(labels[1]) != key else {key: "yes", labels[1]: "no"})


@pytest.mark.parametrize("mark", [":", ";"])
def test_types_that_could_not_be_read_again_are_refused(mark: str) -> None:
    task = replace(tiny_task(8, "tagging"), labels=("O", f"B-art{mark}work"))
    with pytest.raises(RecipeError, match=f"entities of type 'art{mark}work'.*another name in the data, or use framing token_head"):
        targets_of(task, {}, 0.2)


def test_answers_are_looked_up_in_the_context() -> None:
    task = Task("t", "question_answering", (), None)  # type: ignore[arg-type]
    answers = targets_of(task, {}, 0.2)
    row = Example(("where?", "She saw New  York."), ((8, "New  York"), (0, "She")))
    assert answers.text(row) == "New  York" and answers.text(Example(row.texts, ())) == "none"
    found = answers.read("new york", row)
    assert (found.label, found.spans[0][:2]) == ("New  York", (8, 17))
    assert answers.read("none", row).label == "" and answers.read("Paris", row).label == "Paris"
    assert answers.missed == {"not in the text": 1}


def trained(task: Task, family: str, tuning: Any = Full(), steps: int = 100, rate: float = 3e-3, **given: Any) -> Learner:  # noqa: B008
    stage = Train(
        framing=TextToText(**given),
        tuning=tuning,
        max_steps=steps,
        num_train_epochs=1,
        per_device_train_batch_size=16,
        learning_rate=rate,
        warmup_steps=0.1,
        eval_strategy="no",
        load_best_model_at_end=False,
    )
    return stage.run(tiny_backbone(family), task, Seeds.of(0))


def accuracy(found: Learner, rows: Any) -> float:
    return sum(p.label == e.label for p, e in zip(found.predictions(rows), rows, strict=True)) / len(rows)


@pytest.mark.parametrize(
    ("family", "tuning", "given"),
    [
        ("t5", Full(), {"steps": 150, "rate": 1.5e-2}),
        ("bart", Full(), {"steps": 60, "rate": 1e-2}),
        ("gpt2", Full(), {"steps": 220, "answers": "trie"}),
        ("bart", Full(), {"steps": 60, "losses": ("lm", "unlikelihood", "length_norm"), "length_norm": 1.0}),
    ],
)
def test_a_class_is_learned_from_its_words(family: str, tuning: Any, given: dict[str, Any]) -> None:
    task = tiny_task(192)
    assert accuracy(trained(task, family, tuning, **given), task.dev.examples) > 0.8  # type: ignore[union-attr]


def test_a_text_is_learned_as_it_is_written() -> None:
    """The target is the source's first word, twice."""
    rng = random.Random(0)
    rows = [Example((" ".join(words := rng.choices(WORDS[:6], k=3)),), f"{words[0]} {words[0]}") for _ in range(220)]
    task = Task.from_examples(rows[:200], dev=rows[200:], kind="text")
    found = trained(task, "bart", steps=150, max_target_length=8)
    assert accuracy(found, rows[200:]) > 0.8


@pytest.mark.parametrize("kind", ["regression", "multilabel"])
def test_numbers_and_sets_are_learned(kind: str) -> None:
    """With byte pairs: digits and commas are tokens."""
    task = tiny_task(96, kind)
    found = trained(task, "qwen2", steps=120, max_target_length=24)
    predictions = [p.label for p in found.predictions(task.dev.examples)]  # type: ignore[union-attr]
    gold = [e.label for e in task.dev.examples]  # type: ignore[union-attr]
    if kind == "regression":
        assert sum(abs(a - b) for a, b in zip(predictions, gold, strict=True)) / len(gold) < 0.35
    else:
        assert sum(("good" in a) == ("good" in b) for a, b in zip(predictions, gold, strict=True)) / len(gold) > 0.8


def test_answers_stay_within_the_context() -> None:
    rows = [Example(("which word?", e.texts[0]), ((0, e.texts[0].split()[0]),)) for e in tiny_examples(12)]
    task = Task("qa", "question_answering", (), type(tiny_task(4).train)("train", tuple(rows)))
    found = assemble(Use(TextToText(answers="trie")), tiny_backbone("t5"), task, Seeds.of(0)).eval()
    for row, prediction in zip(rows, found.predictions(rows), strict=True):
        assert prediction.label in row.texts[1] and (prediction.spans or prediction.label == "")


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bases")
    for family in ("t5", "bart", "gpt2", "llama", "qwen2"):
        save_tiny(family, folder / family)
    return folder


QUICK: dict[str, Any] = {"max_steps": 2, "num_train_epochs": 1, "per_device_train_batch_size": 8, "learning_rate": 1e-2, "warmup_steps": 0}


@pytest.mark.parametrize("family", ["t5", "bart", "gpt2", "llama"])
@pytest.mark.parametrize("tuning", [Full(), LoRA(r=2), IA3(), Houlsby(m=4)], ids=lambda t: type(t).__name__)
def test_what_was_trained_comes_back(family: str, tuning: Any, bases: Path, tmp_path: Path) -> None:
    stage = Train(framing=TextToText(num_beams=2, answers="trie", max_target_length=6), tuning=tuning, **QUICK)
    found = fit(Recipe("test", (stage,)), tiny_task(24), str(bases / family))
    rows = tiny_examples(5)
    found.save_pretrained(tmp_path)
    back = tempering.load(tmp_path)
    assert back.predictions(rows) == found.predictions(rows)
    auto = transformers.AutoModelForCausalLM if family in ("gpt2", "llama") else transformers.AutoModelForSeq2SeqLM
    other = {Full: ["transformers"], Houlsby: []}.get(type(tuning), ["peft"])
    assert loads_with(found) == [*other, "tempering"]
    if isinstance(tuning, Full):
        assert auto.from_pretrained(tmp_path).config.architectures == json.loads((tmp_path / "config.json").read_text())["architectures"]


def test_a_range_of_values_comes_back(bases: Path, tmp_path: Path) -> None:
    stage = Train(framing=TextToText(), tuning=LoRA(r=2), **QUICK)
    found = fit(Recipe("test", (stage,)), tiny_task(24, "regression"), str(bases / "qwen2"))
    found.save_pretrained(tmp_path)
    back = tempering.load(tmp_path)
    assert back.framing.choices == found.framing.choices and len(back.framing.choices) > 3
    rows = tiny_examples(4, "regression")
    assert back.predictions(rows) == found.predictions(rows)


def test_a_stage_before_leaves_its_encoder_under_the_decoder(bases: Path, tmp_path: Path) -> None:
    first = Train(framing=Head(), tuning=Full(), **QUICK)
    found = fit(Recipe("two", (first, Train(framing=TextToText(), tuning=LoRA(r=2), **QUICK))), tiny_task(24), str(bases / "t5"))
    one = first.run(Backbone.load(str(bases / "t5")), tiny_task(24), seeds_before(Seeds.of(0), 0))
    name = "encoder.block.0.layer.0.SelfAttention.q.weight"
    assert torch.equal(found.backbone.model.get_parameter(name), one.backbone.model.get_parameter(name))
    found.save_pretrained(tmp_path)
    assert tempering.load(tmp_path).predictions(tiny_examples(3)) == found.predictions(tiny_examples(3))


def test_a_checkpoint_of_the_encoder_alone_is_refused(tmp_path: Path) -> None:
    backbone = tiny_backbone("t5")
    backbone.model.save_pretrained(tmp_path)
    tiny_tokenizer("t5").save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"holds the encoder alone.*take the whole model"):
        Backbone.load(str(tmp_path)).open_decoder()
    with pytest.raises(ModelError, match="has no decoder to load"):
        tiny_backbone("bert").open_decoder()


@pytest.mark.parametrize(("family", "scaled"), [("t5", True), ("t5", False), ("mt5", False)])
def test_an_output_matrix_of_its_own_is_read_and_scaled_as_the_family_does(family: str, scaled: bool, tmp_path: Path) -> None:
    """T5 scales and ties; T5 1.1 and mT5 do neither, which transformers 5 knows by the checkpoint alone."""
    save_tiny(family, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | {"tie_word_embeddings": scaled, "scale_decoder_outputs": scaled}
    config = {k: v for k, v in config.items() if k != "scale_decoder_outputs"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    assert getattr(model.config, "scale_decoder_outputs", False) == scaled
    if not scaled:
        from safetensors.torch import load_file, save_file

        stored = load_file(tmp_path / "model.safetensors")
        stored["lm_head.weight"] = torch.randn(model.lm_head.weight.shape, generator=torch.Generator().manual_seed(0))
        save_file(stored, tmp_path / "model.safetensors", {"format": "pt"})
        model = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    found = assemble(Use(TextToText()), Backbone.load(str(tmp_path)), tiny_task(8), Seeds.of(0)).eval()
    backbone, ids = found.backbone, torch.tensor([[8, 9, 10, 5]])
    with torch.no_grad():
        states = backbone.decoded(ids, backbone.memory({"input_ids": ids}))
        mine = found.framing.logits(backbone, states[0])
        theirs = model.eval()(input_ids=ids, decoder_input_ids=ids).logits[0]
    torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)
    assert (backbone.lm_head.own is not None) == (not scaled)  # type: ignore[union-attr]


def test_a_plan_counts_the_decoder_too(bases: Path) -> None:
    recipe = Recipe("test", (Train(framing=TextToText(), tuning=IA3()),))
    plan = explain(recipe, str(bases / "t5"))
    whole = tiny_backbone("t5")
    whole.open_decoder()
    assert plan.parameters == sum(p.numel() for p in whole.model.parameters())
    assert plan.stages[0].backbone_trained == 2 * (2 * 32 + 64) + 2 * (4 * 32 + 64) == IA3().count(whole)
    assert plan.stages[0].head_trained == 0 and plan.blocks == 4
    worded = Recipe("test", (Train(framing=TextToText(words={"good": "great", "bad": "sad"}), tuning=IA3()),))
    assert explain(worded, str(bases / "t5")).parameters == plan.parameters


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ("war, peace", "label 'war, peace' would be written 'war, peace', but a comma stands between the labels of a row"),
        ("None", "label 'None' would be written 'None', but 'none' stands for a row without labels"),
    ],
)
def test_a_label_that_no_list_of_labels_can_hold_is_refused_before_training(label: str, said: str, tmp_path: Path) -> None:
    rows = [Example(e.texts, ("a", label) if i % 2 else ("a",), i) for i, e in enumerate(tiny_examples(8))]
    task, model = Task.from_examples(rows, kind="multilabel"), str(save_tiny("t5", tmp_path))
    chosen = Recipe("t", (Train(framing=TextToText(), max_steps=1),))
    for run in (fit, lambda recipe, task, model: explain(recipe, model, task)):
        with pytest.raises(RecipeError, match=re.escape(said)) as error:
            run(chosen, task, model)
        assert f'words: {{"{label}": ...}}' in str(error.value)
    sets = targets_of(task, {label: "other"}, 0.2)
    assert set(sets.read(sets.text(rows[1]), rows[1]).label) == {"a", label}
    assert targets_of(Task.from_examples([Example(("t",), label), Example(("t",), "a")], kind="classification"), {}, 0.2)


def test_rows_of_several_labels_are_written_whole_or_refused() -> None:
    task, backbone, words = tiny_task(8, "multilabel"), tiny_backbone("t5"), {"long": "very"}
    found = TextToText(words=words, max_target_length=4).build(task, backbone)
    assert len(found.ids("good, very")) == 4 and found.ids("good, very")[-2:] == found.ids("very")
    with pytest.raises(RecipeError, match=r"'good, very' takes 4 tokens .* more than max_target_length=3; give max_target_length=4"):
        TextToText(words=words, max_target_length=3).build(task, backbone)
    with pytest.raises(
        RecipeError, match=r"'very \[PAD\] good', written for label 'long', reads 'very good' once .*as in  words: \S+ \.\.\.\}$"
    ):
        TextToText(words={"long": "very [PAD] good"}).build(task, backbone)
    with pytest.raises(RecipeError, match="'long', written for label 'long', is no word of this model's tokenizer"):
        TextToText().build(task, backbone)
