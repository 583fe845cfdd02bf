"""The command ``temper``: parse, call, print. What a command does is in `tempering.commands`; nothing heavy is imported before it runs.

Exit codes: 0 done; 1 something unexpected (the traceback is in the file that is named), or findings with ``check --strict``; 2 a
mistake in the command, the data or a recipe, said in one line; 130 stopped by the user.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from tempering.commands.inputs import Source
from tempering.errors import TemperingError

app = typer.Typer(
    name="temper",
    help="Fine-tune pretrained language models on your labelled text, and compare recipes honestly.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Data = Annotated[str, typer.Argument(metavar="DATA", help="CSV, TSV, JSONL, JSON or Parquet file, folder with train, dev and test, or hub data set.")]
Dev = Annotated[str | None, typer.Option("--dev", metavar="FILE", help="Development rows; else a fifth of DATA is held out.")]
Test = Annotated[str | None, typer.Option("--test", metavar="FILE", help="Test rows, read once, at the end.")]
Text = Annotated[str | None, typer.Option("--text", metavar="COLUMN", help="Column of the text; else found by its usual names.")]
Pair = Annotated[str | None, typer.Option("--text-pair", metavar="COLUMN", help="Column of the second text of a pair.")]
Label = Annotated[str | None, typer.Option("--label", metavar="COLUMN", help="Column of the label, or several 0/1 columns: a,b,c.")]
Kind = Annotated[str | None, typer.Option("--kind", help="classification, regression or multilabel; else seen from the labels.")]
Model = Annotated[str, typer.Option("--model", help="Folder, hub id (owner/name) or minilm.")]
Asked = Annotated[str | None, typer.Option("--model", help="Folder, hub id (owner/name) or minilm; measures texts in its tokens.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Dry = Annotated[bool, typer.Option("--dry-run", help="Print the plan; train and write nothing.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Decides every random draw.")]
Metrics = Annotated[list[str] | None, typer.Option("--metric", metavar="NAME", help="A further metric, or module:function; repeatable.")]
Settings = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings of the recipe: learning_rate=5e-5, tuning.r=4.")]
Words = Annotated[list[str] | None, typer.Argument(metavar="[DATA] [KEY=VALUE]...", help="Data to count steps on; settings of the recipe.")]
Folder = Annotated[str, typer.Argument(metavar="DIR", help="Folder that temper fit wrote.")]


def _own_seed(name: str, what: str) -> typer.models.OptionInfo:
    return typer.Option(f"--{name}-seed", min=0, help=f"Sets the seed of {what} alone.")


@app.command()
def check(
    data: Data,
    dev: Dev = None,
    test: Test = None,
    text: Text = None,
    text_pair: Pair = None,
    label: Label = None,
    kind: Kind = None,
    model: Asked = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 if a finding makes results meaningless.")] = False,
    json: Json = False,
) -> None:
    """Look the data over before training.

    Finds duplicates, leaks between splits, conflicting labels, imbalance, texts that will be cut, and names their rows.
    """
    from tempering.commands import check as command

    raise typer.Exit(command.run(Source(data, dev, test, text, text_pair, label, kind), model, json, strict))


@app.command()
def fit(
    data: Data,
    settings: Settings = None,
    dev: Dev = None,
    test: Test = None,
    text: Text = None,
    text_pair: Pair = None,
    label: Label = None,
    kind: Kind = None,
    recipe: Annotated[str, typer.Option("--recipe", "--config", help="Shipped recipe or YAML file; auto chooses by kind and size.")] = "auto",
    model: Model = "minilm",
    seed: Seed = 0,
    sampling_seed: Annotated[int | None, _own_seed("sampling", "held-out rows")] = None,
    init_seed: Annotated[int | None, _own_seed("init", "new weights")] = None,
    order_seed: Annotated[int | None, _own_seed("order", "the order of rows")] = None,
    dropout_seed: Annotated[int | None, _own_seed("dropout", "dropout")] = None,
    output_dir: Annotated[Path, typer.Option("--output-dir", help="Folder for the model.")] = Path("model"),
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was stopped; the result is the same, bit for bit.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the model in the output folder.")] = False,
    merge: Annotated[bool, typer.Option("--merge", help="Fold the tuning into the weights before saving.")] = False,
    metric: Metrics = None,
    report_to: Annotated[list[str] | None, typer.Option("--report-to", metavar="NAME", help="tensorboard, mlflow, wandb or trackio.")] = None,
    dry_run: Dry = False,
    json: Json = False,
) -> None:
    """Fine-tune a model and write it to a folder."""
    from tempering.commands import fit as command

    source = Source(data, dev, test, text, text_pair, label, kind)
    own = {"sampling": sampling_seed, "init": init_seed, "order": order_seed, "dropout": dropout_seed}
    where, words, names = (output_dir, tuple(settings or ()), tuple(metric or ()))
    request = command.Request(
        source, recipe, words, model, seed, own, where, resume, overwrite, merge, names, tuple(report_to or ()), dry_run, json
    )
    command.run(request)


@app.command()
def predict(
    folder: Folder,
    data: Annotated[str, typer.Argument(metavar="DATA", help="File with the texts; labels are not read.")],
    text: Text = None,
    text_pair: Pair = None,
    output: Annotated[Path | None, typer.Option("--output", metavar="FILE", help="CSV, TSV or JSONL by its ending; else CSV on the screen.")] = None,
) -> None:
    """Predict new rows with a fitted model.

    Writes the input's columns, the prediction, and a probability for each label.
    """
    from tempering.commands import predict as command

    command.run(folder, Source(data, text=text, text_pair=text_pair), output)


@app.command()
def evaluate(
    folder: Folder, data: Data, text: Text = None, text_pair: Pair = None, label: Label = None, metric: Metrics = None, json: Json = False
) -> None:
    """Score a fitted model on labelled rows."""
    from tempering.commands import evaluate as command

    command.run(folder, Source(data, text=text, text_pair=text_pair, label=label), tuple(metric or ()), json)


@app.command(name="list")
def list_(
    topic: Annotated[str | None, typer.Argument(metavar="[TOPIC]", help="recipes, tunings, framings, stabilizers, stages or models.")] = None,
    json: Json = False,
) -> None:
    """Show what there is to choose from."""
    from tempering.commands import listing as command

    command.run(topic, json)


@app.command()
def explain(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="Shipped recipe, YAML file, or auto.")],
    words: Words = None,
    text: Text = None,
    text_pair: Pair = None,
    label: Label = None,
    kind: Kind = None,
    model: Model = "minilm",
    json: Json = False,
) -> None:
    """Say what a recipe will do, before it does it.

    What is trained, forward passes a step, memory, what is computed once, what is refused and why. No weight is loaded.
    """
    from tempering.commands import explain as command

    command.run(recipe, list(words or ()), Source("", text=text, text_pair=text_pair, label=label, kind=kind), model, json)


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code. Nothing is raised: mistakes are one line, surprises a line and a file."""
    try:
        return int(app(arguments or ["--help"], prog_name="temper", standalone_mode=False) or 0)
    except TemperingError as error:
        return _fail(str(error), 2)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("stopped", 130)
    except BrokenPipeError:  # the reader of a pipe, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if isinstance(error, typer.BadParameter.__mro__[1]):  # typer's root of usage mistakes, which it does not export
            return _fail(f"{error.format_message().rstrip('.')}; see  {_where(error)} --help", 2)
        return _fail(_surprise(error), 1)


def main() -> None:
    """The entry point of ``temper``."""
    _quieten()
    sys.exit(run(sys.argv[1:]))


def _fail(message: str, code: int) -> int:
    sys.stdout.flush()
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return code


def _where(error: Any) -> str:
    """The command a usage mistake belongs to."""
    return error.ctx.command_path if error.ctx is not None else "temper"


def _surprise(error: Exception) -> str:
    """One line about an exception nobody foresaw; its traceback goes to a file."""
    import tempfile
    import traceback

    with tempfile.NamedTemporaryFile("w", prefix="temper-", suffix=".txt", delete=False, encoding="utf-8") as file:
        traceback.print_exception(error, file=file)
    first = str(error).strip().split("\n", 1)[0][:200]
    return f"unexpected {type(error).__name__}: {first} (the full traceback is in {file.name}; please report it)"


def _quieten() -> None:
    """Other libraries' warnings, bars and telemetry stay off the screen; what matters is checked and said by ours."""
    import warnings

    warnings.simplefilter("ignore")
    quiet = {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    for name, value in (quiet | {"TOKENIZERS_PARALLELISM": "false", "DATASETS_VERBOSITY": "error"}).items():
        os.environ.setdefault(name, value)
