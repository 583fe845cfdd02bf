"""Commands about one model: check, fit, predict, evaluate."""

from __future__ import annotations

from pathlib import Path

import typer

from tempering.cli.root import app
from tempering.commands import options as o
from tempering.commands.inputs import Source


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
    quantize: o.Quantize = None,
    seed: o.Seed = 0,
    sampling_seed: o.SamplingSeed = None,
    init_seed: o.InitSeed = None,
    order_seed: o.OrderSeed = None,
    dropout_seed: o.DropoutSeed = None,
    tries: o.Tries = 1,
    stop_worst: o.StopWorst = 0.5,
    stop_at: o.StopAt = 0.3,
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
    from tempering.commands.tries import Several

    source = Source(data, dev, test, text, text_pair, label, kind)
    place = command.Place(output_dir, resume, overwrite, merge, dry_run, json)
    own = {"sampling": sampling_seed, "init": init_seed, "order": order_seed, "dropout": dropout_seed}
    several = Several(tries, stop_worst, stop_at)
    words, metrics, trackers = tuple(settings or ()), tuple(metric or ()), tuple(report_to or ())
    command.run(command.Request(source, recipe, words, model, seed, own, metrics, trackers, place, several, quantize))


@app.command()
def predict(
    folder: o.Folder,
    data: o.Texts,
    text: o.Text = None,
    text_pair: o.Pair = None,
    output: o.Predictions = None,
    model: o.Base = None,
) -> None:
    """Predict new rows with a fitted model.

    Writes the input's columns, the prediction, and a probability for each label.
    """
    from tempering.commands import predict as command

    command.run(folder, Source(data, text=text, text_pair=text_pair), output, model)


@app.command()
def evaluate(
    folder: o.Folder,
    data: o.Data,
    text: o.Text = None,
    text_pair: o.Pair = None,
    label: o.Label = None,
    metric: o.Metrics = None,
    model: o.Base = None,
    json: o.Json = False,
) -> None:
    """Score a fitted model on labelled rows."""
    from tempering.commands import evaluate as command

    command.run(folder, Source(data, text=text, text_pair=text_pair, label=label), tuple(metric or ()), json, model)


@app.command()
def merge(
    folders: o.Folders,
    weights: o.Weights = None,
    model: o.Base = None,
    output_dir: o.OutputDir = Path("merged"),
    overwrite: o.Overwrite = False,
) -> None:
    """Fold what a tuning added into the weights.

    The merged model is as fast as the plain one. Several models that were tuned from one base are added up.
    """
    from tempering.commands import merging as command

    command.run(folders, weights, output_dir, overwrite, model)
