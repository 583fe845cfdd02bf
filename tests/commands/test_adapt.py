"""``temper adapt``: perplexity before and after, a folder to start from, a killed run, and what is refused."""

from __future__ import annotations

import json
import math
import random
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice, permutations
from pathlib import Path
from typing import Any

import pytest
import torch

from tempering import cli
from tempering.backbone import Backbone
from tests.commands.shared import done, refuses, spawn
from tests.tiny import NEGATIVE, POSITIVE, WORDS, save_tiny

FAST = ("learning_rate=1e-2", "per_device_train_batch_size=8", "gradient_accumulation_steps=1")


@pytest.fixture
def text(here: Path) -> str:
    rng = random.Random(0)
    lines = [" ".join(rng.choices((*WORDS, *POSITIVE, *NEGATIVE), k=rng.randint(3, 60))) for _ in range(80)]
    (here / "corpus.txt").write_text("\n".join(lines))
    return "corpus.txt"


def facts(folder: str) -> dict[str, Any]:
    return dict(json.loads((Path(folder) / "metrics.json").read_text()))


def test_adapt_tells_pseudo_perplexity_and_writes_a_model(text: str, bert: str, capsys: pytest.CaptureFixture[str]) -> None:
    done("adapt", text, "--model", bert, "--output-dir", "a", *FAST)
    out = capsys.readouterr().out
    found = facts("a")
    for when in ("before", "after"):
        assert found[when]["pseudo_perplexity"] == pytest.approx(math.exp(found[when]["loss"]))
    shown = [f"{found[when]['pseudo_perplexity']:.4g}" for when in ("before", "after")]
    assert f"pseudo-perplexity (exp of the loss on masked tokens) on held-out text: {shown[0]} before, {shown[1]} after" in out
    held = found["held_out"]
    assert held["texts"] == 4  # 1 in 20 of 80
    assert f"; held out: 4 texts, {held['tokens']} tokens, of which about {0.15 * held['tokens']:.0f} are masked (too few to rely on" in out
    assert found["after"]["loss"] < found["before"]["loss"] - 0.3 and "next: temper fit DATA --model a" in out
    assert found["loads_with"] == ["transformers", "tempering"]
    done("fit", "train.csv", "--dev", "dev.csv", "--model", "a", "--recipe", "full", "--output-dir", "f", "max_steps=1", "min_steps=0")
    assert facts("f")["model"] == "a"


def test_an_adapted_model_goes_on_where_it_stood(text: str, bert: str) -> None:
    done("adapt", text, "--model", bert, "--output-dir", "a", *FAST)
    done("adapt", text, "--model", "a", "--output-dir", "b", *FAST, "max_steps=1")
    assert facts("b")["before"]["loss"] == pytest.approx(facts("a")["after"]["loss"], abs=1e-4)  # body and head came along


def test_a_decoder_is_trained_from_left_to_right(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gpt = str(save_tiny("gpt2", tmp_path / "gpt2"))
    done("adapt", text, "--model", gpt, "--output-dir", "a", *FAST, "max_steps=4")
    told = capsys.readouterr()
    assert f"{gpt} reads from left to right: framing causal_lm in place of that of recipe dapt" in told.err
    assert told.out.startswith("perplexity on held-out text: ") and set(facts("a")["after"]) == {"perplexity", "loss"}


def test_adapters_are_folded_in_unless_they_are_kept_apart(text: str, bert: str, capsys: pytest.CaptureFixture[str]) -> None:
    for name, more in (("whole", ()), ("alone", ("--adapter",))):
        done("adapt", text, "--model", bert, "--recipe", "dapt-lora", "--output-dir", name, *FAST, "max_steps=2", *more)
    whole, plain = (Backbone.load(folder).model.state_dict() for folder in ("whole", bert))
    moved = [n for n in plain if not torch.equal(whole[n], plain[n])]
    assert moved and all("weight" in n for n in moved)
    assert (Path("alone") / "adapter_config.json").exists() and not (Path("alone") / "config.json").exists()
    assert "next: temper merge alone --output-dir MODEL" in capsys.readouterr().out
    refuses("adapt", text, "--model", "alone", "--output-dir", "never", said="temper merge alone --output-dir MODEL", capsys=capsys)
    done("merge", "alone", "--output-dir", "merged")
    assert "next: temper fit DATA --model merged\n" in capsys.readouterr().out
    merged = Backbone.load("merged").model.state_dict()
    assert all(torch.allclose(merged[n], whole[n], atol=1e-6) for n in whole)
    done("adapt", text, "--model", bert, "--recipe", "madx-language", "--output-dir", "language", *FAST, "max_steps=2")
    assert "--recipe madx tuning.language=language" in capsys.readouterr().out
    short = ("max_steps=1", "min_steps=0")
    done("fit", "train.csv", "--recipe", "madx", "--model", bert, "--output-dir", "m", "tuning.language=language", *short)


def test_what_a_folder_holds_beside_texts_is_told(text: str, bert: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "mixed").mkdir()
    (here / text).rename(here / "mixed" / text)
    for name in ("a.html", "b.html", "README"):
        (here / "mixed" / name).write_text("<p>never read</p>")
    told = "left out of mixed: 2 .html, 1 without ending; read are files ending in .txt"
    done("adapt", "mixed", "--model", bert, "--output-dir", "a", *FAST, "max_steps=1", "--dry-run")
    assert told in capsys.readouterr().out
    done("adapt", "mixed", "--model", bert, "--output-dir", "a", *FAST, "max_steps=1")
    assert told in capsys.readouterr().err and any(told in note for note in facts("a")["notes"])


def test_dry_run_and_json(bert: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "even.txt").write_text("\n".join(map(" ".join, islice(permutations(WORDS[:5], 3), 40))))
    done("adapt", "even.txt", "--model", bert, "--dry-run", *FAST)
    out = capsys.readouterr().out
    assert "steps: " in out and "reads no labels" not in out and not Path("adapted").exists()
    done("adapt", "even.txt", "--model", bert, "--json", "--output-dir", "a", *FAST, "max_steps=1")
    told = capsys.readouterr()
    found = json.loads(told.out)
    assert found["before"]["loss"] > 0 and found["held_out"] == {"texts": 2, "tokens": 2 * (3 + 2)}  # two special tokens each
    assert "reads no labels" not in told.err
    (note,) = found["notes"]  # the tiny model was saved as a bare body
    assert note.startswith(f"{bert} holds no language-model head; one was drawn at random") and note in told.err


def test_a_run_that_is_stopped_says_how_to_go_on_and_ends_as_the_unbroken_one(
    text: str, bert: str, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("adapt", text, "--model", bert, *FAST, "max_steps=12", "save_steps=4", "eval_steps=4")
    done(*words, "--output-dir", "whole")

    @contextmanager
    def stopped(name: str) -> Iterator[Any]:
        def listen(event: dict[str, Any]) -> None:
            if event["event"] == "save" and event["step"] == 8:
                raise KeyboardInterrupt

        yield listen

    with monkeypatch.context() as patch:
        patch.setattr("tempering.train.progress.bar", stopped)
        assert cli.run([*words, "--output-dir", "broken"]) == 130
    assert "the same command with --resume goes on from checkpoints/stage-0" in capsys.readouterr().err
    assert cli.run([*words, "--output-dir", "broken"]) == 2  # an unfinished run is not written over
    done(*words, "--output-dir", "broken", "--resume")
    assert (here / "whole" / "model.safetensors").read_bytes() == (here / "broken" / "model.safetensors").read_bytes()
    assert facts("whole")["history"] == facts("broken")["history"]
    done(*words, "--output-dir", "broken", "--resume")  # finished already
    assert cli.run([*words, "--output-dir", "broken", "--resume", "--seed", "1"]) == 2


def test_a_finished_model_of_another_version_of_the_text_is_no_answer(
    text: str, bert: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("adapt", text, "--model", bert, *FAST, "max_steps=1", "--output-dir", "a", "--resume")
    done(*words)
    assert list(facts("a")["sources"]) == [text]
    done(*words)
    whole = (here / text).read_text()
    (here / text).write_text(whole[: len(whole) // 2])
    refuses(*words, said=f"a holds a finished model of another version of {text}; give another --output-dir", capsys=capsys)
    (here / "a" / "metrics.json").write_text(json.dumps({k: v for k, v in facts("a").items() if k != "sources"}))
    done(*words)  # a folder that does not say which it was answers


@pytest.mark.slow
def test_a_killed_run_resumed_is_the_unbroken_one(text: str, bert: str, here: Path) -> None:
    words = ("adapt", text, "--model", bert, *FAST, "max_steps=150", "save_steps=10", "eval_steps=50")
    done(*words, "--output-dir", "whole")
    process = spawn(*words, "--output-dir", "broken", folder=here)
    limit = time.monotonic() + 60
    while not list(here.glob("broken/checkpoints/stage-0/checkpoint-*")) and time.monotonic() < limit:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL and not (here / "broken" / "tempering.json").exists()
    done(*words, "--output-dir", "broken", "--resume")
    assert (here / "whole" / "model.safetensors").read_bytes() == (here / "broken" / "model.safetensors").read_bytes()
    assert facts("whole")["history"] == facts("broken")["history"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nothing.txt",), "nothing.txt: no such file"),
        (("binary.txt",), "binary.txt: expected text, found a NUL at byte 4"),
        (("legacy.txt",), "legacy.txt: expected UTF-8 text, found 0xe9 at byte 3; looks like CP1252"),
        (("picture.png",), "picture.png: expected a file ending in .txt"),
        (("train.csv", "--column", "body"), "expected a column 'body', found 'id', 'text', 'label'"),
        (("corpus.txt", "--recipe", "full"), "--recipe full: its first stage learns from labels"),
        (("corpus.txt", "--recipe", "curated-tapt"), "--recipe curated-tapt: it chooses texts like those of a task"),
        (("corpus.txt", "documents=chapter"), "documents"),
        (("bare.jsonl",), "found 'id', 'n'; name the text with --column"),
        (("unlabeled",), "unlabeled: no such file"),
        (("empty.txt",), "empty.txt: expected texts, found none"),
    ],
)
def test_what_cannot_be_read_is_refused_in_a_line(
    words: tuple[str, ...], said: str, text: str, bert: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "binary.txt").write_bytes(b"abcd\0\1\2")
    (here / "legacy.txt").write_bytes("caf\u00e9 au lait, tr\u00e8s bien".encode("cp1252"))
    (here / "picture.png").write_bytes(b"\x89PNG")
    (here / "empty.txt").write_bytes(b"\n\n")
    (here / "bare.jsonl").write_text('{"id": 1, "n": 2}\n')
    refuses("adapt", *words, "--model", bert, said=said, capsys=capsys)
    assert not Path("adapted").exists()


def test_a_folder_of_whatever_name_is_a_path(text: str, bert: str, here: Path) -> None:
    (here / "unlabeled").mkdir()
    (here / text).rename(here / "unlabeled" / text)
    done("adapt", "unlabeled", "--model", bert, "--output-dir", "a", *FAST, "max_steps=1")
    assert facts("a")["held_out"]["texts"] == 4


def test_a_head_that_was_saved_with_the_model_is_no_news(text: str, bert: str, capsys: pytest.CaptureFixture[str]) -> None:
    done("adapt", text, "--model", bert, "--output-dir", "a", *FAST, "max_steps=1")
    assert f"note: {bert} holds no language-model head" in capsys.readouterr().out
    done("adapt", text, "--model", "a", "--output-dir", "b", *FAST, "max_steps=1")
    assert "language-model head" not in "".join(capsys.readouterr()) and facts("b")["notes"] == []


@pytest.mark.parametrize("recipe", ["simcse", "sentence-order"])
def test_a_loss_that_is_no_likelihood_of_tokens_is_called_a_loss(
    recipe: str, text: str, bert: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / text).write_text("\n".join(f"the film was {a}. the book was {b}." for a in (*POSITIVE, *NEGATIVE) for b in NEGATIVE))
    done("adapt", text, "--model", bert, "--recipe", recipe, "--output-dir", "a", *FAST, "max_steps=1")
    out = capsys.readouterr().out
    assert out.startswith("loss on held-out text: ") and "perplexity" not in out
    assert set(facts("a")["after"]) == {"loss"}


@pytest.mark.parametrize("tuning", ["pfeiffer", "{pfeiffer: {m: 8, activation: gelu}}", "{houlsby: {m: 8}}", "{prompt_tuning: {p: 3}}"])
def test_what_to_do_next_can_be_done(tuning: str, text: str, bert: str, capsys: pytest.CaptureFixture[str]) -> None:
    done("adapt", text, "--model", bert, "--output-dir", "a", f"tuning={tuning}", *FAST, "max_steps=1")
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "temper fit DATA" in line]
    words = shlex.split(line.partition("temper ")[2].replace("DATA", "train.csv"))
    short = ("max_steps=1", "min_steps=0", "stages.0.max_steps=1", "stages.0.eval_strategy=no", "stages.0.save_strategy=no")
    done(*words, "--output-dir", "f", *(word for word in short if "dapt" in words or not word.startswith("stages")))
    assert facts("f")["recipe"] in words and facts("f")["steps"] == 1


def test_too_few_documents_to_hold_any_out(bert: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "few.txt").write_text("the film was good\nthe meal was bad\n" * 20)  # copies are no further documents
    done("adapt", "few.txt", "--model", bert, "--output-dir", "a", "max_steps=1")
    assert "no text was held out, so there is no perplexity: fewer than 20 different documents" in capsys.readouterr().out


@pytest.mark.slow
def test_a_real_model_on_real_text(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shared = Path(__file__).parents[2] / ".." / "shared"
    model, books = shared / "models" / "minilm-mlm", shared / "data" / "unlabelled" / "books.txt"
    if not model.exists() or not books.exists():
        pytest.skip("needs the shared model and texts")
    (here / "part.txt").write_text(books.read_text(encoding="utf-8")[:300_000], encoding="utf-8")
    done("adapt", "part.txt", "--model", str(model), "documents=paragraph", "max_steps=80", "framing.max_length=128", *FAST[1:])
    found = facts("adapted")
    assert 1 < found["after"]["pseudo_perplexity"] < found["before"]["pseudo_perplexity"] < 200


@pytest.mark.slow
def test_one_that_is_stopped_says_how_to_go_on(text: str, bert: str, here: Path) -> None:
    process = spawn("adapt", text, "--model", bert, *FAST, "max_steps=100000", "save_steps=5", folder=here)
    limit = time.monotonic() + 60
    while not list(here.glob("adapted/checkpoints/stage-0/checkpoint-*")) and time.monotonic() < limit:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    try:
        _, err = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    assert process.returncode == 130 and "the same command with --resume goes on from checkpoints/stage-0" in err
