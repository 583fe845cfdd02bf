"""Checkpoints: safetensors and JSON, whole or not there, and only for the run that wrote them."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tempering.errors import ResumeError
from tempering.stages.train import Train
from tempering.train import checkpoint, optimizer
from tempering.train.fit import Plan, fit
from tempering.train.settings import Loop

IDENTITY = {"recipe": "abc", "data": "123"}
TENSORS = {"weights": {"a.b": torch.arange(6.0).view(2, 3).T, "scalar": torch.tensor(2.0)}, "best": {}}
STATE: dict[str, Any] = {"identity": IDENTITY, "history": [{"step": 3, "loss": 0.5}], "best": None}


def _write(folder: Path, step: int = 3) -> Path:
    return checkpoint.write(folder, step, TENSORS, STATE)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    tensors, state = checkpoint.read(_write(tmp_path), IDENTITY)
    assert torch.equal(tensors["weights"]["a.b"], TENSORS["weights"]["a.b"]) and tensors["best"] == {}
    assert tensors["weights"]["scalar"].shape == ()
    assert state["step"] == 3 and state["history"] == STATE["history"]


def test_only_the_newest_is_kept_and_it_is_the_greatest_step(tmp_path: Path) -> None:
    for step in (3, 9, 10):
        _write(tmp_path, step)
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint-10"]
    (tmp_path / "checkpoint-9").mkdir()  # a folder without its state is not a checkpoint
    assert checkpoint.latest(tmp_path) == tmp_path / "checkpoint-10"
    assert checkpoint.latest(tmp_path / "nowhere") is None


def test_a_kill_while_writing_leaves_the_older_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(tmp_path, 3)

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", die)
        with pytest.raises(KeyboardInterrupt):
            _write(tmp_path, 4)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", die)
        with pytest.raises(KeyboardInterrupt):
            _write(tmp_path, 4)
    assert checkpoint.latest(tmp_path) == tmp_path / "checkpoint-3"
    _write(tmp_path, 5)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-5"]  # what the killed one left is gone too


@pytest.mark.parametrize("name", IDENTITY)
def test_another_run_s_checkpoint_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ResumeError, match=f"was made with another {name} .*now 'other'.*--output-dir"):
        checkpoint.read(_write(tmp_path), IDENTITY | {name: "other"})


@pytest.mark.parametrize(("file", "content"), [("state.json", "{"), ("state.json", "[]"), ("weights.safetensors", "junk")])
def test_a_damaged_checkpoint_is_named(file: str, content: str, tmp_path: Path) -> None:
    path = _write(tmp_path)
    (path / file).write_text(content)
    with pytest.raises(ResumeError, match=r"checkpoint-3.*damaged.*remove"):
        checkpoint.read(path, IDENTITY)


class Bomb:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("exploded"),))


@pytest.mark.parametrize("place", ["state.json", "weights.safetensors", "optimizer.bin", "../optimizer.pt"])
def test_a_pickle_in_the_folder_is_never_opened(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = _write(tmp_path / "run")
    (path / place).write_bytes(pickle.dumps(Bomb()))
    newest = checkpoint.latest(tmp_path / "run")
    assert newest == path
    if place in ("state.json", "weights.safetensors"):
        with pytest.raises(ResumeError, match="damaged"):
            checkpoint.read(path, IDENTITY)
    else:
        checkpoint.read(path, IDENTITY)
    assert not (tmp_path / "exploded").exists()
    pickle.loads((path / place).read_bytes())  # the bomb is a real one
    assert (tmp_path / "exploded").exists()


def _stepped(steps: int) -> tuple[dict[str, torch.Tensor], torch.optim.AdamW]:
    torch.manual_seed(0)
    weights: dict[str, torch.Tensor] = {"x.weight": nn.Parameter(torch.randn(3, 2)), "x.bias": nn.Parameter(torch.randn(3))}
    optim = optimizer.make(weights, Loop(learning_rate=0.1, weight_decay=0.1), per_weight=False)
    _advance(weights, optim, steps)
    return weights, optim


def _advance(weights: dict[str, torch.Tensor], optim: torch.optim.AdamW, steps: int) -> None:
    for _ in range(steps):
        for weight in weights.values():
            weight.grad = weight.detach().cos()
        optim.step()


def test_an_optimizer_comes_back_by_names_and_goes_on_to_the_bit() -> None:
    straight, _ = _stepped(5)
    half, optim = _stepped(2)
    resumed, fresh = _stepped(0)
    with torch.no_grad():
        for name, weight in resumed.items():
            weight.copy_(half[name])
    found = checkpoint.optimizer_tensors(optim)
    assert set(found) == {f"{field}/{name}" for field in ("step", "exp_avg", "exp_avg_sq") for name in straight}
    checkpoint.restore_optimizer(fresh, {k: v.clone() for k, v in found.items()})
    _advance(resumed, fresh, 3)
    assert all(torch.equal(resumed[n], straight[n]) for n in straight)


def test_a_run_leaves_safetensors_and_json_alone(make: Callable[..., Any], tmp_path: Path) -> None:
    learner, feed = make(Train(max_steps=2, save_strategy="steps", save_steps=1, per_device_train_batch_size=8))
    fit(learner, feed, Plan(feed.settings, folder=tmp_path, identity=IDENTITY))
    files = sorted(p.name for p in (tmp_path / "checkpoint-2").iterdir())
    assert files == ["best.safetensors", "optimizer.safetensors", "stabilizers.safetensors", "state.json", "weights.safetensors"]
    assert json.loads((tmp_path / "checkpoint-2" / "state.json").read_text())["identity"] == IDENTITY


def test_a_resume_under_other_settings_is_refused_and_a_first_one_starts(make: Callable[..., Any], tmp_path: Path) -> None:
    def go(identity: dict[str, str], resume: bool) -> Any:
        learner, feed = make(Train(max_steps=2, per_device_train_batch_size=8))
        return fit(learner, feed, Plan(feed.settings, folder=tmp_path, resume=resume, identity=identity))

    assert go(IDENTITY, resume=True).step == 2  # nothing there yet: from the beginning
    assert go(IDENTITY, resume=True).passes == 2  # finished: nothing is trained again
    with pytest.raises(ResumeError, match="another data"):
        go(IDENTITY | {"data": "999"}, resume=True)
    assert go(IDENTITY | {"data": "999"}, resume=False).passes == 2  # a new run, whatever lies there


def test_what_is_read_lies_where_torch_would_put_it(tmp_path: Path) -> None:
    """Vector sums differ in the last bit with the place of their numbers in memory: a resumed run must not see the file's."""
    odd = {f"w{i}": torch.arange(float(2 * i + 1)) for i in range(6)}
    tensors, _ = checkpoint.read(checkpoint.write(tmp_path, 1, {"weights": odd}, {"identity": {}}), {})
    assert all(w.data_ptr() % 64 == 0 and torch.equal(w, odd[n]) for n, w in tensors["weights"].items())
