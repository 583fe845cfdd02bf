"""Trunk outputs computed once say what the uncached run says, and are shared through files that hold no pickle."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tempering.cache import TrunkCache
from tempering.contracts import Prompt, Seeds
from tempering.framings.head import Head
from tempering.framings.masked_lm import MaskedLM
from tempering.learner import Learner
from tempering.stabilizers.mixout import Mixout
from tempering.stabilizers.r_drop import RDrop
from tempering.stages.setup import Surroundings, assemble
from tempering.stages.train import Train
from tempering.tunings.frozen import Frozen
from tempering.tunings.full import Full
from tempering.tunings.lora import LoRA
from tests.laws.bench import STAGE, bits, dev, differing, logits, run
from tests.tiny import tiny_backbone, tiny_task

FROZEN = dataclasses.replace(STAGE, tuning=Frozen())


def _learner(framing: Any = None, seed: int = 0) -> Learner:
    return assemble(Train(tuning=Frozen(), framing=framing or Head()), tiny_backbone(seed=seed), tiny_task(24), Seeds.of(0))


def _prompts(learner: Learner, start: int = 0, stop: int = 24) -> list[Prompt]:
    found = learner.framing.render(tiny_task(24).train.examples[start:stop], (), np.random.default_rng(0))
    return [prompts[0] for prompts in found]


def _count(learner: Learner) -> list[int]:
    """The sizes of the batches that go through the body."""
    seen: list[int] = []
    learner.backbone.model.register_forward_pre_hook(lambda _m, _a, kwargs: seen.append(len(kwargs["input_ids"])), with_kwargs=True)
    return seen


@pytest.mark.parametrize("framing", [Head(), Head(pool="mean", heads=3), Head(layers=(0, 1, -1), combine="concat")])
def test_a_cached_run_scores_as_the_uncached_one(framing: Head, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = dataclasses.replace(FROZEN, framing=framing, max_steps=6)
    cached = run(stage)
    assert cached.record["stage"]["cached"]
    monkeypatch.setattr(Train, "why_not_cached", property(lambda self: "for comparison"))
    uncached = run(stage)
    assert not uncached.record["stage"]["cached"]
    torch.testing.assert_close(logits(cached, dev()), logits(uncached, dev()), rtol=1e-5, atol=1e-5)
    assert [p.label for p in cached.predictions(dev())] == [p.label for p in uncached.predictions(dev())]


def test_a_study_reads_every_text_once() -> None:
    cache = TrunkCache()
    before: list[int] = []
    for seed in range(3):
        backbone = tiny_backbone()
        backbone.model.register_forward_pre_hook(lambda _m, _a, kw: before.append(len(kw["input_ids"])), with_kwargs=True)
        FROZEN.run(backbone, tiny_task(24), Seeds.of(seed), around=Surroundings(cache=cache))
    distinct = {e.texts for split in (tiny_task(24).train, tiny_task(24).dev) for e in split}
    assert sum(before) == len(distinct)


def test_a_shared_cache_changes_no_bit() -> None:
    cache = TrunkCache()
    run(FROZEN, around=Surroundings(cache=cache))
    assert differing(bits(run(FROZEN, around=Surroundings(cache=cache))), bits(run(FROZEN))) == []


def test_rows_come_in_the_order_of_the_prompts() -> None:
    learner = _learner()
    prompts, cache = _prompts(learner), TrunkCache()
    found = cache.features(learner, prompts, batch_size=5)
    order = [7, 0, 23, 7, 3]
    again = cache.features(learner, [prompts[i] for i in order])
    assert torch.equal(again, found[order])
    with torch.no_grad():
        alone = learner.framing.trunk(learner.backbone, learner.framing.collate([prompts[7]], np.random.default_rng(0)))
    torch.testing.assert_close(found[7:8], alone, rtol=1e-5, atol=1e-5)


def test_only_what_is_new_is_computed() -> None:
    learner = _learner()
    seen, cache, prompts = _count(learner), TrunkCache(), _prompts(learner)
    cache.features(learner, prompts[:10])
    cache.features(learner, prompts[5:15])
    cache.features(learner, prompts[:15])
    assert seen == [10, 5]


def test_segments_on_disk_serve_other_processes(tmp_path: Path) -> None:
    """Two caches stand for two processes: what one wrote, the other maps into memory; no segment is written twice."""
    first, second = TrunkCache(tmp_path), TrunkCache(tmp_path)
    learner, other = _learner(), _learner()
    seen, prompts = _count(other), _prompts(learner)
    a = first.features(learner, prompts[:10])
    assert torch.equal(second.features(other, prompts[:10]), a) and seen == []
    b = second.features(other, prompts[5:20])
    assert seen == [10]  # rows 10 to 19
    assert torch.equal(first.features(learner, prompts[:20])[5:], b)
    assert sorted(p.suffixes[0] for p in tmp_path.iterdir()) == [".keys", ".keys", ".rows", ".rows"]
    ((_, rows),) = second._rows.items()
    assert any(isinstance(row, np.memmap) for row in rows.values())


def test_a_half_written_segment_is_not_read(tmp_path: Path) -> None:
    learner = _learner()
    TrunkCache(tmp_path).features(learner, _prompts(learner))
    (keys,) = tmp_path.glob("*.keys.npy")
    keys.rename(keys.with_name(f"{keys.name}.1234.tmp"))  # killed before the second rename
    seen = _count(learner)
    TrunkCache(tmp_path).features(learner, _prompts(learner))
    assert seen == [24]


class Bomb:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("exploded"),))


@pytest.mark.parametrize("kind", ["rows", "keys"])
def test_a_damaged_segment_is_computed_again_and_a_pickle_never_opened(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    learner = _learner()
    seen, expected = _count(learner), TrunkCache(tmp_path).features(learner, _prompts(learner))
    (file,) = tmp_path.glob(f"*.{kind}.npy")
    for damage in (b"junk", b"", file.read_bytes()[:200]):
        file.write_bytes(damage)
        assert torch.equal(TrunkCache(tmp_path).features(learner, _prompts(learner)), expected)
    with file.open("wb") as opened:
        np.save(opened, np.array([Bomb()], dtype=object), allow_pickle=True)
    assert torch.equal(TrunkCache(tmp_path).features(learner, _prompts(learner)), expected)
    assert seen == [24] * 5 and not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    "other",
    [
        lambda: _learner(Head(pool="mean")),
        lambda: _learner(Head(layers=(0,))),
        lambda: _learner(Head(max_length=8)),
        lambda: _learner(seed=1),
    ],
)
def test_other_weights_pooling_layers_or_lengths_are_other_rows(other: Any) -> None:
    cache, learner, twin = TrunkCache(), _learner(), other()
    a, b = cache.features(learner, _prompts(learner)), cache.features(twin, _prompts(twin))
    assert len(cache._rows) == 2
    assert a.shape != b.shape or not torch.equal(a, b)


def test_token_types_tell_prompts_apart() -> None:
    learner, cache = _learner(), TrunkCache()
    plain, paired = Prompt([2, 9, 3, 8, 3]), Prompt([2, 9, 3, 8, 3], [0, 0, 0, 1, 1])
    a, b = cache.features(learner, [plain]), cache.features(learner, [paired])
    assert not torch.equal(a, b)


@pytest.mark.parametrize(
    ("stage", "reason"),
    [
        (Train(tuning=Frozen()), ""),
        (Train(tuning=Frozen(), stabilizers=(RDrop(),)), ""),
        (Train(tuning=Full()), "tuning full trains weights of the backbone"),
        (Train(tuning=LoRA()), "tuning lora trains weights of the backbone"),
        (Train(tuning=Frozen(), framing=MaskedLM()), "masks are drawn anew for every batch"),
        (Train(tuning=Frozen(), stabilizers=(Mixout(),)), "mixout changes weights or embeddings from pass to pass"),
    ],
)
def test_what_may_be_cached_is_decided_from_the_values(stage: Train, reason: str) -> None:
    assert stage.why_not_cached == reason and stage.cached == (not reason)
