"""``--report-to``: a real tracker receives every loss and metric, under steps that grow, and keeps off standard output."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from accelerate.tracking import GeneralTracker

from tempering.train.progress import Event, trackers
from tests.commands.shared import done, spawn

TWO = """
name: two
stages:
- train: {framing: masked_lm, text: unlabeled, max_steps: 3, eval_strategy: "no"}
- train: {max_steps: 2, eval_strategy: steps, eval_steps: 1, bf16: true, learning_rate: 1e-3}
"""


def _scalars(folder: Path) -> dict[str, dict[int, float]]:
    """What TensorBoard would show: tag -> step -> value."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        found = EventAccumulator(str(folder)).Reload()
    return {tag: {e.step: e.value for e in found.Scalars(tag)} for tag in found.Tags()["scalars"]}


def test_tensorboard_receives_losses_and_metrics_of_both_stages(here: Path, bert: str) -> None:
    """The second stage has another precision than the tracker's process: nothing about it may be fixed once and for all."""
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    (here / "two.yaml").write_text(TWO)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # tensorboard's own
        done("fit", "train.csv", "--dev", "dev.csv", "--recipe", "two.yaml", "--model", bert, "--report-to", "tensorboard")
    (folder,) = {p.parent for p in (here / "model" / "logs").glob("*/events.out.tfevents.*")}
    shown = _scalars(folder)
    history = json.loads(Path("model/metrics.json").read_text())["history"]
    assert list(shown["train/loss"]) == [1, 2, 3, 4, 5]  # counted through both stages
    assert min(list(shown["train/loss"].values())[:3]) > 3 > 1 > shown["train/loss"][4] > 0  # of 192 words, then of two labels
    assert shown["train/learning_rate"][4] == pytest.approx(1e-3)
    for name in ("loss", "accuracy"):
        assert shown[f"eval/{name}"] == {4: pytest.approx(history[0][name], abs=1e-6), 5: pytest.approx(history[1][name], abs=1e-6)}


class Loud(GeneralTracker):
    """A tracker that talks on standard output and keeps what it gets."""

    name = "loud"
    requires_logging_directory = False
    tracker = None

    def __init__(self) -> None:
        super().__init__()
        self.config: dict[str, Any] = {}
        self.seen: list[tuple[int | None, dict[str, Any]]] = []
        self.ended = False

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.config = values
        print("hello")

    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        self.seen.append((step, values))
        print("logged")

    def finish(self) -> None:
        self.ended = True
        print("goodbye")


def _step(step: int) -> Event:
    return {"event": "step", "step": step, "total": 2, "loss": 0.5, "learning_rate": 0.1}


def test_steps_grow_and_standard_output_stays_clean(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loud = Loud()
    names: Any = [loud]
    with trackers(names, tmp_path, {"seed": 3, "recipe": "two", "unfit": [1]}) as tell:
        for event in (_step(1), _step(2), {"event": "note", "text": "stage 2"}, _step(1), _step(2)):
            tell(event)
        tell({"event": "evaluate", "step": 2, "total": 2, "metrics": {"accuracy": 0.75}, "metric": "accuracy"})
    assert [step for step, _ in loud.seen] == [1, 2, 3, 4, 4] and loud.config == {"seed": 3, "recipe": "two"}
    assert loud.seen[0][1] == {"train/loss": 0.5, "train/learning_rate": 0.1} and loud.seen[-1][1] == {"eval/accuracy": 0.75}
    said = capsys.readouterr()
    assert said.out == "" and "hello" in said.err and "goodbye" in said.err


def test_a_run_that_fails_ends_its_tracker_too(tmp_path: Path) -> None:
    loud = Loud()
    names: Any = [loud]

    def stopped(_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), trackers(names, tmp_path, {}):
        stopped(_step(1))
    assert loud.ended


@pytest.mark.slow
@pytest.mark.parametrize("name", ["trackio", "mlflow"])
def test_other_trackers_where_they_are_installed(name: str, here: Path, bert: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(name, reason=f"the extra {name} is not installed")
    monkeypatch.setenv("TRACKIO_DIR", str(here / "trackio"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{here}/mlflow.db")
    words = ("fit", "train.csv", "--dev", "dev.csv", "--recipe", "full", "--model", bert, "max_steps=2", "min_steps=0")
    out, err = spawn(*words, "--report-to", name, "--json", folder=here).communicate(timeout=300)
    assert json.loads(out)["steps"] == 2, err
    kept = b"".join(p.read_bytes() for p in (here / "trackio" if name == "trackio" else here).glob("*.db*"))
    assert b"train/loss" in kept and b"eval/accuracy" in kept
