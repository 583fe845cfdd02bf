"""``temper probe-facts``: facts from files, a line a relation, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tempering.backbone import Backbone
from tempering.prompting.fact_files import read_relations
from tempering.prompting.facts import Fact, Relation, probe_facts
from tests.commands.shared import done, refuses
from tests.commands.test_prompts import masked  # noqa: F401 - a fixture

ROWS = "sub_label,obj_label,predicate_id\nthe film,good,P1\nthe room,dark,P2\nthe meal,sad,P1\nit,very good,P2\nthe book,a b,P3\n"


@pytest.fixture
def facts(here: Path) -> Path:
    (here / "facts.csv").write_text(ROWS, encoding="utf-8")
    lines = [{"relation": f"P{i}", "template": f"[X] {verb} [Y] .", "label": "x"} for i, verb in enumerate(("was", "is", "very"), start=1)]
    (here / "relations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return here


def test_facts_are_read_by_relation(facts: Path) -> None:
    found = read_relations("facts.csv", relations="relations.jsonl")
    assert found[0] == Relation("P1", "[X] was [Y] .", (Fact("the film", "good"), Fact("the meal", "sad")))
    assert [(r.name, r.template, len(r.facts)) for r in found[1:]] == [("P2", "[X] is [Y] .", 2), ("P3", "[X] very [Y] .", 1)]
    both = read_relations("facts.csv", ["[X] was [Y]", "[Y] is [X]"])
    assert [(r.name, r.template) for r in both[:3]] == [("P1", "[X] was [Y]"), ("P1", "[Y] is [X]"), ("P2", "[X] was [Y]")]
    (facts / "own.jsonl").write_text('{"who": "it", "object": "good", "template": "[X] is [Y]"}\n', encoding="utf-8")
    assert read_relations("own.jsonl", columns={"subject": "who"}) == [Relation("", "[X] is [Y]", (Fact("it", "good"),))]


def test_relations_are_probed_and_averaged_alike(facts: Path, masked: str, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    done("probe-facts", "facts.csv", "--model", masked, "--relations", "relations.jsonl", "--show", "1", "--json")
    found = json.loads(capsys.readouterr().out)
    first, second = found["relations"]
    alone = probe_facts(Backbone.load(masked), "[X] was [Y] .", [Fact("the film", "good"), Fact("the meal", "sad")])
    assert first["ranks"] == list(alone.ranks) and first["mrr"] == pytest.approx(sum(1 / r for r in alone.ranks) / 2)
    assert (second["facts"], second["left_out"]) == (1, 1) and found["skipped"] == ["P3"]
    assert found["mean"]["mrr"] == pytest.approx((first["mrr"] + second["mrr"]) / 2)
    (shown,) = first["shown"]
    assert shown["subject"] == "the film" and shown["rank"] == first["ranks"][0] and len(shown["said"]) == 5
    assert (shown["said"][0] == "good") == (shown["rank"] == 1)
    (facts / "words.txt").write_text("good\ndark\nvery good\n\nsad\n", encoding="utf-8")
    done("probe-facts", "facts.csv", "--model", masked, "--template", "[X] was [Y]", "--among", "words.txt")
    said = capsys.readouterr().out
    assert "the film: good at rank" in said and "mean" in said and "note: P3: no object is one token" in said
    ranks = [int(line.split("at rank ")[1].split(";")[0]) for line in said.splitlines() if "at rank" in line]
    assert len(ranks) == 3 and max(ranks) <= 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "facts.csv: expected a template for the facts, found none; give --template"),
        (("--template", "[X] is [Y]", "--relations", "relations.jsonl"), "both --template and --relations"),
        (("--template", "[X] is here"), "holds one subject and one object"),
        (("--template", "[X] is [Y] [Y]"), "holds one subject and one object"),
        (("--template", "[X] is [Y]", "--subject", "sub_labe"), "did you mean 'sub_label'"),
        (("--template", "[X] is [Y]", "--among", "no.txt"), "--among no.txt: expected a text file"),
        (("--relations", "facts.csv"), "expected a column of the template"),
        (("--relations", "few.csv"), "facts.csv, row 3: relation 'P2' has no template in few.csv (there: P1)"),
    ],
)
def test_mistakes_are_told(words: tuple[str, ...], said: str, facts: Path, masked: str, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    (facts / "few.csv").write_text("relation,template\nP1,[X] was [Y]\n", encoding="utf-8")
    refuses("probe-facts", "facts.csv", "--model", masked, *words, said=said, capsys=capsys)


def test_a_row_without_an_object_and_a_model_without_a_head_are_refused(facts: Path, bert: str, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("--template", "[X] is [Y]")
    refuses("probe-facts", "facts.csv", "--model", bert, *asked, said="holds no weights of a language-model head", capsys=capsys)
    (facts / "facts.csv").write_text("subject,object\nit,\n", encoding="utf-8")
    refuses("probe-facts", "facts.csv", "--model", bert, *asked, said="row 2, column 'object': expected text", capsys=capsys)
    (facts / "facts.csv").write_text("a,b\nit,c\n", encoding="utf-8")
    refuses("probe-facts", "facts.csv", "--model", bert, *asked, said="expected a column of the subject, called subject or", capsys=capsys)
