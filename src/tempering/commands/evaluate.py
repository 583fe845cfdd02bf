"""``temper evaluate``: a fitted model on labelled rows."""

from __future__ import annotations

from typing import Any

from tempering.commands.console import aligned, say, show_json, tell
from tempering.commands.inputs import Source
from tempering.contracts import Kind, predicts
from tempering.errors import RecipeError


def run(folder: str, source: Source, metrics: tuple[str, ...], as_json: bool, model: str | None = None) -> None:
    """Print the metrics of the model in ``folder`` on ``source``; ``model`` is where its base model is now."""
    from tempering.saving import load
    from tempering.tasks.metrics import check_metrics, default_metric
    from tempering.tasks.readers import read_labeled
    from tempering.train.evaluate import Evaluator

    learner = load(folder, model)
    kind: Kind = getattr(learner.framing, "kind", "text")
    if not predicts(learner.record["framing"]):
        raise RecipeError(f"{folder}: this model was not trained to predict labels, so it has no score; its last stage must predict them")
    labels = tuple(learner.framing.labels)
    check_metrics(metrics, kind, labels)
    examples = read_labeled(source.data, labels, kind, columns=_columns(learner.record.get("columns") or {}, source), label=source.label)
    found, _ = Evaluator(examples, kind, labels, metrics, listener=lambda event: tell(event["text"]))(learner)
    main = default_metric(kind, labels)
    if as_json:
        show_json({"model": folder, "data": source.data, "rows": len(examples), "main_metric": main, "metrics": found})
    else:
        say(f"{len(examples):,} rows of {source.data}: {main} {found[main]:.4f}")
        say(*aligned((name, f"{value:.4f}") for name, value in found.items() if name != main))


def _columns(trained: dict[str, Any], source: Source) -> dict[str, str]:
    """The columns of training, with those named on the command line in their place."""
    given = {"text": source.text, "text_pair": source.text_pair}
    return {"text": "text", "label": "label"} | trained | {role: name for role, name in given.items() if name}
