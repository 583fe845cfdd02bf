"""``temper prompts``: prompts shown with their masks and cuts, zero-shot scores, the search's recipe, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tempering.backbone import Backbone
from tempering.commands.prompts import read_words
from tempering.errors import RecipeError
from tempering.prompting.fillers import SpanFiller
from tempering.prompting.templates_search import search
from tempering.recipe import Recipe
from tempering.tasks import Task
from tests.commands.shared import done, refuses, write_rows
from tests.framings.test_masked_lm import save_masked_lm
from tests.prompting.test_templates_search import let_gaps_end, save_span_filler
from tests.tiny import tiny_task

DATA = ("train.csv", "--dev", "dev.csv")
WORDS = ("--words", "sad,great")


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("masked")
    save_masked_lm("bert", folder)
    return str(folder)


def test_prompts_are_shown_and_scored(here: Path, masked: str, capsys: pytest.CaptureFixture[str]) -> None:
    row = "the film was " * 40
    (here / "dev.csv").write_text(f"text,label\n{row},good\na dull room,bad\n" + "a good film,good\n" * 8, encoding="utf-8")
    templates = ("--template", "{text} it was {mask}", "--template", "{soft:it was} {mask} and {text}")
    done("prompts", *DATA, "--model", masked, *templates, *WORDS, "--words", "bad=bad|poor,good=good", "--rows", "10", "--json")
    found = json.loads(capsys.readouterr().out)
    first = found["prompts"][0]
    assert (
        first["word"] == "great" and first["text"].endswith("it was [mask: great] [SEP]") and first["text"].startswith("[CLS] the film was")
    )
    assert first["tokens"] == first["limit"] == 64 and first["cut"] == 120 - (64 - 2 - 3)
    assert found["prompts"][1]["cut"] == 0 and found["prompts"][1]["word"] == "sad" and found["prompts"][1]["tokens"] == 8
    soft = next(p for p in found["prompts"] if "[soft]" in p["text"])
    assert soft["text"].startswith("[CLS] [soft] [soft] [mask: great] and")
    assert len(found["scores"]) == 4 and found["on"] == "dev" and {s["rows"] for s in found["scores"]} == {10}
    keys = [(-s["metrics"]["accuracy"], s["metrics"]["loss"]) for s in found["scores"]]
    assert keys == sorted(keys)
    assert {json.dumps(s["words"]) for s in found["scores"]} == {
        '{"bad": ["sad"], "good": ["great"]}',
        '{"bad": ["bad", "poor"], "good": ["good"]}',
    }
    done("prompts", *DATA, "--model", masked, *WORDS, "--on", "train", "--show", "1")
    said = capsys.readouterr().out
    assert "tokens" in said and "scores on 24 train rows" in said and "[mask: " in said and "bad=sad, good=great" in said


def test_the_search_writes_a_recipe_that_fit_takes(here: Path, masked: str, capsys: pytest.CaptureFixture[str]) -> None:
    quick = ("max_steps=2", "num_train_epochs=1", "min_steps=0")
    more = ("--search", "--candidates", "4", "--beam", "3", "--finalists", "2", "--output", "found.yaml")
    done("prompts", *DATA[:1], *quick, *DATA[1:], "--model", masked, *WORDS, *more)
    said = capsys.readouterr()
    recipe = Recipe.load("found.yaml")
    framing = recipe.stages[-1].framing
    assert (
        len(framing.templates) == 1
        and framing.templates[0] in said.out
        and f"temper fit train.csv --dev dev.csv --recipe found.yaml --model {masked}" in said.out
    )
    assert dict(framing.words) == {"bad": ("sad",), "good": ("great",)}
    done("fit", *DATA, "--recipe", "found.yaml", "--model", masked)
    refuses("prompts", *DATA, "--model", masked, *WORDS, *more, said="there is such a file", capsys=capsys)


def test_autoprompt_writes_a_recipe_that_fit_takes(here: Path, masked: str, capsys: pytest.CaptureFixture[str]) -> None:
    write_rows(here / "dev.csv", 80, 100)  # more than one pass reads
    search = ("--search", "--method", "autoprompt", "--by", "loss", "--iterations", "3", "--candidates", "4", "--rows", "10")
    done("prompts", *DATA, "--model", masked, *WORDS, *search, "--output", "found.yaml")
    said = capsys.readouterr()
    recipe = Recipe.load("found.yaml")
    framing = recipe.stages[-1].framing
    (template,) = framing.templates
    assert not framing.soft and template.startswith("{text} ") and template.endswith(" {mask}.") and "[MASK]" not in template
    left_out = 5 - len(template.split())
    assert 0 < left_out < 3 and f"{left_out} of 3 slots were never swapped and are left out" in said.out
    assert (
        template in said.out
        and "  {text} {mask}." in said.out
        and f"temper fit train.csv --dev dev.csv --recipe found.yaml --model {masked}" in said.out
    )
    assert f"the model reads {3 * 6 * 10} rows at most" in said.err and "of 3: loss on dev" in said.err
    done("fit", *DATA, "--recipe", "found.yaml", "--model", masked, "--json")
    assert json.loads(capsys.readouterr().out)["recipe"] == "found-triggers"
    own = ("--template", "{soft:2} {text} {mask}", "--auto-words", "--recipe", "cloze", "--output", "own.yaml", "--json")
    done("prompts", *DATA[:1], "max_steps=2", "min_steps=0", *DATA[1:], "--model", masked, *search, *own)
    found = json.loads(capsys.readouterr().out)
    assert len(found["candidates"]) == 2 and found["candidates"][1]["templates"] == ["{text} {mask}"]
    assert {len(words) for words in found["candidates"][0]["words"].values()} == {3}  # AutoPrompt's label words, several a class
    assert Recipe.load("own.yaml").stages[-1].max_steps == 2 and "linear map" in found["notes"][0]


def test_a_t5_writes_the_templates(here: Path, masked: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_span_filler(here / "t5")
    let_gaps_end(monkeypatch)
    quick = ("max_steps=2", "num_train_epochs=1", "min_steps=0")
    more = ("--search", "--filler", folder, "--candidates", "4", "--beam", "6", "--finalists", "2", "--output", "found.yaml", "--json")
    done("prompts", *DATA[:1], *quick, *DATA[1:], "--model", masked, *WORDS, *more)
    found = json.loads(capsys.readouterr().out)
    task = Task.from_file("train.csv", dev="dev.csv", text="text", label="label")
    words = {"bad": ("sad",), "good": ("great",)}
    written = search(task, words, SpanFiller(Backbone.load(folder), 6), 4)
    assert written and {c.template for c in written} <= {t for c in found["candidates"] for t in c["templates"]}
    assert found["notes"] == [
        f"templates were written by {folder} (span filling, as LM-BFF does) and chosen on 12 development rows by accuracy"
    ]
    assert Recipe.load("found.yaml").stages[-1].framing.templates == (found["tuned"][0]["template"],)


def test_settings_of_the_cloze_are_read_without_a_search(here: Path, masked: str, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ("framing.fields=[sentence]", "framing.verbalizer={manual: {pieces: mean}}", "framing.max_length=20")
    given = ("--template", "{{sentence}} it was ||| {{answer_choices[label]}}", "--words", "very bad,very good", "--json")
    done("prompts", DATA[0], *settings, *DATA[1:], "--model", masked, *given)
    found = json.loads(capsys.readouterr().out)
    assert found["prompts"][0]["limit"] == 20 and "it was [mask: very" in found["prompts"][0]["text"]
    refuses("prompts", DATA[0], "framing.field=[a]", *DATA[1:], "--model", masked, said="no field 'field'; did you mean", capsys=capsys)


def test_a_search_keeps_what_the_recipe_says_of_its_cloze(here: Path, masked: str, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "templates.yaml").write_text(
        "dataset: d\ntemplates:\n  1:\n    name: wast\n    answer_choices: sad ||| great\n"
        "    jinja: '{{sentence}} It was ||| {{answer_choices[label == \"good\"]}}'\n",
        encoding="utf-8",
    )
    one = ("--template", "promptsource:templates.yaml#wast", "--show", "1")
    done("prompts", DATA[0], "framing.fields=[sentence]", *DATA[1:], "--model", masked, *one)
    (row,) = [line for line in capsys.readouterr().out.splitlines() if "bad=sad, good=great" in line]
    assert row.endswith("  promptsource:templates.yaml#wast  bad=sad, good=great")
    settings = ("max_steps=2", "min_steps=0", "framing.framing.fields=[sentence]", "framing.framing.max_length=20", "framing.contexts=2")
    more = ("--search", "--candidates", "2", "--beam", "3", "--finalists", "2", "--recipe", "cloze-demonstrations", "--output", "o.yaml")
    done("prompts", DATA[0], *settings, *DATA[1:], "--model", masked, "--template", "promptsource:templates.yaml#wast", *more, "--json")
    found = json.loads(capsys.readouterr().out)
    assert {json.dumps(c["words"]) for c in found["candidates"]} == {'{"bad": ["sad"], "good": ["great"]}'}
    assert any("{sentence}" in t for c in found["candidates"] for t in c["templates"])
    framing = Recipe.load("o.yaml").stages[-1].framing
    assert framing.contexts == 2 and (framing.framing.max_length, framing.framing.fields) == (20, ("sentence",))
    assert framing.framing.template == found["tuned"][0]["template"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--template", "{text} it was good"), "has no mask; write {mask}"),
        (("--words", "the film,good"), "label word 'the film' of class 'bad' is 2 tokens"),
        (("--words", "sad"), "expected a word for each of bad, good, in this order, found 1"),
        (("--on", "test"), "prompts are scored on dev or train rows"),
        (("--auto-words",), "--auto-words is for a search"),
        (("max_steps=3",), "max_steps=3 is for a search"),
        (("fields=[text]",), "a setting of the cloze begins with framing.; write framing.fields=[text]"),
        (("framing.template={mask}", "--template", "{text} {mask}"), "--template and framing.template say the same; leave one of them out"),
        (("--search", "--recipe", "full"), "recipe 'full': its last stage holds no cloze"),
        (("--search", "--template", "{text} {mask}", "--template", "{mask} {text}"), "begins at one prompt, and 2 are given"),
        (("--search", "--filler", "{masked}"), "cannot fill spans"),
        (("--method", "gradient"), "--method 'gradient': expected fill"),
        (("--method", "autoprompt"), "--method autoprompt is for a search; add --search"),
        (("--search", "--iterations", "3"), "--iterations is for --method autoprompt; add it"),
        (("--search", "--by", "loss"), "--by is for --method autoprompt; add it"),
        (("--search", "--method", "autoprompt", "--by", "f1", *WORDS), "--by 'f1': expected accuracy (a swap raises it) or loss"),
        (("--search", "--method", "autoprompt", "--beam", "3"), "--beam is for --method fill; add it"),
        (("--search", "--method", "autoprompt", "--keep", "3"), "--keep is for --method fill; add it"),
        (("--finalists", "3"), "--finalists is for a search; add --search"),
        (("--search", "--auto-words", *WORDS), "--words gives the label words, and --auto-words looks for others; leave one of them out"),
        (("--search", "--method", "autoprompt", *WORDS, "--template", "{text} {mask}"), "has no slots to search words for; write {soft:3}"),
        (
            ("--search", "--method", "autoprompt", "--label", "id", "--kind", "regression", *WORDS),
            "AutoPrompt searches words that tell classes apart",
        ),
    ],
)
def test_mistakes_are_told(words: tuple[str, ...], said: str, here: Path, masked: str, capsys: pytest.CaptureFixture[str]) -> None:
    given = [word.replace("{masked}", masked) for word in words]
    settings = [word for word in given if "=" in word and not word.startswith("-")]
    rest = [word for word in given if word not in settings]
    refuses("prompts", *DATA[:1], *settings, *DATA[1:], "--model", masked, *rest, said=said, capsys=capsys)


def test_without_a_head_prompts_are_shown_and_not_scored(here: Path, bert: str, capsys: pytest.CaptureFixture[str]) -> None:
    """So it is with the default model: rows, words and counts of tokens ask for none."""
    done("prompts", *DATA, "--model", bert, *WORDS, "--show", "1")
    said = capsys.readouterr().out
    assert "[mask: sad]" in said and " of 64 tokens" in said and "scores on" not in said
    assert f"no zero-shot scores: {bert} (bert) holds no weights of a language-model head" in said and "--model roberta-base" in said
    done("prompts", *DATA, "--model", bert, *WORDS, "--json")
    found = json.loads(capsys.readouterr().out)
    assert len(found["prompts"]) == 3 and found["scores"] == [] and "holds no weights" in found["notes"][0]
    refuses("prompts", *DATA, "--model", bert, "--words", "the film,good", said="is 2 tokens", capsys=capsys)
    refuses("prompts", *DATA, "--model", bert, *WORDS, "--search", said="holds no weights of a language-model head", capsys=capsys)


@pytest.mark.parametrize("method", ["fill", "autoprompt"])
def test_a_folder_that_is_not_there_is_told_before_the_search(
    method: str, here: Path, masked: str, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--search", "--method", method, "--output", "nodir/x.yaml")
    refuses("prompts", *DATA, "--model", masked, *WORDS, *more, said="--output nodir/x.yaml: there is no folder nodir", capsys=capsys)


def test_words_are_read_in_either_form() -> None:
    task = tiny_task()
    assert read_words("sad|bad, great", task) == (("bad", ("sad", "bad")), ("good", ("great",)))
    assert read_words("good=great,bad=sad", task) == (("good", ("great",)), ("bad", ("sad",)))
    assert read_words("No,Yes", tiny_task(kind="regression")) == (("low", ("No",)), ("high", ("Yes",)))
    for wrong, said in (
        ("good=great,sad", "every label or none"),
        ("so=sad,good=great", "no label of the data"),
        ("good=great", "no word for 'bad'"),
    ):
        with pytest.raises(RecipeError, match=said):
            read_words(wrong, task)
