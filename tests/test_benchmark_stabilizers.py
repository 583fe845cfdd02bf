"""The benchmark of stabilizers: its published ways are what they say, and it measures what it lists."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch.nn import functional as F

from tests.tiny import save_tiny

FOLDER = Path(__file__).parents[1] / "benchmarks"
LABELS = torch.tensor([0, 1, 1])


@pytest.fixture(scope="module")
def scripts() -> Iterator[tuple[Any, Any]]:
    """``stabilizers`` and ``stabilizer_references``: scripts beside each other, in no package."""
    sys.path.insert(0, str(FOLDER))
    try:
        yield importlib.import_module("stabilizers"), importlib.import_module("stabilizer_references")
    finally:
        sys.path.remove(str(FOLDER))
        for name in ("stabilizers", "stabilizer_references"):
            sys.modules.pop(name, None)


@pytest.fixture
def model() -> Callable[[], Any]:
    """A tiny classifier that is always the same one, without dropout."""

    def make() -> Any:
        torch.manual_seed(0)
        sizes = {"vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
        off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        return transformers.BertForSequenceClassification(transformers.BertConfig(**sizes, **off, num_labels=2))

    return make


def inputs() -> dict[str, torch.Tensor]:
    ids = torch.randint(5, 30, (3, 7), generator=torch.Generator().manual_seed(1))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def test_the_published_ways_make_two_two_two_one_and_one_calls_and_eight_together(scripts: Any, model: Callable[[], Any]) -> None:
    _, references = scripts
    found = []
    for methods in (*((m,) for m in references.FIVE), references.FIVE):
        way = references.Published(model(), methods)
        way.loss(inputs(), LABELS).backward()
        found.append(way.calls)
    assert found == [2, 2, 2, 1, 1, 8]


def test_without_dropout_their_losses_are_cross_entropy_and_their_terms(scripts: Any, model: Callable[[], Any]) -> None:
    _, references = scripts
    plain = F.cross_entropy(model()(**inputs()).logits, LABELS)
    for method in ("r_drop", "r3f", "self_distillation"):  # both calls agree, and mixout starts at its target
        torch.testing.assert_close(references.Published(model(), (method,)).loss(inputs(), LABELS), plain, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(references.Published(model(), ("mixout",)).loss(inputs(), LABELS), plain, rtol=1e-4, atol=1e-6)
    pooled = model().bert(**inputs()).pooler_output
    margin = 1 / (1 + (pooled[0] - pooled[1:].mean(0)).norm())
    torch.testing.assert_close(references.Published(model(), ("mmr",)).loss(inputs(), LABELS), plain + margin)


def test_the_released_mixout_takes_two_values(scripts: Any) -> None:
    """W = 3, W0 = 1, p = 0.1: (3 - 0.1) / 0.9 and 1, as in the library."""
    _, references = scripts
    linear = torch.nn.Linear(400, 1, bias=False)
    torch.nn.init.ones_(linear.weight)
    mixed = references.MixLinear(linear)
    torch.nn.init.constant_(mixed.weight, 3.0)
    found = mixed(torch.eye(400)).flatten()
    assert sorted({round(x, 4) for x in found.tolist()}) == [1.0, 3.2222]
    assert mixed.eval()(torch.eye(400)).unique().tolist() == [3.0]


def test_the_teacher_follows_a_step_behind(scripts: Any, model: Callable[[], Any]) -> None:
    _, references = scripts
    way = references.Published(model(), ("self_distillation",))
    seen = []
    for _ in range(3):
        seen.append(way.model.classifier.weight.detach().clone())
        with torch.no_grad():
            way.model.classifier.weight.add_(1.0)
        way.after_step()
        assert torch.equal(way.teacher.classifier.weight, seen[-1]) and not way.teacher.training


def test_it_prints_a_line_for_every_way(scripts: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script, references = scripts
    model = str(save_tiny("bert", tmp_path / "model"))
    small = ["--model", model, "--rounds", "1", "--steps", "1", "--rows", "4", "--tokens", "6"]
    script.main([*small, "--methods", "r_drop,mixout"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("passes")[0].split() for line in lines[1:]] == [
        ["plain", "1"],
        ["r_drop", "2"],
        ["mixout", "1"],
        ["r_drop,", "published", "way", "2"],
        ["mixout,", "published", "way", "1"],
    ]
    assert ["ours is" in line for line in lines[1:]] == [False, False, False, True, True]
    args = type("Args", (), {"model": model, "methods": ""})
    from tempering.registry import names

    listed = set(script.ways_of(args))
    assert {*names("stabilizer"), "plain", "10 heads", "label smoothing", script.TOGETHER, f"{script.TOGETHER}, published way"} <= listed
    assert {f"{name}, published way" for name in references.FIVE} <= listed
