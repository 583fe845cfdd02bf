"""Fills the generated parts of the documentation from the code, so that they cannot be stale.

A generated part stands between ``<!-- generated: NAME -->`` and ``<!-- end -->``; what NAME may be is `PARTS`. In addition,
``docs/commands.md`` is generated as a whole.

    python tools/docs.py            rewrite
    python tools/docs.py --check    change nothing; exit with 1 and the names of the stale files if there are any
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tempering.commands.listing import KINDS, entries

ROOT = Path(__file__).parents[1]
README, METHODS, COMMANDS = "README.md", "docs/methods.md", "docs/commands.md"
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
    texts = {root / name: filled((root / name).read_text(encoding="utf-8")) for name in (README, METHODS)} | {root / COMMANDS: help_texts()}
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
