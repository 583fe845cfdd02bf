"""Fills the generated parts of the documentation from the code, so that they cannot be stale.

A generated part stands between ``<!-- generated: NAME -->`` and ``<!-- end -->``; what NAME may be is `PARTS`. In addition,
``docs/commands.md``, ``docs/settings.md`` and ``docs/prompt-settings.md`` are generated as a whole.

    python tools/docs.py            rewrite
    python tools/docs.py --check    change nothing; exit with 1 and the names of the stale files if there are any
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

from tempering.codec import NESTED, encode
from tempering.commands.listing import KINDS, entries
from tempering.registry import find
from tempering.registry import names as registered

ROOT = Path(__file__).parents[1]
README, METHODS, COMMANDS = "README.md", "docs/methods.md", "docs/commands.md"
SETTINGS, PROMPT_SETTINGS = "docs/settings.md", "docs/prompt-settings.md"
PROMPTED = ("cloze", "demonstrations", "in_context", "knn_prompting", "text_to_text")  # framings whose settings have their own page
SETTLED = ("stage", "framing", "tuning", "stabilizer")  # the kinds on the page of all other settings, in its order
KINDS_OF_VALUE = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true, false", "null": "null"}
BLOCK = re.compile(r"(<!-- generated: (?P<name>[\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
WIDTH = 100  # columns of a printed help text


def table(head: tuple[str, str], rows: list[tuple[str, str]]) -> str:
    """A Markdown table of names and sentences."""
    cells = [f"| `{name}` | {text.replace('|', chr(92) + '|')} |" for name, text in rows]
    return "\n".join([f"| {head[0]} | {head[1]} |", "|---|---|", *cells])


def methods() -> str:
    """One table for each kind of method."""
    return "\n\n".join(table((topic[:-1], "what it does to training"), entries(topic)) for topic in KINDS)


def names() -> str:
    """What there is of each kind, by name."""
    return "\n".join(f"- **{topic}**: {', '.join(f'`{name}`' for name, _ in entries(topic))}" for topic in ("recipes", *KINDS))


def recipes() -> str:
    """The shipped recipes."""
    return table(("recipe", "what it is"), entries("recipes"))


def commands() -> str:
    """The commands of ``temper``, a sentence each."""
    return table(("command", "what it does"), [(f"temper {name}", command.help.split("\n", 1)[0]) for name, command in command_line()])


def help_texts() -> str:
    """All of ``docs/commands.md``: what ``temper COMMAND --help`` prints."""
    parts = ["# The command line", "Written by `make docs` from the program itself: what `temper COMMAND --help` prints."]
    for name, command in command_line():
        context = command.make_context(f"temper {name}", [], resilient_parsing=True, terminal_width=WIDTH, max_content_width=WIDTH)
        text = "\n".join(line.rstrip() for line in command.get_help(context).splitlines())
        parts += [f"## temper {name}", f"```text\n{text}\n```"]
    return "\n\n".join(parts) + "\n"


def prompt_settings() -> str:
    """All of ``docs/prompt-settings.md``: the settings of framings that prompt, and of verbalizers."""
    methods = [*(("framing", name) for name in PROMPTED), *(("verbalizer", name) for name in registered("verbalizer"))]
    intro = (
        "Written by `make docs` from the program itself: what stands under the name of a method in a recipe, which values it may have, and"
        " which it has where nothing is said. How to use them: [prompts.md](prompts.md)."
    )
    return "\n\n".join(["# Settings of prompts", intro, *(_method(kind, name) for kind, name in methods)]) + "\n"


def settled() -> list[tuple[str, str]]:
    """(kind, name) of every method whose settings ``docs/settings.md`` tells."""
    return [(kind, name) for kind in SETTLED for name in registered(kind) if kind != "framing" or name not in PROMPTED]


def settings() -> str:
    """All of ``docs/settings.md``: the settings of stages with their loop, and of all methods but those of prompts."""
    from tempering.train.settings import Loop

    intro = (
        "Written by `make docs` from the program itself: what stands under the name of a stage or a method in a recipe, which values it may"
        " have, and which it has where nothing is said. Verbalizers, and the framings " + _listed(PROMPTED) + ":"
        " [prompt-settings.md](prompt-settings.md)."
    )
    where = (
        "On the command line a setting is named by its path: `learning_rate=3e-4` is of the last stage, `stages.0.text=corpus.txt` of the"
        " first, `tuning.r=4`, `framing.max_length=128` and `stabilizers.r_drop.alpha=2` are of methods that the last stage has."
    )
    found = [f"- **{kind}s**: {', '.join(f'[`{name}`](#{kind}-{name})' for k, name in settled() if k == kind)}" for kind in SETTLED]
    loop = "\n\n".join(["## The loop", f"What the stages {_listed(_looped())} share.", _prose(Loop), *_tables(Loop)])
    parts = ["# Settings", intro, where, "\n".join(found), loop, *(_method(kind, name) for kind, name in settled())]
    return "\n\n".join(parts) + "\n"


def _looped() -> list[str]:
    """The stages that train by the loop."""
    from tempering.train.settings import Loop

    return [name for name in registered("stage") if issubclass(find("stage", name), Loop)]


def _listed(names: Sequence[str]) -> str:
    """Names in a sentence."""
    return " and ".join([", ".join(f"`{name}`" for name in names[:-1]), f"`{names[-1]}`"])


def _method(kind: str, name: str) -> str:
    """A method's own words and the table of its settings."""
    from tempering.train.settings import Loop

    cls = find(kind, name)
    told = [_prose(c) for c in cls.__mro__ if dataclasses.is_dataclass(c) and c is not Loop and not _prose(c).startswith("Base of ")]
    table, *groups = _tables(cls)
    rest = ["Beside these there are those of [the loop](#the-loop)."] if issubclass(cls, Loop) else []
    return "\n\n".join([f"## {kind} `{name}`", *told, table, *rest, *groups])


def _tables(cls: Any) -> list[str]:
    """The table of a class's settings, and those of the groups of settings inside it, each with its own words."""
    from pydantic import TypeAdapter

    from tempering.train.settings import Loop

    schema = TypeAdapter(cls).json_schema()
    shared = _defaults(Loop) if issubclass(cls, Loop) and cls is not Loop else {}
    defaults = _defaults(cls)
    wanted = [name for name in defaults if name not in shared or shared[name] != defaults[name]]
    rows = [f"| `{name}` | {_values(name, schema['properties'][name])} | {_default(name, defaults[name])} |" for name in wanted]
    tables = ["\n".join(["| setting | values | default |", "|---|---|---|", *rows]) if rows else "It has no settings."]
    for group in (g for name in wanted if name not in NESTED for g in _groups(cls.__pydantic_fields__[name].annotation)):
        tables += [f"**{group.__name__}**: {_prose(group)}", *_tables(group)]
    return tables


def _groups(annotation: Any) -> list[Any]:
    """The groups of settings (dataclasses that are no methods) that a field of this type may hold."""
    inner = [group for part in get_args(annotation) for group in _groups(part)]
    return [annotation] if isinstance(annotation, type) and dataclasses.is_dataclass(annotation) else inner


def _defaults(cls: Any) -> dict[str, Any]:
    """What each setting is where nothing is said; `dataclasses.MISSING` where something has to be."""
    given = cls.__pydantic_fields__
    found = {f.name: given[f.name] for f in dataclasses.fields(cls)}
    return {name: dataclasses.MISSING if f.is_required() else f.get_default(call_default_factory=True) for name, f in found.items()}


def _prose(cls: Any) -> str:
    """The docstring of a class as Markdown."""
    text = re.sub(r"(?<!`)`tempering\.[\w.]*?(\w+)`", r"`\1`", inspect.getdoc(cls) or "")
    return text.replace("``", "`")


def _values(field: str, schema: dict[str, Any]) -> str:
    """What a setting may be, from its JSON schema."""
    if field in NESTED:
        kind, several = NESTED[field]
        return f"list of {kind}s" if several else f"a {kind}"
    if "$ref" in schema:
        return f"settings of {schema['$ref'].rpartition('/')[2]}, below"
    if "anyOf" in schema:
        return ", ".join(_values(field, part) for part in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if schema.get("type") == "array":
        items = schema.get("prefixItems") or [schema.get("items", {})]
        return f"list of {_values(field, items[0])}"
    limits = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
    told = [f"{words} {schema[key]}" for key, words in limits.items() if key in schema]
    return " ".join([KINDS_OF_VALUE.get(schema.get("type", ""), "list or mapping"), " and ".join(told)]).strip()


def _default(field: str, value: Any) -> str:
    """What a setting is where nothing is said, as a recipe would say it."""
    if value is dataclasses.MISSING:
        return "(none: to be given)"
    plain = encode(value, NESTED[field][0]) if field in NESTED else value
    return f"`{json.dumps(plain, ensure_ascii=False)}`"


def command_line() -> Iterator[tuple[str, Any]]:
    """(name, command) in the order in which ``temper --help`` lists them."""
    import typer

    from tempering.cli import app

    group: Any = typer.main.get_command(app)
    yield from group.commands.items()


PARTS: dict[str, Callable[[], str]] = {"names": names, "methods": methods, "recipes": recipes, "commands": commands}


def filled(text: str) -> str:
    """``text`` with every generated part made anew."""

    def part(found: re.Match[str]) -> str:
        if found["name"] not in PARTS:
            raise SystemExit(f"no generated part is called {found['name']!r}; there are {', '.join(PARTS)}")
        return f"{found[1]}\n{PARTS[found['name']]()}\n\n{found[3]}"

    return BLOCK.sub(part, text)


def stale(root: Path, write: bool) -> list[str]:
    """The files under ``root`` whose generated parts are not what the code says; with ``write`` they are brought up to date."""
    texts = {root / name: filled((root / name).read_text(encoding="utf-8")) for name in (README, METHODS)} | {
        root / COMMANDS: help_texts(),
        root / SETTINGS: settings(),
        root / PROMPT_SETTINGS: prompt_settings(),
    }
    changed = {p: text for p, text in texts.items() if not p.exists() or p.read_text(encoding="utf-8") != text}
    if write:
        for path, text in changed.items():
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
    return [p.relative_to(root).as_posix() for p in changed]


def main(arguments: list[str]) -> int:
    """The exit code: 1 if something is stale and only a check was asked for."""
    parser = argparse.ArgumentParser(description="Fill the generated parts of the documentation.")
    parser.add_argument("--check", action="store_true", help="change nothing; say what is stale")
    check = parser.parse_args(arguments).check
    found = stale(ROOT, write=not check)
    for name in found:
        print(f"{name}: {'stale; run  make docs' if check else 'rewritten'}")
    return int(check and bool(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
