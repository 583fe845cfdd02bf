"""Commands that guess before anything is fine-tuned: rank-models, rank-tasks, rank-prompts."""

from __future__ import annotations

from tempering.cli.root import app
from tempering.commands import options as o
from tempering.commands.inputs import Source


@app.command()
def rank_models(
    data: o.Data,
    models: o.Models,
    text: o.Text = None,
    text_pair: o.Pair = None,
    label: o.Label = None,
    kind: o.Kind = None,
    rows: o.Rows = 2000,
    by: o.By = "logme",
    seed: o.Seed = 0,
    json: o.Json = False,
) -> None:
    """Guess which model serves the data best, before any is fine-tuned.

    Each model reads the texts once. How well its frozen features hold the labels is measured by LogME, H-score, NLEEP (under LEEP) and a
    linear probe.
    """
    from tempering.commands import ranking as command

    command.models(Source(data, None, None, text, text_pair, label, kind), models, rows, by, seed, json)


@app.command()
def rank_tasks(
    data: o.Data,
    candidates: o.Candidates,
    text: o.Text = None,
    text_pair: o.Pair = None,
    label: o.Label = None,
    kind: o.Kind = None,
    model: o.Model = "minilm",
    rows: o.Rows = 2000,
    by: o.By = "leep",
    seed: o.Seed = 0,
    json: o.Json = False,
) -> None:
    """Guess which other labelled data is worth training on first.

    A linear probe of each candidate's frozen features answers on your texts; what its answers say of your labels is measured. Column
    similarity is the cosine of the mean features of both sets of texts.
    """
    from tempering.commands import ranking as command

    command.tasks(Source(data, None, None, text, text_pair, label, kind), candidates, model, rows, by, seed, json)


@app.command()
def rank_prompts(target: o.PromptFolder, sources: o.PromptFolders, json: o.Json = False) -> None:
    """Guess which saved prompt is the best to start from, as SPoT does.

    Tasks are alike as the means of their prompts' vectors are, by the cosine. Start from the best with tuning.init=file.
    """
    from tempering.commands import ranking as command

    command.prompts(target, sources, json)
