"""``temper report``: the answer of a study, in the form that was asked for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import cast, get_args

from tempering.commands.console import say, tell
from tempering.errors import RecipeError


def run(folder: Path, form: str, output: Path | None) -> None:
    """Print the report of the study in ``folder``, or write it to ``output``; a page goes to a file in any case."""
    from tempering.report import Form

    if form not in get_args(Form):
        raise RecipeError(f"--format {form}: there is no such form; choose one of {', '.join(get_args(Form))}")
    if output is not None and not output.parent.is_dir():
        raise RecipeError(f"--output {output}: there is no folder {output.parent}; make it first")
    from tempering.studying import Study

    study = Study.open(folder)
    text = study.text(cast(Form, form))
    target = output or (folder / "report.html" if form == "html" else None)
    if target is None:
        say(text.rstrip("\n"))
        return
    part = target.with_name(f".{target.name}.{os.getpid()}")
    part.write_text(text, encoding="utf-8")
    part.replace(target)
    tell(f"{target} is written")
