"""Task files of lm-evaluation-harness: one prompt a file, which may take entries over from another."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tempering.errors import RecipeError
from tempering.framings.templates.promptsource import load_yaml

PREFIX = "lm-eval:"


def entry_of(reference: str) -> Mapping[str, Any]:
    """The entries of the task file that ``lm-eval:FILE`` names."""
    path = Path(reference.removeprefix(PREFIX))
    plain = _read(path, reference, ())
    if "doc_to_text" not in plain:
        raise RecipeError(f"template {reference!r}: {path} has no doc_to_text; name a task file of lm-evaluation-harness")
    return plain


def _read(path: Path, reference: str, inside: tuple[Path, ...]) -> dict[str, Any]:
    """The entries of one file over those of the file that it names under ``include``."""
    if path in inside:
        raise RecipeError(f"template {reference!r}: {path} includes itself; take the line out")
    try:
        plain = load_yaml(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"template {reference!r}: {path} cannot be read ({error}); name a task file of lm-evaluation-harness") from None
    if not isinstance(plain, Mapping):
        raise RecipeError(f"template {reference!r}: {path} holds no entries; expected a task file of lm-evaluation-harness")
    base = _read(path.parent / str(plain["include"]), reference, (*inside, path)) if "include" in plain else {}
    return base | dict(plain)
