"""GRFT: rows and columns by hand, on both ways of storing a matrix, and the decay towards the pretrained weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tempering.errors import ModelError
from tempering.tunings.attach import body_weights, linear_maps, transposed
from tempering.tunings.grft import GRFT
from tests.laws.bench import run, stage_of
from tests.tiny import tiny_backbone
from tests.tunings.shared import attached, disturb
from tests.tunings.sparse_cases import Told, before_and_after, fresh, scores_like


@pytest.mark.parametrize("axis", ["rows", "columns"])
@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_the_lines_with_the_largest_sum_of_squares_are_chosen(family: str, axis: Any) -> None:
    tuning = GRFT(r=3, axis=axis, rows=9, batch_size=4)
    learner = fresh(tuning, family)
    maps = {p: m for p, m in linear_maps(learner.backbone).items() if p.startswith(learner.backbone.layout.blocks + ".")}
    batches = [scores_like(body_weights(learner.backbone), seed) for seed in (1, 2)]
    probe = Told(batches)
    tuning.prepare(learner, probe)
    assert probe.asked == {"rows": 9, "batch_size": 4, "sampled": False}
    for path, layer in maps.items():
        squares: Any = sum(b[f"backbone.model.{path}.weight"].square() for b in batches)
        squares = squares.T if transposed(layer) else squares  # (out, in)
        by_line = squares.sum(1 if axis == "rows" else 0)
        assert layer.grft.lines.tolist() == sorted(by_line.argsort(descending=True)[:3].tolist())  # type: ignore[union-attr,operator]


@pytest.mark.parametrize("axis", ["rows", "columns"])
@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_whole_lines_change_and_nothing_else(family: str, axis: Any) -> None:
    tuning = GRFT(r=2, axis=axis)
    backbone = attached(tuning, family)
    disturb(backbone)
    maps = linear_maps(backbone)
    for name, (old, new) in before_and_after(tuning, backbone).items():
        changed = old != new
        path, _, leaf = name.rpartition(".")
        if path in maps and leaf == "weight" and path.startswith(backbone.layout.blocks + "."):
            changed = changed.T if transposed(maps[path]) else changed
            lines = changed if axis == "rows" else changed.T
            assert lines.all(1).sum() == lines.any(1).sum() == 2, name
        else:
            assert not changed.any(), name


def test_the_count_is_r_times_the_length_of_a_line() -> None:
    backbone = tiny_backbone()
    d, f, blocks = 32, 64, 2
    assert GRFT(r=3).count(backbone) == blocks * 3 * (4 * d + d + f)  # rows of q k v o, of W1 (f, d), of W2 (d, f)
    assert GRFT(r=3, axis="columns").count(backbone) == blocks * 3 * (4 * d + f + d)


def test_the_decay_is_half_the_squared_distance_to_the_pretrained_weights() -> None:
    tuning = GRFT(r=2, decay=0.3)
    learner = fresh(tuning)
    disturb(learner.backbone)
    term = tuning.start(learner, learner.trained(), 0).term
    assert term is not None
    value = term(None).item()  # type: ignore[arg-type]
    distance = sum(float((a - b).square().sum()) for a, b in before_and_after(tuning, learner.backbone).values())
    assert value == pytest.approx(0.3 / 2 * distance, rel=1e-4)
    assert GRFT(decay=0).neutral and not tuning.neutral


def test_a_strong_decay_holds_the_weights_near_their_start() -> None:
    def distance(decay: float) -> float:
        tuning = GRFT(r=2, decay=decay, rows=4)
        return sum(float((a - b).square().sum()) for a, b in before_and_after(tuning, run(stage_of(tuning)).backbone).values())

    assert distance(100.0) < 0.8 * distance(0.0)


def test_more_lines_than_there_are_is_refused() -> None:
    with pytest.raises(ModelError, match=r"grft: r = 33 is more than the 32 rows of .*; give r of at most 32"):
        GRFT(r=33).attach(tiny_backbone())
    GRFT(r=32).attach(tiny_backbone())


def test_lines_that_an_earlier_stage_trained_stay() -> None:
    tuning = GRFT(r=2)
    learner = fresh(tuning)
    disturb(learner.backbone)
    before = {n: b.clone() for n, b in learner.named_buffers() if n.endswith("grft.lines")}
    tuning.prepare(learner, Told([scores_like(body_weights(learner.backbone))]))
    assert before and all(torch.equal(dict(learner.named_buffers())[n], b) for n, b in before.items())
