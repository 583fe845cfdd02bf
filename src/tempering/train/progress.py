"""What a run tells while it works: plain events, shown by rich or sent to trackers."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

Event = dict[str, Any]
Listener = Callable[[Event], None]


def first_process() -> bool:
    """Whether this process speaks and writes for all: the only one, or the first of those that ``accelerate launch`` started."""
    return int(os.environ.get("RANK", "0")) == 0


def silent(_: Event) -> None:
    """Tell nobody."""


def both(*listeners: Listener) -> Listener:
    """Tell several listeners."""

    def tell(event: Event) -> None:
        for listener in listeners:
            listener(event)

    return tell


@contextmanager
def bar(title: str) -> Iterator[Listener]:
    """A live line with steps, loss, best score and time left on standard error; plain lines where it is no terminal."""
    if not first_process():
        yield silent
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        row = progress.add_task(title, total=None)

        def tell(event: Event) -> None:
            if event["event"] == "step":
                progress.update(row, completed=event["step"], total=event["total"], description=f"{title} loss {event['loss']:.4f}")
            elif event["event"] == "evaluate":
                shown = "  ".join(f"{k} {v:.4f}" for k, v in event["metrics"].items() if k in ("loss", event["metric"]))
                progress.console.print(f"{title} step {event['step']}/{event['total']}: dev {shown}", highlight=False)
            elif event["event"] == "refresh":
                shown = "  ".join(f"{k} {v:.4g}" for k, v in list(event["facts"].items())[:3])
                progress.console.print(f"{title} step {event['step']}/{event['total']}: {shown}", highlight=False)
            elif event["event"] == "note":
                progress.console.print(event["text"], highlight=False, soft_wrap=True)

        yield tell


TRACKERS = ("tensorboard", "mlflow", "wandb", "trackio")


@contextmanager
def trackers(names: Sequence[str], folder: Path, config: dict[str, Any]) -> Iterator[Listener]:
    """Send losses and metrics to the trackers in ``names`` through accelerate; none by default."""
    if not names or not first_process():
        yield silent
        return
    from accelerate import Accelerator

    with redirect_stdout(sys.stderr):  # some greet and say goodbye there, where the command's result belongs
        accelerator = Accelerator(log_with=list(names), project_dir=str(folder))
        accelerator.init_trackers("tempering", config={k: v for k, v in config.items() if isinstance(v, (int, float, str, bool))})
        try:
            yield _numbered(accelerator.log)
        finally:
            accelerator.end_training()
            atexit.register(_hush)  # trackio says goodbye once more when the process ends


def _hush() -> None:
    sys.stdout.flush()
    sys.stdout = sys.stderr


def _numbered(log: Callable[..., None]) -> Listener:
    """Losses and metrics to ``log``. Steps are counted through all stages, since trackers want them to grow."""
    before = last = 0  # steps of earlier stages, and the last step of this one

    def tell(event: Event) -> None:
        nonlocal before, last
        if event["event"] == "step":
            before, last = before + (last if event["step"] <= last else 0), event["step"]
            log({"train/loss": event["loss"], "train/learning_rate": event["learning_rate"]}, step=before + last)
        elif event["event"] == "evaluate":
            log({f"eval/{k}": v for k, v in event["metrics"].items()}, step=before + event["step"])
        elif event["event"] == "refresh":
            log({f"framing/{k}": v for k, v in event["facts"].items()}, step=before + max(last, event["step"]))

    return tell
