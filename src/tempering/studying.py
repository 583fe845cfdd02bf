"""Compare recipes on your data: run the study, keep it in a folder, ask it for its answer."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from tempering.errors import RecipeError, ResumeError
from tempering.recipe import Recipe
from tempering.report import Form, render, write
from tempering.study.compare import FILE, current_info, final_records, run_study
from tempering.study.decide import Conclusion, conclude
from tempering.study.records import Record, StudyInfo
from tempering.study.runner import Listener
from tempering.study.store import Store
from tempering.tasks.task import Task
from tempering.train.progress import silent

FORMS: dict[str, Form] = {".html": "html", ".htm": "html", ".md": "md", ".json": "json", ".txt": "table"}


class Study:
    """A study in a folder. ``info`` says what it compares; `records` are its runs; `report` writes its answer."""

    def __init__(self, folder: Path, store: Store) -> None:
        self.folder = folder
        self._store = store

    @classmethod
    def open(cls, folder: str | Path) -> Study:
        """The study that `compare` left in ``folder``."""
        path = Path(folder)
        if not (path / FILE).exists():
            raise ResumeError(f"{path}: holds no study; expected a folder that temper compare wrote")
        return cls(path, Store(path / FILE))

    @property
    def info(self) -> StudyInfo:
        """What the study compares, and what the work its runs share has cost up to now."""
        return current_info(self._store)

    def records(self) -> list[Record]:
        """One record a run, failed ones included."""
        return final_records(self._store)

    def crossed(self) -> list[Record]:
        """The runs that only ``decompose`` asked for, whose seed streams are crossed; no mean or comparison rests on them."""
        return final_records(self._store, "crossed")

    def conclude(self) -> Conclusion:
        """Intervals, paired comparisons, ties, costs, and the answer in sentences."""
        return conclude(self.info, self.records(), self.crossed())

    def text(self, form: Form) -> str:
        """The report in one form: "html", "table" (for a terminal), "md" or "json"."""
        return render(self.info, self.records(), form, self.crossed())

    def report(self, path: str | Path) -> list[Path]:
        """Write the report: to a file, in the form its ending names (html, md, json, txt), or into a folder as html, md and json."""
        target = Path(path)
        if target.suffix == "" or target.is_dir():
            return write(self.info, self.records(), target, self.crossed())
        if target.suffix not in FORMS:
            raise RecipeError(f"report {target}: unknown ending {target.suffix!r}; use one of {', '.join(FORMS)}")
        target.write_text(self.text(FORMS[target.suffix]), encoding="utf-8")
        return [target]


def compare(
    recipes: Sequence[Recipe | str],
    task: Task | str | Path,
    model: str = "minilm",
    *,
    sizes: Sequence[int | str | None] = (None,),
    seeds: int = 5,
    budget: int = 1,
    output_dir: str | Path | None = None,
    metrics: Sequence[str] = (),
    listener: Listener = silent,
    seed: int = 0,
    workers: int = 0,
    stop_after: int | None = None,
    decompose: bool = False,
    quantize: str | None = None,
    search_seeds: int | None = None,
) -> Study:
    """Run every recipe at every size with every seed and return the `Study`.

    ``sizes`` are numbers of training rows (None or "all" = all of them), drawn stratified and nested, the same for every recipe of a
    seed. ``budget`` is the number of settings each recipe may try from its own search space, scored on dev with the first
    ``search_seeds`` of the seeds (None: with all of them). The task needs a test split; from a file without one, a fifth of the rows is
    held out. Called again on the same ``output_dir`` it runs what is missing: more recipes, sizes or seeds extend the study. ``workers`` 1
    runs cells in a child process, so that one that is killed for memory does not end the study (a script then needs the usual ``if __name__
    == "__main__"``); 0 runs them here. ``stop_after`` ends after so many runs, search and final runs counted together. ``decompose``
    crosses the streams of sampling, initialization and order, ``seeds`` levels of each in a Latin square, and splits the variance of every
    recipe and size among them: seeds x (seeds - 1) more runs for each. ``quantize`` as in `tempering.fit`, for every recipe.
    """
    if seeds < 1:
        raise RecipeError(f"seeds: expected at least 1, found {seeds}")
    if search_seeds is not None and not 1 <= search_seeds <= seeds:
        raise RecipeError(f"search_seeds: expected 1 to {seeds}, as many as there are seeds, found {search_seeds}")
    task = task if isinstance(task, Task) else Task.from_file(task, hold_out_test=True)
    folder = Path(output_dir) if output_dir is not None else Path(tempfile.mkdtemp(prefix="tempering-study-"))
    loaded = [Recipe.load(r) for r in recipes]
    counts = [_size(s) for s in sizes]
    done = run_study(
        loaded,
        task,
        model,
        folder,
        sizes=counts,
        seeds=seeds,
        budget=budget,
        metrics=metrics,
        listener=listener,
        seed=seed,
        workers=workers,
        stop_after=stop_after,
        decompose=decompose,
        quantize=quantize,
        search_seeds=search_seeds,
    )
    return Study(folder, done)


def _size(size: int | str | None) -> int | None:
    if size is None or size == "all":
        return None
    if (isinstance(size, str) and not size.isdecimal()) or int(size) < 1:
        raise RecipeError(f"sizes: expected numbers of training rows or 'all', found {size!r}")
    return int(size)
