"""Prompts before anything is trained: prompts."""

from __future__ import annotations

from tempering.cli.root import app
from tempering.commands import options as o
from tempering.commands.inputs import Source


@app.command()
def prompts(
    data: o.Data,
    settings: o.Settings = None,
    template: o.Templates = None,
    words: o.LabelWords = None,
    dev: o.Dev = None,
    text: o.Text = None,
    text_pair: o.Pair = None,
    label: o.Label = None,
    kind: o.Kind = None,
    model: o.Model = "minilm",
    rows: o.Rows = 100,
    on: o.On = "dev",
    show: o.Show = 3,
    search: o.Search = False,
    filler: o.FillerModel = None,
    auto_words: o.AutoLabelWords = False,
    candidates: o.CandidateCount = 100,
    beam: o.Beam = None,
    finalists: o.Finalists = 10,
    keep: o.Keep = 1,
    recipe: o.RecipeFor = "cloze",
    output: o.RecipeFile = None,
    seed: o.Seed = 0,
    json: o.Json = False,
) -> None:
    """Look at prompts and score them untrained, or search for better ones.

    With --search a model writes templates, the best are fine-tuned and chosen on dev, and a recipe for temper fit is written.
    """
    from tempering.commands import prompts as command

    source = Source(data, dev, None, text, text_pair, label, kind)
    request = command.Request(source, tuple(template or ()), tuple(words or ()), model, rows, on, show, seed)
    if not search:
        command.refuse_search_words(settings, filler, auto_words, output)
        command.run(request, json)
        return
    from tempering.prompting.search import Settings

    wanted = Settings(candidates, beam, finalists, keep, rows, filler, auto_words)
    command.search(request, wanted, recipe, list(settings or ()), output, json)
