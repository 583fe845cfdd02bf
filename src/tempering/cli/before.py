"""The command about what comes before a task: adapt."""

from __future__ import annotations

from pathlib import Path

from tempering.cli.root import app
from tempering.commands import options as o


@app.command()
def adapt(
    corpus: o.Corpus,
    settings: o.Settings = None,
    column: o.Column = None,
    recipe: o.Adapted = "dapt",
    model: o.Model = "minilm",
    seed: o.Seed = 0,
    output_dir: o.OutputDir = Path("adapted"),
    resume: o.Resume = False,
    overwrite: o.Overwrite = False,
    adapter: o.Adapter = False,
    dry_run: o.DryRun = False,
    json: o.Json = False,
) -> None:
    """Train a model further on plain text, before any task.

    Perplexity on held-out text is told before and after. What it writes is a model for temper fit --model.
    """
    from tempering.commands import adapt as command

    command.run(
        command.Request(corpus, recipe, tuple(settings or ()), model, seed, output_dir, column, resume, overwrite, adapter, dry_run, json)
    )
