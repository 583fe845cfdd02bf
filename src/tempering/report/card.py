"""The model card of a fitted model: a README for the hub, with front matter that its model index reads."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from tempering.errors import RecipeError
from tempering.readme import HUB, PLAIN, fenced, how_to_load
from tempering.report import formats
from tempering.report.formats import Scale
from tempering.report.markdown import escape, table_text
from tempering.report.tables import Table

_NEEDED = ("name", "model", "kind", "metrics")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_LOWER = re.compile(r"mse|mae|loss|error|perplexity")  # metrics that are no shares
_SHOWN_LABELS = 40


def model_card(facts: Mapping[str, Any]) -> str:
    """A README.md of what was trained, on what, how well it does and how to load it.

    ``facts``: name, model (hub id or folder), kind, metrics ({"dev": {...}, "test": {...}}) are needed; labels, recipe_yaml,
    main_metric, auto (transformers' class), rows ({"train": n}), data, language, seconds, trained_parameters, total_parameters, seeds,
    versions, loads_with ("tempering", "transformers", "peft"), base (of a folder that holds a change alone: {"fingerprint": ...,
    "inside": the folder has it, "quantize": ...}), notes and study_table (Markdown) are used where given. Raises `RecipeError` when a
    needed fact is absent.
    """
    missing = [key for key in _NEEDED if key not in facts]
    if missing:
        raise RecipeError(f"a model card needs the facts {', '.join(_NEEDED)}; {', '.join(missing)} is missing")
    parts = [
        f"# {escape(str(facts['name']))}",
        _what(facts),
        *_labels(facts),
        *_loading(facts),
        *_data(facts),
        *_recipe(facts),
        *_results(facts),
        *_seeds(facts),
        *_limits(facts),
    ]
    return f"---\n{front_matter(facts)}---\n\n" + "\n\n".join(parts) + "\n"


def front_matter(facts: Mapping[str, Any]) -> str:
    """The YAML of the card. All texts are quoted, so that it means the same to readers of YAML 1.1 and 1.2."""
    from ruamel.yaml import YAML

    names = list(dict.fromkeys(metric for split in facts["metrics"].values() for metric in _numbers(split)))
    task = HUB.get(str(facts["kind"]), PLAIN)[0]
    matter: dict[str, Any] = {"library_name": "tempering", "pipeline_tag": task, "tags": ["tempering", str(facts["kind"])]}
    if is_hub_id(str(facts["model"])):
        matter["base_model"] = str(facts["model"])
    if facts.get("language"):
        matter["language"] = facts["language"]
    if names:
        matter |= {"metrics": names, "model-index": [_index(facts, task)]}
    out, yaml = StringIO(), YAML()
    yaml.width = 1_000_000  # a folded text could put "---" at the start of a line
    yaml.dump(_quoted(matter), out)
    return out.getvalue()


def is_hub_id(model: str) -> bool:
    """Whether ``model`` can be the hub's id of a base model: a name or owner/name that is no folder here."""
    return bool(_HUB_ID.fullmatch(model)) and not Path(model).exists()


def _index(facts: Mapping[str, Any], task: str) -> dict[str, Any]:
    results = [
        {
            "task": {"type": task},
            "dataset": {"name": _name(facts), "type": "local", "split": str(split)},
            "metrics": [{"type": metric, "name": f"{metric} ({split})", "value": value} for metric, value in _numbers(values).items()],
        }
        for split, values in facts["metrics"].items()
        if _numbers(values)
    ]
    return {"name": str(facts["name"]), "results": results}


def _name(facts: Mapping[str, Any]) -> str:
    """The data's name without the folders of the machine it was trained on."""
    return Path(str(facts.get("data") or "not named")).name


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    from math import isfinite

    return {str(k): float(v) for k, v in values.items() if isinstance(v, (int, float)) and isfinite(v)}


def _quoted(value: Any) -> Any:
    from ruamel.yaml.scalarstring import DoubleQuotedScalarString

    if isinstance(value, Mapping):
        return {key: _quoted(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_quoted(inner) for inner in value]
    return DoubleQuotedScalarString(value) if isinstance(value, str) else value


def _what(facts: Mapping[str, Any]) -> str:
    return (
        f"A {escape(str(facts['kind']))} model: {escape(str(facts['model']))}, tuned on {escape(_name(facts))} with "
        "[Tempering](https://pypi.org/project/tempering/)."
    )


def _labels(facts: Mapping[str, Any]) -> list[str]:
    labels = list(facts.get("labels") or ())
    if not labels:
        return []
    lines = [f"- {escape(json.dumps(label, ensure_ascii=False, default=str))}" for label in labels[:_SHOWN_LABELS]]
    more = len(labels) - _SHOWN_LABELS
    return ["## Labels", "\n".join([*lines, *([f"- and {more} more, in `config.json`"] if more > 0 else [])])]


def _loading(facts: Mapping[str, Any]) -> list[str]:
    kind = str(facts["kind"])
    labels = 2 if kind == "question_answering" else len(facts.get("labels") or ()) or 1
    return how_to_load(
        list(facts.get("loads_with") or ("tempering",)), kind, labels, str(facts["model"]), facts.get("base"), str(facts.get("auto") or "")
    )


def _data(facts: Mapping[str, Any]) -> list[str]:
    rows = ", ".join(f"{split} {count:,} rows" for split, count in (facts.get("rows") or {}).items() if count is not None)
    return ["## Data", escape(f"{_name(facts)}{': ' if rows else ''}{rows}.")]


def _recipe(facts: Mapping[str, Any]) -> list[str]:
    recipe = str(facts.get("recipe_yaml") or "")
    return ["## Recipe", fenced(recipe, "yaml")] if recipe else []


def _results(facts: Mapping[str, Any]) -> list[str]:
    splits = {str(split): _numbers(values) for split, values in facts["metrics"].items() if _numbers(values)}
    if not splits:
        return []
    main = facts.get("main_metric")
    names = sorted({name for values in splits.values() for name in values}, key=lambda name: (name != main, name))
    rows = tuple((name, *(_shown(name, splits[split].get(name)) for split in splits)) for name in names)
    table = Table("Results", ("metric", *splits), rows, (False, *(True for _ in splits)), tuple(name == main for name in names))
    study = [str(facts["study_table"])] if facts.get("study_table") else []
    return ["## Results", table_text(table), *study]


def _shown(name: str, value: float | None) -> str:
    return formats.UNKNOWN if value is None else Scale.of(name, not _LOWER.search(name.lower()), [value]).value(value)


def _seeds(facts: Mapping[str, Any]) -> list[str]:
    lines = []
    if facts.get("trained_parameters") is not None:
        trained, whole = int(facts["trained_parameters"]), int(facts.get("total_parameters") or 0)
        lines.append(f"Trained parameters: {formats.count_of(trained)} of {formats.count_of(whole)} ({formats.share(trained, whole)})")
    if facts.get("seconds") is not None:
        lines.append(f"Training time: {formats.seconds(float(facts['seconds']))}")
    lines += [f"{key.capitalize()}: {_listed(facts[key])}" for key in ("seeds", "versions") if facts.get(key) not in (None, {}, "")]
    return ["## Seeds, costs and versions", "\n".join(f"- {escape(line)}" for line in lines)] if lines else []


def _listed(values: object) -> str:
    if isinstance(values, Mapping):
        return ", ".join(f"{key} {value}" for key, value in values.items())
    return "" if values is None else str(values)


def _limits(facts: Mapping[str, Any]) -> list[str]:
    given: Sequence[object] = facts.get("notes") or ()
    notes = [
        *(str(note) for note in given),
        "Scores are of one run on rows like the training rows; on other text expect worse, and measure it first.",
        "The base model's biases and license carry over. No license is set here: add one to the front matter before sharing.",
    ]
    if not _numbers(facts["metrics"].get("test", {})):
        notes.insert(0, "There was no test split: the dev scores also chose the best weights, so they are optimistic.")
    return ["## Limits", "\n".join(f"- {escape(note)}" for note in notes)]
