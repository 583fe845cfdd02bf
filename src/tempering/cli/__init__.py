"""The command ``temper``: parse, call, print. What a command does is in `tempering.commands`; nothing heavy is imported before it runs.

Exit codes: 0 done; 1 something unexpected (the traceback is in the file that is named), or findings with ``check --strict``; 2 a
mistake in the command, the data or a recipe, said in one line; 130 stopped by the user.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import typer

from tempering.cli import basics, before, choosing, prompting, ranking  # noqa: F401 - they hang their commands on the program, in this order
from tempering.cli.root import app
from tempering.commands import options as o
from tempering.commands.console import quieten, surprise
from tempering.errors import TemperingError

__all__ = ["app", "main", "run"]

STOPPED = 130


@app.callback(invoke_without_command=True)
def _root(version: o.Version = False) -> None:
    if version:
        from tempering import __version__

        typer.echo(f"tempering {__version__}")
        raise typer.Exit


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code. Nothing is raised: a mistake is one line, a surprise a line and a file."""
    try:
        code = int(app(arguments or ["--help"], prog_name="temper", standalone_mode=False) or 0)
        return code if code != STOPPED else _fail("stopped", STOPPED)
    except TemperingError as error:
        return _fail(str(error), 2)
    except (KeyboardInterrupt, typer.Abort):  # typer of some releases catches the first and returns its code
        return _fail("stopped", STOPPED)
    except BrokenPipeError:  # the reader of a pipe, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if isinstance(error, typer.BadParameter.__mro__[1]):  # typer's root of usage mistakes, which it does not export
            return _fail(_usage(error), 2)
        return _fail(surprise(error), 1)


def main() -> None:
    """The entry point of ``temper``."""
    quieten()
    sys.exit(run(sys.argv[1:]))


def _fail(message: str, code: int) -> int:
    sys.stdout.flush()
    print(f"error: {' '.join(message.splitlines())}", file=sys.stderr)
    return code


def _usage(error: Any) -> str:
    """A usage mistake, and where the right usage stands."""
    where = error.ctx.command_path if error.ctx is not None else "temper"
    return f"{error.format_message().rstrip('.')}; see  {where} --help"
