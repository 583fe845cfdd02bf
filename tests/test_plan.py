"""What `explain` says is what a run does: counts, passes, steps, caching, refusals; and the memory estimate follows its formula."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tempering.contracts import Seeds
from tempering.errors import ModelError, RecipeError
from tempering.fitting import fit
from tempering.footprint import Memory, size_words
from tempering.framings.cloze import Cloze
from tempering.framings.knn_prompting import KNNPrompting
from tempering.framings.masked_lm import MaskedLM
from tempering.framings.output_head import language_head
from tempering.plan import explain, outline, token_lengths
from tempering.recipe import Recipe
from tempering.stages.train import Train
from tempering.tunings.lora import LoRA
from tests.tiny import save_tiny, tiny_examples, tiny_model, tiny_task


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny("bert", tmp_path_factory.mktemp("bert")))


def recipe(name: str, **settings: object) -> Recipe:
    return Recipe.load(name).override({"max_steps": 2, "min_steps": 0, **settings})


def test_the_outline_has_shapes_and_no_weights(bert: str) -> None:
    backbone = outline(bert)
    assert {p.device.type for p in backbone.parameters()} == {"meta"}
    assert backbone.max_length == 64
    assert backbone.blocks[0] is not None and backbone.top == 3


def test_no_weight_is_read(tmp_path: Path) -> None:
    folder = save_tiny("bert", tmp_path / "bert")
    whole = explain("lora", str(folder)).as_dict()
    (folder / "model.safetensors").unlink()
    assert explain("lora", str(folder)).as_dict() == whole


@pytest.mark.parametrize("name", ["full", "head", "top-layers", "bitfit", "lora", "pfeiffer", "mixout", "r-drop", "self-distillation"])
def test_counts_steps_and_passes_are_those_of_the_run(name: str, bert: str) -> None:
    task = tiny_task(24)
    plan = explain(recipe(name), bert, task)
    learner = fit(recipe(name), task, bert)
    (stage,) = plan.stages
    trained = learner.trained()
    inside = sum(w.numel() for n, w in trained.items() if n.startswith("backbone.model."))
    assert (stage.backbone_trained, stage.head_trained) == (inside, sum(w.numel() for w in trained.values()) - inside)
    assert stage.steps == learner.record["stage"]["steps"] == 2
    assert (stage.students + stage.teachers + stage.perturbed) * 2 == learner.record["stage"]["passes"]
    assert stage.cached == learner.record["stage"]["cached"] == (not stage.why_not_cached)
    assert stage.backbone_trained == Recipe.load(name).stages[0].tuning.count(outline(bert))
    assert stage.memory.weights == 4 * learner.record["total_parameters"]


def test_two_stages_are_planned_one_after_the_other(bert: str) -> None:
    plan = explain("tapt-lora", bert, tiny_task(40))
    adapt, tune = plan.stages
    assert adapt.backbone_trained == plan.parameters and tune.backbone_trained < plan.parameters / 10
    assert adapt.rows == 38 and tune.rows == 40  # one text in twenty is held out of the first
    assert "stage 2 of 2: framing head, tuning lora" in plan.lines()


def test_passes_are_told_apart(bert: str) -> None:
    both = Recipe.load("r-drop").override({"stabilizers": ["r_drop", "self_distillation"]})
    (stage,) = explain(both, bert).stages
    assert (stage.students, stage.teachers, stage.perturbed) == (2, 1, 0)
    assert "  forward passes a step: 3 (2 student, 1 teacher)" in explain(both, bert).lines()
    neutral = Recipe.load("r-drop").override({"stabilizers.0.alpha": 0})
    assert explain(neutral, bert).stages[0].students == 1


def test_passes_are_those_of_a_whole_step(bert: str) -> None:
    """With three micro-batches a step three times as many: counted in a run of two steps over two epochs of 24 rows."""
    thrice = recipe("r-drop", gradient_accumulation_steps=3, per_device_train_batch_size=8)
    plan = explain(thrice, bert, tiny_task(24))
    assert "  forward passes a step: 6 (6 student, 3 micro-batches)" in plan.lines()
    assert plan.as_dict()["stages"][0]["passes"] == 6 == thrice.stages[0].passes_per_step
    assert fit(thrice, tiny_task(24), bert).record["stage"]["passes"] == 2 * 6


def test_lines_and_json_say_the_same(bert: str) -> None:
    plan = explain("head", bert, tiny_task(24))
    found = json.loads(json.dumps(plan.as_dict()))
    assert found["stages"][0]["passes"] == 1 and found["stages"][0]["share"] == 0
    assert found["stages"][0]["memory"]["total"] == plan.stages[0].memory.total
    text = "\n".join(plan.lines())
    assert "computed once and its output kept: yes" in text
    assert "24 training rows" in text and "without data" not in text
    assert "without data" in "\n".join(explain("head", bert).lines())


def test_the_reason_against_the_cache_is_said(bert: str) -> None:
    assert "no, tuning lora trains weights of the backbone" in "\n".join(explain("lora", bert).lines())


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("mixout", {"tuning": "lora"}, "trains none of those"),
        ("mixout", {"gradient_checkpointing": True}, "gradient_checkpointing"),
        ("lora", {"tuning.r": 1000}, "r = 1000"),
    ],
)
def test_a_recipe_that_cannot_work_is_refused(name: str, settings: dict[str, object], said: str, bert: str) -> None:
    with pytest.raises((RecipeError, ModelError), match=said):
        explain(Recipe.load(name).override(settings), bert)


def test_a_family_that_cannot_serve_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="share one set of weights"):
        explain("top-layers", str(save_tiny("albert", tmp_path / "albert")))
    with pytest.raises(ModelError, match="there is no such folder"):
        explain("full", str(tmp_path / "nowhere" / "model"))


@pytest.mark.parametrize("family", ["distilbert", "gpt2", "llama", "t5"])
def test_every_kind_of_family_has_a_plan(family: str, tmp_path: Path) -> None:
    plan = explain("full", str(save_tiny(family, tmp_path / family)), tiny_task(24, "regression"))
    assert plan.stages[0].backbone_trained == plan.parameters > 0
    assert (plan.family, plan.blocks, plan.width) == (family, 2, 32)


def test_copies_of_weights_are_counted_from_the_methods_themselves(bert: str) -> None:
    plain = explain("full", bert).stages[0]
    trained = 4 * (plain.backbone_trained + plain.head_trained)
    assert plain.memory.copies == trained  # the best weights so far
    assert explain(Recipe.load("full").override({"load_best_model_at_end": False}), bert).stages[0].memory.copies == 0
    four = Recipe.load("self-distillation").override({"stabilizers.0.k": 4})
    assert explain(four, bert).stages[0].memory.copies == 6 * trained  # and the weights of four steps and now
    maps = 4 * sum(m.weight.numel() for m in outline(bert).modules() if isinstance(m, torch.nn.Linear))
    assert explain("mixout", bert).stages[0].memory.copies == trained + 2 * maps  # where they started, and the mixture of one pass


def test_activations_follow_the_formula(bert: str) -> None:
    n, d, f, a = 64, 32, 64, 2
    block = n * (10 * d + 3 * f + 4 * a * n)
    assert explain("full", bert).stages[0].memory.activations == 4 * 16 * block * 2
    assert explain("r-drop", bert).stages[0].memory.activations == 4 * 16 * block * 4
    assert explain("self-distillation", bert).stages[0].memory.activations == 4 * 16 * block * 3
    assert explain(Recipe.load("top-layers").override({"tuning.k": 1}), bert).stages[0].memory.activations == 4 * 16 * block
    head = explain("head", bert, tiny_task(24)).stages[0].memory
    assert head.texts == 64 and head.features == 4 * 24 * d


def test_memory_in_words() -> None:
    memory = Memory(weights=2**30, gradients=2**20, optimizer=0, copies=0, activations=2**10, features=0, texts=8)
    assert memory.total == 2**30 + 2**20 + 2**10
    said = "about 1.0 GB (1.0 GB weights, 1 MB gradients, 1 KB activations of 8 texts of 5 tokens), Python and its libraries not counted"
    assert memory.words(5) == said
    assert size_words(1536 * 2**20) == "1.5 GB"


def test_token_lengths_are_uncut_and_count_pairs(bert: str) -> None:
    backbone = outline(bert)
    one = tiny_examples(1)[0]
    words = len(one.texts[0].split())
    long = replace(one, texts=("good " * 200,))
    assert token_lengths(backbone, [one, long]) == [words + 2, 202]
    assert token_lengths(backbone, [replace(one, texts=("good", "bad film"))]) == [6]
    assert token_lengths(backbone, []) == []


def test_planning_draws_nothing_from_the_global_generator(bert: str) -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    explain("tapt-lora", bert)
    assert torch.equal(torch.rand(2), expected) and Seeds.of(0) == Seeds(0, 1, 2, 3)


@pytest.mark.parametrize("name", ["prompt-tuning", "p-tuning"])
def test_a_prompt_counts_in_the_tokens(name: str, bert: str) -> None:
    task = tiny_task(24)
    plain, led = (explain(Recipe.load(n), bert, task).stages[0] for n in ("lora", name))
    p = Recipe.load(name).stages[0].tuning.p
    longest = max(token_lengths(outline(bert), task.train.examples))
    assert (plain.tokens, led.tokens) == (longest, longest + p)
    assert explain(name, bert).stages[0].tokens == 64  # with the prompt, what positions there are
    assert led.memory.activations > plain.memory.activations * (longest + p) / longest


def test_a_bank_that_all_blocks_read_is_not_above_them(bert: str) -> None:
    """The changes of a sparse tuning hang beside the blocks: gradients pass through all of these, as in full."""
    per_text = [explain(Recipe.load(name), bert).stages[0].memory for name in ("full", "fish", "vera")]
    assert len({m.activations // m.texts for m in per_text}) == 1


@pytest.mark.parametrize(
    ("name", "changes", "field"),
    [
        ("fusion", {"tuning.adapters": ["gone", "away"]}, "fusion.adapters.0"),
        ("madx", {"tuning.language": "gone"}, "madx.language"),
        ("prompt-tuning", {"tuning": {"prompt_tuning": {"init": "file", "file": "gone"}}}, "gone"),
    ],
)
def test_folders_that_are_missing_are_refused(name: str, changes: dict[str, object], field: str, bert: str) -> None:
    with pytest.raises(ModelError, match=f"{field}.*no tempering.json there"):
        explain(Recipe.load(name).override(changes), bert)


def test_folders_that_fit_are_let_through(bert: str, tmp_path: Path) -> None:
    for name in ("one", "two"):
        fit(recipe("pfeiffer"), tiny_task(24), bert).save_pretrained(tmp_path / name)
    found = {"tuning.adapters": [str(tmp_path / "one"), str(tmp_path / "two")]}
    same = {"tuning.reduction": Recipe.load("pfeiffer").stages[0].tuning.reduction}
    assert explain(Recipe.load("fusion").override(found | same), bert).stages[0].backbone_trained == 2 * (3 * 32 * 32 + 2 * 32)
    with pytest.raises(ModelError, match="holds adapters of width"):
        explain(Recipe.load("fusion").override(found | {"tuning.reduction": 2}), bert)


def test_demonstrations_count_in_the_tokens(tmp_path: Path) -> None:
    model, task = str(save_tiny("gpt2", tmp_path / "gpt2")), tiny_task(24)
    none, some, many = (explain(Recipe.load("in-context").override({"framing.shots": n}), model, task).stages[0].tokens for n in (0, 1, 30))
    assert max(token_lengths(outline(model), task.train.examples)) < none < some < many == 64  # what does not fit is dropped


def test_what_a_framing_takes_for_granted_is_told_before(bert: str, tmp_path: Path) -> None:
    task = tiny_task()
    rows = tuple(replace(e, texts=(e.texts[0], "a film")) for e in task.train)
    pairs = replace(task, train=replace(task.train, examples=rows), dev=None, test=None)
    notes = explain(recipe("cloze", **{"framing.template": "{text} it was {mask}"}), bert, pairs).notes
    assert [note.partition(": stages.0: ")[2][:40] for note in notes] == [
        "the rows are pairs, and template '{text}",
        f"{bert} holds no weights of a language-model head"[:40],
    ]
    assert any("no template given" in note for note in explain("cloze", bert, task).notes)


@pytest.mark.parametrize("framing", [Cloze(), KNNPrompting(shots=1, k=1)], ids=lambda framing: type(framing).__name__)
def test_a_head_that_an_earlier_stage_has_trained_is_not_called_random(framing: Any, tmp_path: Path) -> None:
    """Neither in the plan nor in the run nor in one that goes on after the first stage; one that LoRA left as drawn is."""
    body, task = str(save_tiny("bert", tmp_path / "body")), tiny_task(24)
    last = Train(framing=framing, max_steps=1)
    trained = Train(framing=MaskedLM(), max_steps=1, text="unlabeled")
    asleep = Train(framing=Cloze(), tuning=LoRA(), max_steps=1)
    where: dict[str, Any] = {"output_dir": tmp_path / "run", "resume": True}
    for stages, told, times in (((last,), True, 1), ((asleep, last), True, 1), ((trained, last), False, 2)):
        made, notes = Recipe("r", stages), []
        for _ in range(times):
            said: list[str] = []
            fit(made, task, body, listener=lambda event, said=said: said.append(str(event.get("text", ""))), **(where if times > 1 else {}))
            notes.append(said)
        plan = [note for note in explain(made, body, task).notes if f"stages.{len(stages) - 1}" in note]
        for said in (*notes, plan) if isinstance(framing, Cloze) else notes:
            assert any("mean nothing yet" in note or "answers are as random" in note for note in said) == told


@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert", "llama"])
def test_a_head_that_the_checkpoint_holds_is_seen_without_its_weights(family: str, tmp_path: Path) -> None:
    """Of a body a head would be drawn, which is told of; where the weights are not on this machine, nothing is known, and nothing said."""
    causal = family == "llama"
    loader = "AutoModelForCausalLM" if causal else "AutoModelForMaskedLM"
    body, whole = save_tiny(family, tmp_path / "body"), save_tiny(family, tmp_path / "whole")
    state = {name: weight.clone() for name, weight in tiny_model(family, loader=loader).state_dict().items()}
    save_file({name: weight for name, weight in state.items() if name != "lm_head.decoder.weight"}, whole / "model.safetensors")
    if causal:  # a matrix of its own, which is too large in a real model to be read for a plan
        for folder in (body, whole):
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}), encoding="utf-8")

    def drawn(folder: Path) -> bool:
        before, backbone = torch.get_rng_state(), outline(str(folder))
        head = language_head(backbone)
        assert {p.device.type for p in head.parameters()} == {"meta"} and before.equal(torch.get_rng_state())
        told = any("drawn at random" in note for note in explain("cloze", str(folder), tiny_task(24)).notes) if not causal else head.fresh
        assert told == head.fresh
        return told

    assert drawn(body) and not drawn(whole)
    (body / "model.safetensors").unlink()
    assert not drawn(body)
