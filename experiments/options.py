"""The command lines of the experiments: options that several of them have, with one meaning, one default and one help line."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Sequence
from pathlib import Path

SHARED = Path(__file__).parents[1] / ".." / "shared"
DATA = SHARED / "data"
MODEL = SHARED / "models" / "minilm-mlm"
RUNS = Path("runs")
LAST = ("min_steps", "learning_rate", "dev_rows")  # the options of `with_last_stage`, by which runs in one folder must agree


def names(text: str) -> list[str]:
    """``a,b`` on the command line."""
    return [part for part in text.split(",") if part]


def numbers(text: str) -> list[int]:
    """``1,2`` on the command line."""
    return [int(part) for part in names(text)]


def basic(doc: str | None, data: Path = DATA) -> argparse.ArgumentParser:
    """What every experiment has: its own account of itself as the help, and ``--data``."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--data", type=Path, default=data, help="where the data sets are")
    return made


def with_settings(made: argparse.ArgumentParser, of: str) -> None:
    """``key=value`` at the end of the command, as ``temper`` takes them; ``of`` says for what."""
    made.add_argument("settings", nargs="*", help=f"key=value for {of}")


def of_cells(doc: str | None, here: Path, *, model: Path | str, seeds: int, tasks: Sequence[str], table: str) -> argparse.ArgumentParser:
    """The options of experiments made of cells (`cells.carry_out`)."""
    made = basic(doc)
    made.add_argument("--model", default=str(model), help="a folder, a hub id, or minilm")
    made.add_argument("--tasks", type=names, default=list(tasks))
    made.add_argument("--seeds", type=int, default=seeds)
    made.add_argument("--test-rows", type=int, default=None, help="test rows, drawn once; default: all")
    with_store(made, here, table)
    return made


def with_store(made: argparse.ArgumentParser, here: Path, table: str) -> None:
    """Where the cells of the script ``here`` are kept, what they begin with, how long they may take, and where the ``table`` goes."""
    made.add_argument("--hours", type=float, default=None, help="begin no cell after so many hours; the same command goes on later")
    made.add_argument("--output", type=Path, default=RUNS / (here.parent.name if here.stem == "run" else here.stem))
    made.add_argument("--cells", type=Path, default=None, help="begin with the cells of a finished table: the .json beside it")
    beside = "where the Markdown table goes, its cells beside it as .json"
    made.add_argument("--table", type=Path, default=here.with_name(table), help=beside)


def with_last_stage(made: argparse.ArgumentParser) -> None:
    """How the last stage of every run is trained and judged (`cells.last_stage`). The shipped 100 steps of 5e-5 leave a small model at the
    majority class where rows are few, so that no arm could be told from another.
    """
    made.add_argument("--min-steps", type=int, default=300, help="steps of the last stage at least: few rows need steps, not epochs")
    made.add_argument("--learning-rate", type=float, default=1e-4, help="of full fine-tuning; other tunings keep that of their recipe")
    made.add_argument("--dev-rows", type=int, default=300, help="development rows that choose the best weights, drawn once")


def check(made: argparse.ArgumentParser, option: str, given: Collection[str], known: Collection[str], between: str = ", ") -> None:
    """End with a sentence where ``option`` was ``given`` a name that is not ``known``."""
    if unknown := [name for name in given if name not in known]:
        made.error(f"{option}: {between.join(unknown)} not known; there are {between.join(known)}")
