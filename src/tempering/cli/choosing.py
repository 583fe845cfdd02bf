"""Commands about choosing: compare, report, list, explain, demo."""

from __future__ import annotations

from pathlib import Path

from tempering.cli.root import app
from tempering.commands import options as o
from tempering.commands.inputs import Source


@app.command()
def compare(
    data: o.Data,
    settings: o.ComparedSettings = None,
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
    search_seeds: o.SearchSeeds = None,
    model: o.Model = "minilm",
    quantize: o.Quantize = None,
    seed: o.Seed = 0,
    metric: o.Metrics = None,
    decompose: o.Decompose = False,
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
    asked = command.Request(
        source, recipes, words, sizes, seeds, budget, model, seed, names, workers, output_dir, decompose, quantize, search_seeds
    )
    command.run(asked, dry_run, json)


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
    quantize: o.Quantize = None,
    json: o.Json = False,
) -> None:
    """Say what a recipe will do, before it does it.

    What is trained, forward passes a step, memory, what is computed once, what is refused and why. No weight is loaded.
    """
    from tempering.commands import explain as command

    command.run(recipe, list(words or ()), Source("", dev, test, text, text_pair, label, kind), model, json, quantize)


@app.command()
def demo(output_dir: o.OutputDir = Path("temper-demo")) -> None:
    """Check, fit and compare on shipped data, in minutes."""
    from tempering.commands import demo as command

    command.run(output_dir)
