"""Text-to-text: scores against a calculation by hand and against transformers' own classes, losses, tries, and what is refused."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import save_file
from tokenizers import AddedToken

from tempering.backbone import Backbone
from tempering.contracts import Batch, Example, Seeds
from tempering.errors import DataError, ModelError, RecipeError
from tempering.fitting import fit
from tempering.framings.output_head import ensure_output_head
from tempering.framings.text_to_text import TextToText
from tempering.framings.writing import labels, states
from tempering.framings.writing.base import CUE
from tempering.framings.writing.encoding import Encoder
from tempering.framings.writing.losses import length_norm, lm, unlikelihood
from tempering.framings.writing.source import Source
from tempering.framings.writing.states import writes
from tempering.framings.writing.trie import Stretches, Trie, allowing
from tempering.learner import Learner
from tempering.recipe import Recipe
from tempering.stabilizers.layer_decay import LayerDecay
from tempering.stabilizers.neftune import NEFTune
from tempering.stabilizers.r_drop import RDrop
from tempering.stages.setup import assemble
from tempering.stages.train import Train
from tempering.stages.use import Use
from tempering.tasks.task import Split, Task
from tests.tiny import tiny_backbone, tiny_examples, tiny_model, tiny_task, tiny_tokenizer

WRITERS = ("t5", "bart", "gpt2", "llama", "qwen2")
LABELS = {"bad": "very bad", "good": "good"}  # of two tokens and of one


def learner(framing: TextToText, family: str = "t5", task: Any = None) -> Learner:
    backbone = tiny_backbone(family)
    return assemble(Use(framing), backbone, task or tiny_task(24), Seeds.of(0)).eval()


def batch_of(module: Any, examples: list[Example]) -> Batch:
    prompts = [found[0] for found in module.render(examples, (), np.random.default_rng(0))]
    found: Batch = module.collate(prompts, np.random.default_rng(0))
    return found


def reference(backbone: Backbone) -> Any:
    """transformers' own class with the backbone's weights, built apart from our assembly."""
    auto = transformers.AutoModelForSeq2SeqLM if backbone.opened else transformers.AutoModelForCausalLM
    model = auto.from_config(backbone.config).eval()
    prefix = {"t5": "", "bart": "model.", "gpt2": "transformer."}.get(backbone.layout.family, "model.")
    model.load_state_dict({f"{prefix}{n}": t for n, t in backbone.model.state_dict().items()}, strict=False)
    head: Any = backbone.lm_head
    if head.own is not None:
        model.lm_head.weight.data = head.own.weight.data
    return model


@torch.no_grad()
def by_hand(found: Learner, example: Example, choice: list[int]) -> float:
    """log P(choice | source), token by token."""
    module, model = found.framing, reference(found.backbone)
    (source,) = module.source.encode([example])
    total = 0.0
    for t, token in enumerate(choice):
        if found.backbone.opened:
            before = [model.config.decoder_start_token_id, *choice[:t]]
            logits = model(input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor([before])).logits
        else:
            logits = model(input_ids=torch.tensor([[*source, *choice[:t]]])).logits
        total += float(logits[0, -1].log_softmax(-1)[token])
    return total


@pytest.mark.parametrize("family", WRITERS)
def test_likelihoods_are_those_of_transformers_token_by_token(family: str) -> None:
    """In a padded batch, against one token at a time without padding."""
    found, rows = learner(TextToText(words=LABELS, length_norm=0.0), family), tiny_examples(3)
    assert [len(ids) for ids in found.framing.choices] != [2, 2]
    batch = batch_of(found.framing, rows)
    assert "attention_mask" in batch.inputs
    with torch.no_grad():
        logits = found(batch).only.logits[0]
    for row, mine in zip(rows, logits, strict=True):
        theirs = [by_hand(found, row, choice) for choice in found.framing.choices]
        assert mine.tolist() == pytest.approx(theirs, abs=2e-4)


@pytest.mark.parametrize("family", ["t5", "gpt2"])
def test_one_token_is_an_entry_of_the_softmax(family: str) -> None:
    found = learner(TextToText(length_norm=0.0), family)
    batch = batch_of(found.framing, tiny_examples(2))
    with torch.no_grad():
        slab = found(batch).only
        first = [ids[0] for ids in found.framing.choices]
        whole = found.framing.logits(found.backbone, found.framing.trunk(found.backbone, batch)).softmax(-1)
    assert slab.steps is not None
    torch.testing.assert_close(slab.steps[:, [0, len(found.framing.choices[0])]].exp(), whole[:, first], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("family", [family for family in WRITERS if family not in ("t5", "bart")])
@pytest.mark.parametrize("kept", [1, 10**6])
def test_a_causal_model_reads_a_source_once_for_all_its_labels(family: str, kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same scores from fewer tokens, however many sources are copied at once; and as before where a tuning stands in the body."""
    words = {"bad": "very very bad", "good": "good"}
    found, rows = learner(TextToText(words=words, length_norm=0.0), family), tiny_examples(3)
    batch = batch_of(found.framing, rows)
    monkeypatch.setattr(states, "KEPT_TOKENS", kept)
    read: list[int] = []
    found.backbone.embeddings.register_forward_hook(lambda _m, args, _out: read.append(args[0].numel()))
    with torch.no_grad():
        once = found(batch).only
        few, _ = sum(read), read.clear()
        monkeypatch.setattr(states, "cacheable", lambda _: False)
        whole = found(batch).only
    assert few < 0.75 * sum(read)
    torch.testing.assert_close(once.logits, whole.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(once.features, whole.features, atol=1e-4, rtol=1e-4)


def test_scores_in_parts_are_the_same_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    found = learner(TextToText(words=LABELS))
    batch = batch_of(found.framing, tiny_examples(5))
    with torch.no_grad():
        whole = found(batch).only
        monkeypatch.setattr("tempering.framings.writing.labels.TOKENS", 1)
        parts = found(batch).only
    torch.testing.assert_close(whole.logits, parts.logits)
    torch.testing.assert_close(whole.steps, parts.steps)


@pytest.mark.parametrize("family", WRITERS)
def test_training_reads_the_right_choice_alone_unless_something_compares_scores(family: str, monkeypatch: Any) -> None:
    """The same loss and gradients, from as many targets as rows."""
    found = learner(TextToText(words=LABELS), family).requires_grad_(True)
    found.framing.train()  # dropout, which is the body's, stays off
    read: list[int] = []
    whole = labels.given_states
    monkeypatch.setattr(labels, "given_states", lambda b, i, targets, *more: (read.append(len(targets)), whole(b, i, targets, *more))[1])
    batch = batch_of(found.framing, tiny_examples(4))
    results = []
    for compared in (True, False):
        found.framing.compared = compared
        found.zero_grad()
        scores = found(batch)
        loss = found.framing.loss(scores, batch)
        loss.backward()
        results.append((loss.item(), scores.only, {n: w.grad.clone() for n, w in found.named_parameters() if w.grad is not None}))
    assert read == [4 * len(found.framing.choices), 4]
    (one, slab, some), (two, right, others) = results
    assert one == pytest.approx(two, abs=1e-5) and some.keys() == others.keys()
    assert all(torch.allclose(some[name], others[name], atol=1e-5) for name in some)
    torch.testing.assert_close(right.features, slab.features, atol=1e-5, rtol=1e-4)
    chosen = torch.arange(len(found.framing.choices)) == batch.targets[:, None]
    torch.testing.assert_close(right.logits[0][chosen], slab.logits[0][chosen], atol=1e-5, rtol=1e-4)
    assert right.logits[0][~chosen].isnan().all()
    with torch.no_grad():
        assert found(batch).only.logits.isfinite().all()  # whoever asks without a gradient is told all


@pytest.mark.parametrize(
    ("given", "compared"),
    [({}, False), ({"stabilizers": (RDrop(),)}, True), ({"stabilizers": (NEFTune(),)}, True), ({"stabilizers": (LayerDecay(),)}, False)],
)
def test_a_stage_knows_whether_anything_compares_scores(given: dict[str, Any], compared: bool) -> None:
    stage = Train(framing=TextToText(words=LABELS), max_steps=2, **given)
    assert assemble(stage, tiny_backbone("t5"), tiny_task(), Seeds.of(0)).framing.compared is compared
    assert math.isfinite(fit(Recipe("r", (stage,)), tiny_task(), tiny_backbone("t5")).record["stage"]["history"][-1]["loss"])


def test_golden_losses() -> None:
    """G7 of the specification: CE sums (1.2, 2.4) over 2 and 3 tokens, the first right; a wrong token of p = 0.3."""
    steps = torch.tensor([[-0.5, -0.7, -1.0, -0.9, -0.5]], dtype=torch.float64)
    owner, right = torch.tensor([0, 0, 1, 1, 1]), torch.tensor([0])
    assert float(length_norm(steps, owner, right)) == pytest.approx(0.598139, abs=1e-6)
    assert float(lm(steps, owner, right)) == pytest.approx(0.6)
    one = torch.tensor([[-0.1, math.log(0.3)]], dtype=torch.float64)
    assert float(unlikelihood(one, torch.tensor([0, 1]), right)) == pytest.approx(0.342490, abs=1e-6)
    by_hand = [-math.log(1 - math.exp(x) + 0.01) for x in (-1.0, -0.9, -0.5)]
    assert float(unlikelihood(steps, owner, right)) == pytest.approx(sum(by_hand) / 3)


def test_the_loss_is_the_sum_of_the_chosen_ones_and_weighs_rows() -> None:
    rows = tiny_examples(4)
    found = {names: learner(TextToText(words=LABELS, losses=names)) for names in (("lm",), ("unlikelihood",), ("lm", "unlikelihood"))}
    losses = {}
    for names, one in found.items():
        batch = batch_of(one.framing, rows)
        batch.weights = torch.tensor([0.0, 2.0, 0.0, 0.0])
        with torch.no_grad():
            losses[names] = float(one.framing.loss(one(batch), batch))
            alone = batch_of(one.framing, rows[1:2])
            assert losses[names] == pytest.approx(float(one.framing.loss(one(alone), alone)), abs=1e-5)
    assert losses["lm", "unlikelihood"] == pytest.approx(losses[("lm",)] + losses[("unlikelihood",)], abs=1e-6)


def test_scores_over_lengths() -> None:
    """length_norm: None divides where labels differ in length; 0 never; a between."""
    rows = tiny_examples(3)
    raw = learner(TextToText(words=LABELS, length_norm=0.0))
    sizes = torch.tensor([len(ids) for ids in raw.framing.choices], dtype=torch.float32)
    with torch.no_grad():
        totals = raw(batch_of(raw.framing, rows)).only.logits
        for given, power in ((None, 1.0), (0.5, 0.5)):
            one = learner(TextToText(words=LABELS, length_norm=given))
            torch.testing.assert_close(one(batch_of(one.framing, rows)).only.logits, totals / sizes**power)
    assert learner(TextToText()).framing.power == 0.0  # both labels have as many tokens


@pytest.mark.parametrize("family", WRITERS)
def test_the_writers_loss_is_that_of_transformers(family: str) -> None:
    """Mean cross entropy over target tokens, from the model's own ``labels``."""
    found, rows = learner(TextToText(words=LABELS, answers="free"), family), tiny_examples(3)
    batch = batch_of(found.framing, rows)
    model, ids, real = reference(found.backbone), batch.extra["ids"], batch.extra["real"]
    with torch.no_grad():
        mine = found.framing.loss(found(batch), batch)
        if found.backbone.opened:
            theirs = model(**batch.inputs, labels=ids.masked_fill(~real, -100)).loss
        else:
            losses = []
            for i in range(len(rows)):
                source = found.framing.source.encode(rows[i : i + 1])[0]
                target = ids[i][real[i]].tolist()
                whole = torch.tensor([[*source, *target]])
                logits = model(input_ids=whole).logits[0, len(source) - 1 : -1]
                losses.append(torch.nn.functional.cross_entropy(logits, torch.tensor(target), reduction="none"))
            theirs = torch.cat(losses).mean()
    assert float(mine) == pytest.approx(float(theirs), abs=1e-5)
    assert len(batch.targets) == int(real.sum()) == found(batch).only.logits.shape[1]  # type: ignore[arg-type]


def test_the_cue_ends_a_causal_source_and_targets_go_on_from_it() -> None:
    module = learner(TextToText(), "qwen2").framing
    text = module.source.fill(Example(("the film was",)))
    assert text == [f"the film was{CUE}"] and learner(TextToText()).framing.source.fill(Example(("a",))) == ["a"]
    (source,) = module.source.encode([Example(("the film was",))])
    whole = module.tokenizer(f"{text[0]} good", add_special_tokens=False)["input_ids"]
    assert [*source, *module.choices[1]] == [*whole, module.end]  # byte pairs: the same tokens as the joined text


@pytest.mark.parametrize("family", WRITERS)
def test_special_tokens_that_a_text_spells_are_plain_text(family: str) -> None:
    """In the source, in a free target and in the name of a label; at any length."""
    tokenizer = tiny_backbone(family).tokenizer
    name = tokenizer.eos_token or tokenizer.sep_token
    task = Task.from_examples([Example((f"a {name} film {name}",), f"good {name} film")] * 2, kind="text")
    for given in ({}, {"max_source_length": 12 if family != "qwen2" else 40}):
        module = learner(TextToText(**given), family, task).framing
        specials = {i for i in tokenizer.all_special_ids if tokenizer.convert_ids_to_tokens(i) != "[UNK]"}
        (plain,) = module.source.encode([Example(("a film",))])
        (ids,) = module.source.encode(task.train.examples[:1])
        target = module.target(task.train.examples[0])
        assert [i for i in ids if i in specials] == [i for i in plain if i in specials] and len(ids) > len(plain)
        around = module.ids("good film")
        assert [i for i in target if i in specials] == [i for i in around if i in specials] and len(target) > len(around)
    labelled = learner(TextToText(), family).framing
    choices = [labelled.ids(f"{label} {name}") for label in labelled.labels]
    assert all(sum(i in specials for i in ids) == sum(i in specials for i in around) for ids in choices)


@pytest.mark.parametrize("family", ["t5", "gpt2", "qwen2"])
def test_special_tokens_that_a_recipe_names_are_placed_by_id(family: str) -> None:
    tokenizer = tiny_backbone(family).tokenizer
    name, end = tokenizer.eos_token, tokenizer.eos_token_id
    framing = TextToText(f"the {{text}} {name} was", words={"bad": f"{name} bad", "good": "good"}, cue=f" {name} so")
    module = learner(framing, family).framing
    (ids,) = module.source.encode([Example((f"a {name} film",))])
    assert ids[: len(ids) - len(module.source.encoder.coder.wrapping.after)].count(end) == 2  # those of template and cue
    assert module.choices[0].count(end) == 2 and module.choices[1].count(end) == 1


def test_a_token_that_swallows_spaces_swallows_them() -> None:
    tokenizer = tiny_backbone("qwen2").tokenizer
    tokenizer.add_special_tokens({"extra_special_tokens": [AddedToken("<x>", lstrip=True, rstrip=True, special=True)]})
    encoder = Encoder(tokenizer)
    (ids,) = encoder.ids([encoder.parts("good <x> film")])
    assert ids == tokenizer("good <x> film")["input_ids"] and tokenizer.convert_tokens_to_ids("<x>") in ids


@pytest.mark.parametrize(("texts", "length"), [((" ".join(["good"] * 40),), 12), ((" ".join(["good"] * 40), "bad bad bad"), 16)])
def test_a_long_source_loses_text_and_never_the_template(texts: tuple[str, ...], length: int) -> None:
    template = "very {text} is" if len(texts) == 1 else "very {text} and {text_pair} is"
    module = learner(TextToText(template, max_source_length=length)).framing
    (ids,) = module.source.encode([Example(texts)])
    said = module.tokenizer.decode(ids, skip_special_tokens=True)
    assert (
        len(ids) == length and said.startswith("very good") and said.endswith("is") and said.count("bad") == (3 if len(texts) == 2 else 0)
    )


@pytest.mark.parametrize("length", range(12, 30))
def test_a_character_of_several_tokens_at_the_end_is_cut_whole(length: int) -> None:
    module = learner(TextToText(max_source_length=length), "qwen2").framing
    (ids,) = module.source.encode([Example(("\U0001f642" * 10,))])
    assert length - 4 < len(ids) <= length


def test_user_text_is_no_template() -> None:
    module = learner(TextToText("a {text} b")).framing
    assert module.source.fill(Example(("{text_pair} {text}",))) == ["a {text_pair} {text} b"]


def test_braces_of_a_source_and_of_a_cue_may_be_plain_text() -> None:
    module = learner(TextToText(r"\{a: {text}\} \\ b \c", cue=' {"c": {d}}')).framing
    assert module.source.fill(Example((r"{e} \{",))) == [r'{a: {e} \{} \ b \c {"c": {d}}']


def test_a_trie_allows_what_leads_to_a_text() -> None:
    trie = Trie([[5, 6, 1], [5, 7, 8, 1], [5, 6, 9, 1]])
    assert [sorted(trie.after(w)) for w in ([], [5], [5, 6], [5, 6, 1], [4])] == [[5], [6, 7], [1, 9], [], []]


def test_stretches_are_those_of_the_source() -> None:
    found = Stretches([3, 4, 3, 5], [[9, 9]], end=1)
    assert [found.after(w) for w in ([], [3], [3, 5], [4, 3], [9], [9, 9], [5, 3], [3, 1])] == [
        [3, 4, 5, 9],
        [1, 4, 5],
        [1],
        [1, 5],
        [9],
        [1],
        [],
        [],
    ]


@pytest.mark.parametrize("family", ["t5", "bart", "gpt2", "llama"])
def test_beams_in_a_trie_give_the_exact_likelihoods(family: str) -> None:
    """With as many beams as labels the search returns all of them, at length_penalty 0 by their log-likelihoods."""
    words = {"bad": "very bad", "good": "good"}
    scored = learner(TextToText(words=words, length_norm=0.0), family)
    searched = learner(TextToText(words=words, answers="trie", num_beams=2), family)
    rows = tiny_examples(6)
    for mine, theirs in zip(searched.predictions(rows), scored.predictions(rows), strict=True):
        assert mine.label == theirs.label
        for label in words:
            assert mine.probabilities[label] == pytest.approx(theirs.probabilities[label], abs=1e-4)


def test_three_labels_of_which_one_begins_another_are_told_apart() -> None:
    task = Task.from_examples([Example((e.texts[0],), ("good", "good day", "bad")[i % 3]) for i, e in enumerate(tiny_examples(12))])
    scored = learner(TextToText(length_norm=0.0), task=task).predictions(task.train.examples)
    searched = learner(TextToText(answers="trie", num_beams=5), task=task).predictions(task.train.examples)
    assert [p.label for p in scored] == [p.label for p in searched]
    assert np.allclose([list(p.probabilities.values()) for p in scored], [list(p.probabilities.values()) for p in searched], atol=1e-4)
    greedy = learner(TextToText(answers="trie"), task=task)
    assert {p.label for p in greedy.predictions(task.train.examples)} <= set(task.labels) and greedy.framing.facts() == {}


def test_several_texts_drawn_in_a_trie_are_each_of_its_own_row() -> None:
    given = {"answers": "trie", "do_sample": True, "generation_seed": 3}
    rows = tiny_task().train.examples
    found = learner(TextToText(num_return_sequences=3, **given)).predictions(rows)
    assert len(found) == len(rows) and {p.label for p in found} <= {"bad", "good"}
    tries = [Trie([[5, 1]]), Trie([[6, 1]])]
    assert [allowing(tries, 0, 1, each=2)(row, torch.tensor([], dtype=torch.int64)) for row in range(4)] == [[5], [5], [6], [6]]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"source": "{txt}"}, r"unknown place \{txt\}; write \{text\}"),
        ({"source": "no place"}, "no place for the text"),
        ({"source": "{text:strip_punct}? {text_pair}"}, r"unknown place \{text:strip_punct\}; .* are for the templates of cloze"),
        ({"source": "{{text}} It was ||| {{answer_choices[label]}}"}, r"unknown place \{\{text\}\}; .*Jinja"),
        ({"source": '{text} {"mask"}'}, r'unknown place \{"mask"\}; write'),
        ({"source": "{text} } {"}, r"unknown place \}; write .* \\\{ or \\\} for a brace of the text itself"),
        ({"guidance_source": "{mask}", "guidance_scale": 2.0}, r"text_to_text.guidance_source '\{mask\}': unknown place"),
        ({"cue": "{text_pair}:"}, "the same for every row"),
        ({"temperature": 0.5}, "set do_sample: true"),
        ({"num_return_sequences": 2}, "more texts than num_beams 1"),
        ({"num_return_sequences": 3, "num_beams": 2, "do_sample": True}, "more texts than num_beams 2"),
        ({"sibling_penalty": 1.0}, "set num_beams to 2"),
        ({"min_new_tokens": 5, "max_new_tokens": 4}, "min_new_tokens 5 is more"),
        ({"answers": "free", "losses": ("lm", "unlikelihood")}, "compare all labels"),
        ({"losses": ("lm", "lm")}, "names one twice"),
        ({"words": ["good"]}, "map every label"),
        ({"guidance_source": "x"}, "guidance_scale above 1"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises((RecipeError, ValueError), match=message):
        TextToText(**given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"words": {"god": "x"}}, "'god' is no label of the task; its labels: bad, good"),
        ({"words": {"good": "bad"}}, "'bad' and 'good' are both written 'bad'"),
        ({"words": {"good": "film", "bad": "Film"}}, "the same tokens"),
        ({"words": {"good": "qqq"}}, r"'qqq', written for label 'good', is no word of this model's tokenizer \(\[UNK\]\); give it one"),
        (
            {"words": {"bad": "very bad film"}, "max_target_length": 3},
            r"'very bad film' takes 4 tokens with the one that ends it \(very bad film\), more than max_target_length=3; give",
        ),
        ({"words": {"bad": "very bad film"}, "max_target_length": 3, "answers": "free"}, "takes 4 tokens"),
        ({"words": {"bad": "not [PAD] good"}, "answers": "free"}, r"'not \[PAD\] good', written for label 'bad', reads 'not good' once"),
        ({"words": {"bad": "a bad film"}, "answers": "free", "stop_strings": ("bad",)}, "reads 'a' once this model"),
        ({"max_source_length": 1}, "at least 2"),
        ({"source": "a a a a a a a a {text}", "max_source_length": 4}, "alone takes 9 tokens of max_source_length=4"),
    ],
)
def test_what_does_not_fit_the_task_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        batch_of(learner(TextToText(**given)).framing, tiny_examples(2))


def test_kinds_and_models_that_cannot_be_served_say_why() -> None:
    with pytest.raises(RecipeError, match=r"'multilabel' with answers=likelihood: .*answers=free"):
        learner(TextToText(answers="likelihood"), task=tiny_task(8, "multilabel"))
    with pytest.raises(RecipeError, match="texts have no targets"):
        learner(TextToText(), task=Task.from_examples([Example(("a",)), Example(("b",))]))
    with pytest.raises(ModelError, match=r"tiny-bert \(bert\): it reads text and writes none; choose an encoder-decoder"):
        learner(TextToText(), "bert")
    with pytest.raises(DataError, match=r"row 7: .*reads \{text_pair\}, and this row has one text"):
        learner(TextToText("{text} {text_pair}")).framing.source.encode([Example(("a",), None, 7)])
    plain = Task("t", "tagging", ("X", "Y"), Split("train", (Example(("a b",), ("X", "Y"), 1, ((0, 1), (2, 3))),)))
    with pytest.raises(RecipeError, match="no entities"):
        learner(TextToText(), task=plain)


def one_by_one(module: Any, example: Example) -> list[int]:
    """The longest text loses its last token, of equals the first, and all is read anew, until it fits."""
    source, texts = module.source, list(example.texts)
    while len(row := source._ids([source.fill(example, texts)])[0]) > source.length:
        ends = [source._ends(text) for text in texts]
        longest = max(range(len(texts)), key=lambda i: len(ends[i]))
        kept = len(ends[longest]) - 1
        texts[longest] = texts[longest][: min(ends[longest][kept - 1], len(texts[longest]) - 1) if kept else 0]
    return row


@pytest.mark.parametrize("family", ["t5", "gpt2", "qwen2"])
def test_what_is_cut_is_what_goes_token_by_token_and_takes_few_readings(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(0)
    words = ["good", "bad", "film", "long", "the", "é", "unseen"]
    module = learner(TextToText("{text} {text_pair}", max_source_length=40), family).framing
    pairs = [tuple(" ".join(draw.choices(words, k=draw.randint(1, 80))) for _ in range(2)) for _ in range(40)]
    rows = [Example(pair, None, i) for i, pair in enumerate(pairs)]
    expected = [one_by_one(module, row) for row in rows]
    read: list[int] = []
    ids = Source._ids
    monkeypatch.setattr(Source, "_ids", lambda self, parts: (read.append(len(parts)), ids(self, parts))[1])
    assert module.source.encode(rows) == expected
    assert sum(read) <= 4 * len(rows)


def test_a_long_pair_takes_no_longer_than_its_length_says(monkeypatch: pytest.MonkeyPatch) -> None:
    module = learner(TextToText(max_source_length=40)).framing
    read: list[int] = []
    ids = Source._ids
    monkeypatch.setattr(Source, "_ids", lambda self, parts: (read.append(len(parts)), ids(self, parts))[1])
    (row,) = module.source.encode([Example((" ".join(["good"] * 600), " ".join(["bad"] * 600)), None, 1)])
    assert len(row) == 40 and len(read) <= 4


def test_a_text_that_the_source_does_not_show_is_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    module = learner(TextToText("it: {text}", max_source_length=40)).framing
    read: list[int] = []
    ids = Source._ids
    monkeypatch.setattr(Source, "_ids", lambda self, parts: (read.append(len(parts)), ids(self, parts))[1])
    shown = " ".join(["good"] * 60)
    (row,) = module.source.encode([Example((shown, " ".join(["bad"] * 900)), None, 1)])
    assert len(row) == 40 and len(read) <= 3
    assert [row] == learner(TextToText("it: {text}", max_source_length=40)).framing.source.encode([Example((shown,), None, 1)])


@pytest.mark.parametrize("tied", [True, False])
def test_an_output_matrix_whose_bias_alone_is_missing_is_the_pretrained_one(tied: bool, tmp_path: Path) -> None:
    """The bias is zero, as in transformers, and what the checkpoint has of the matrix is read; without its matrix a head is fresh."""
    theirs = tiny_model("bart", loader="AutoModelForSeq2SeqLM")
    state = {name: tensor.clone() for name, tensor in theirs.state_dict().items() if name != "final_logits_bias"}
    state["lm_head.weight"] = state["model.shared.weight"] + (0 if tied else 1)
    theirs.config.tie_word_embeddings = tied
    for gone in ([], ["lm_head.weight"]):
        theirs.config.save_pretrained(tmp_path)
        save_file({name: tensor for name, tensor in state.items() if name not in gone}, tmp_path / "model.safetensors", {"format": "pt"})
        tiny_tokenizer("bart").save_pretrained(tmp_path)
        backbone = Backbone.load(str(tmp_path))
        writes(backbone)
        head = ensure_output_head(backbone)
        assert head.bias is not None and not head.bias.any() and head.fresh == (not tied and bool(gone))
        if head.own is not None:
            assert torch.equal(head.own.weight, state["lm_head.weight"]) != bool(gone)


def test_a_text_of_a_pair_that_the_source_leaves_out_is_told() -> None:
    rows = [Example((e.texts[0], "a film"), e.label, e.row) for e in tiny_examples(8)]
    pairs = Task("pairs", "classification", ("bad", "good"), Split("train", tuple(rows)))
    (note,) = learner(TextToText("very {text} is"), task=pairs).framing.notes
    assert note.startswith("the rows are pairs, and source 'very {text} is' never shows {text_pair}: the second text is not read")
    assert not learner(TextToText(), task=pairs).framing.notes and not learner(TextToText("very {text} is")).framing.notes
