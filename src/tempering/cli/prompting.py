"""Prompts before anything is trained: prompts, probe-facts."""

from __future__ import annotations

from tempering.cli.root import app
from tempering.commands import options as o
from tempering.commands.inputs import Source


@app.command()
def prompts(
    data: o.Data,
    settings: o.PromptSettings = None,
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
    method: o.SearchMethod = "fill",
    filler: o.FillerModel = None,
    auto_words: o.AutoLabelWords = False,
    candidates: o.CandidateCount = 100,
    iterations: o.Iterations = None,
    by: o.SwapBy = None,
    beam: o.Beam = None,
    finalists: o.Finalists = None,
    keep: o.Keep = None,
    recipe: o.RecipeFor = None,
    output: o.RecipeFile = None,
    seed: o.Seed = 0,
    json: o.Json = False,
) -> None:
    """Look at prompts and score them untrained, or search for better ones.

    With --search a model writes templates, the best are fine-tuned and chosen on dev, and a recipe for temper fit is written. With
    --method autoprompt the words for the slots of one template, {soft:3}, are searched by gradient, and nothing is trained.
    """
    from tempering.commands import prompts as command

    source = Source(data, dev, None, text, text_pair, label, kind)
    own = tuple(settings or ()) if not search else ()
    request = command.Request(source, tuple(template or ()), tuple(words or ()), model, rows, on, show, seed, own)
    command.refuse_method(method)
    command.check_settings(settings or (), template or (), words or ())
    if not search:
        swapping = {"--method autoprompt": method == "autoprompt", "--iterations": iterations, "--by": by, "--recipe": recipe}
        swapping |= {"--finalists": finalists, "--keep": keep}
        others = command.of_recipes(own)
        command.refuse_search_words({**others, "--filler": filler, "--auto-words": auto_words, "--output": output, **swapping})
        command.run(request, json)
        return
    command.refuse_two_sources_of_words(words, auto_words)
    if method == "autoprompt":
        from tempering.prompting import autoprompt

        filling = {"--filler": filler, "--beam": beam, "--finalists": finalists, "--keep": keep}
        command.refuse_search_words(filling, "--method fill; add it")
        swaps = autoprompt.Settings(candidates, rows, iterations or 50, auto_words, command.measure(by))
        command.triggers(request, swaps, recipe or "cloze-zero-shot", list(settings or ()), output, json)
    else:
        from tempering.prompting.search import Settings

        command.refuse_search_words({"--iterations": iterations, "--by": by}, "--method autoprompt; add it")
        wanted = Settings(candidates, beam, finalists or 10, keep or 1, rows, filler, auto_words)
        command.search(request, wanted, recipe or "cloze", list(settings or ()), output, json)


@app.command()
def probe_facts(
    facts: o.Facts,
    model: o.Model,
    template: o.FactTemplates = None,
    relations: o.RelationFile = None,
    subject: o.Subject = None,
    object: o.Object = None,
    relation: o.Relation = None,
    among: o.Among = None,
    show: o.ShowFacts = 3,
    json: o.Json = False,
) -> None:
    """Ask a model for facts: what it puts where the object of a relation stands.

    The object is ranked among all tokens at the gap of a template, as in LAMA: share ranked first, share among the first ten, mean of 1 /
    rank. Nothing is trained.
    """
    from tempering.commands import facts as command

    columns = {"subject": subject, "object": object, "relation": relation}
    command.run(command.Request(facts, model, tuple(template or ()), relations, columns, among, show), json)
