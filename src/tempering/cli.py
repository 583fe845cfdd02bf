"""The command ``temper``: parse, call, print. What a command does is in `tempering.commands`; nothing heavy is imported before it runs.

Exit codes: 0 done; 1 something unexpected (the traceback is in the file that is named), or findings with ``check --strict``; 2 a
mistake in the command, the data or a recipe, said in one line; 130 stopped by the user.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import typer

from tempering.commands import options as o
from tempering.commands.console import quieten, surprise
from tempering.commands.inputs import Source
from tempering.errors import TemperingError

app = typer.Typer(
    name="temper",
    help="Fine-tune pretrained language models on your labelled text, and compare recipes honestly.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

STOPPED = 130


@app.command()
def check(
    data: o.Data,
    dev: o.Dev = None,
    test: o.Test = None,
    text: o.Text = None,
    text_pair: o.Pair = None,
    label: o.Label = None,
    kind: o.Kind = None,
    model: o.Reader = None,
    strict: o.Strict = False,
    json: o.Json = False,
) -> None:
    """Look the data over before training.

    Finds duplicates, leaks between splits, conflicting labels, imbalance, texts that will be cut, and names their rows.
    """
    from tempering.commands import check as command

    raise typer.Exit(command.run(Source(data, dev, test, text, text_pair, label, kind), model, json, strict))


@app.command()
def fit(
    data: o.Data,
    settings: o.Settings = None,
    dev: o.Dev = None,
    test: o.Test = None,
    text: o.Text = None,
    text_pair: o.Pair = None,
    label: o.Label = None,
    kind: o.Kind = None,
    recipe: o.Fitted = "auto",
    model: o.Model = "minilm",
    seed: o.Seed = 0,
    sampling_seed: o.SamplingSeed = None,
    init_seed: o.InitSeed = None,
    order_seed: o.OrderSeed = None,
    dropout_seed: o.DropoutSeed = None,
    output_dir: o.OutputDir = Path("model"),
    resume: o.Resume = False,
    overwrite: o.Overwrite = False,
    merge: o.Merge = False,
    metric: o.Metrics = None,
    report_to: o.ReportTo = None,
    dry_run: o.DryRun = False,
    json: o.Json = False,
) -> None:
    """Fine-tune a model and write it to a folder."""
    from tempering.commands import fit as command

    source = Source(data, dev, test, text, text_pair, label, kind)
    place = command.Place(output_dir, resume, overwrite, merge, dry_run, json)
    own = {"sampling": sampling_seed, "init": init_seed, "order": order_seed, "dropout": dropout_seed}
    command.run(
        command.Request(source, recipe, tuple(settings or ()), model, seed, own, tuple(metric or ()), tuple(report_to or ()), place)
    )


@app.command()
def predict(folder: o.Folder, data: o.Texts, text: o.Text = None, text_pair: o.Pair = None, output: o.Predictions = None) -> None:
    """Predict new rows with a fitted model.

    Writes the input's columns, the prediction, and a probability for each label.
    """
    from tempering.commands import predict as command

    command.run(folder, Source(data, text=text, text_pair=text_pair), output)


@app.command()
def evaluate(
    folder: o.Folder,
    data: o.Data,
    text: o.Text = None,
    text_pair: o.Pair = None,
    label: o.Label = None,
    metric: o.Metrics = None,
    json: o.Json = False,
) -> None:
    """Score a fitted model on labelled rows."""
    from tempering.commands import evaluate as command

    command.run(folder, Source(data, text=text, text_pair=text_pair, label=label), tuple(metric or ()), json)


@app.command()
def compare(
    data: o.Data,
    settings: o.Settings = None,
    dev: o.Dev = None,
    test: o.Test = None,
    text: o.Text = None,
    text_pair: o.Pair = None,
    label: o.Label = None,
    kind: o.Kind = None,
    recipes: o.Recipes = "full,lora,bitfit,head",
    sizes: o.Sizes = "all",
    seeds: o.Seeds = 5,
    budget: o.Budget = 1,
    model: o.Model = "minilm",
    seed: o.Seed = 0,
    metric: o.Metrics = None,
    workers: o.Workers = 1,
    output_dir: o.OutputDir = Path("study"),
    dry_run: o.DryRun = False,
    json: o.Json = False,
) -> None:
    """Find out which recipe serves the data best.

    Every recipe runs at every size with the same seeds. A finished run is never run again: the same command goes on where it stood.
    """
    from tempering.commands import compare as command

    source = Source(data, dev, test, text, text_pair, label, kind)
    words, names = tuple(settings or ()), tuple(metric or ())
    command.run(command.Request(source, recipes, words, sizes, seeds, budget, model, seed, names, workers, output_dir), dry_run, json)


@app.command()
def report(folder: o.StudyFolder, form: o.Form = "table", output: o.Output = None) -> None:
    """Show the answer of a study."""
    from tempering.commands import report as command

    command.run(folder, form, output)


@app.command(name="list")
def list_(topic: o.Topic = None, json: o.Json = False) -> None:
    """Show what there is to choose from."""
    from tempering.commands import listing as command

    command.run(topic, json)


@app.command()
def explain(
    recipe: o.Recipe,
    words: o.Words = None,
    dev: o.Dev = None,
    test: o.Test = None,
    text: o.Text = None,
    text_pair: o.Pair = None,
    label: o.Label = None,
    kind: o.Kind = None,
    model: o.Model = "minilm",
    json: o.Json = False,
) -> None:
    """Say what a recipe will do, before it does it.

    What is trained, forward passes a step, memory, what is computed once, what is refused and why. No weight is loaded.
    """
    from tempering.commands import explain as command

    command.run(recipe, list(words or ()), Source("", dev, test, text, text_pair, label, kind), model, json)


@app.command()
def demo(output_dir: o.OutputDir = Path("temper-demo")) -> None:
    """Check, fit and compare on shipped data, in minutes."""
    from tempering.commands import demo as command

    command.run(output_dir)


@app.callback(invoke_without_command=True)
def _root(version: o.Version = False) -> None:
    if version:
        from tempering import __version__

        typer.echo(f"tempering {__version__}")
        raise typer.Exit


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code. Nothing is raised: a mistake is one line, a surprise a line and a file."""
    try:
        code = int(app(arguments or ["--help"], prog_name="temper", standalone_mode=False) or 0)
        return code if code != STOPPED else _fail("stopped", STOPPED)
    except TemperingError as error:
        return _fail(str(error), 2)
    except (KeyboardInterrupt, typer.Abort):  # typer of some releases catches the first and returns its code
        return _fail("stopped", STOPPED)
    except BrokenPipeError:  # the reader of a pipe, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if isinstance(error, typer.BadParameter.__mro__[1]):  # typer's root of usage mistakes, which it does not export
            return _fail(_usage(error), 2)
        return _fail(surprise(error), 1)


def main() -> None:
    """The entry point of ``temper``."""
    quieten()
    sys.exit(run(sys.argv[1:]))


def _fail(message: str, code: int) -> int:
    sys.stdout.flush()
    print(f"error: {' '.join(message.splitlines())}", file=sys.stderr)
    return code


def _usage(error: Any) -> str:
    """A usage mistake, and where the right usage stands."""
    where = error.ctx.command_path if error.ctx is not None else "temper"
    return f"{error.format_message().rstrip('.')}; see  {where} --help"
