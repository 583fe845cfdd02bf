"""The program ``temper`` itself; its commands hang themselves on it in the other files of this folder."""

from __future__ import annotations

import typer

app = typer.Typer(
    name="temper",
    help="Fine-tune pretrained language models on your labelled text, and compare recipes honestly.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
