"""Records in, an answer out: one self-contained HTML page, a terminal table, Markdown or JSON, all with the same numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from tempering.errors import RecipeError
from tempering.report.card import model_card

if TYPE_CHECKING:
    from tempering.study.decide import Conclusion
    from tempering.study.records import Record, StudyInfo

__all__ = ["Form", "model_card", "render", "render_conclusion", "write"]

Form = Literal["html", "table", "json", "md"]


def render(info: StudyInfo, records: Sequence[Record], form: Form = "html", crossed: Sequence[Record] = ()) -> str:
    """The report of a study as one string.

    ``form`` is "html" (one self-contained page), "table" (for a terminal, as wide as it is), "json" or "md".
    ``crossed`` are the runs of a decomposition. Raises `RecipeError` for any other form.
    """
    if form not in get_args(Form):
        raise RecipeError(f"--format {form!r} is not a form of the report; choose one of {', '.join(get_args(Form))}")
    from tempering.study.decide import conclude

    return render_conclusion(conclude(info, list(records), crossed), records, form)


def render_conclusion(conclusion: Conclusion, records: Sequence[Record], form: Form) -> str:
    """As `render`, for a conclusion that has been drawn already: drawing one costs resampling."""
    return _writers()[form](conclusion, records)


def write(info: StudyInfo, records: Sequence[Record], folder: Path, crossed: Sequence[Record] = ()) -> list[Path]:
    """Write ``report.html``, ``report.md`` and ``report.json`` into ``folder`` (made if missing) and return their paths."""
    from tempering.study.decide import conclude

    conclusion = conclude(info, list(records), crossed)
    folder.mkdir(parents=True, exist_ok=True)
    forms: tuple[Form, ...] = ("html", "md", "json")
    paths = [folder / f"report.{form}" for form in forms]
    for path, form in zip(paths, forms, strict=True):
        # Written beside and renamed into place: a reader (or a kill) never sees half a report.
        part = path.with_name(path.name + ".part")
        part.write_text(render_conclusion(conclusion, records, form), encoding="utf-8")
        part.replace(path)
    return paths


def _writers() -> dict[Form, Callable[[Conclusion, Sequence[Record]], str]]:
    from tempering.report.markdown import markdown
    from tempering.report.page import page
    from tempering.report.raw import raw_json
    from tempering.report.terminal import terminal

    return {"html": page, "table": terminal, "json": raw_json, "md": markdown}
