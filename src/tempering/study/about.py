"""What a study is about: which recipes can be compared, what its folder says of itself, and what it must agree with to be extended."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tempering.contracts import Seeds, predicts
from tempering.errors import DataError, RecipeError, ResumeError
from tempering.recipe import Recipe
from tempering.study.records import StudyInfo
from tempering.study.store import Store
from tempering.tasks.doctor import examine
from tempering.tasks.metrics import check_metrics, compute, default_metric, higher_is_better
from tempering.tasks.sampling import nested_subsets
from tempering.tasks.task import Task

_IN_A_TITLE = 6  # recipes that a title names
_LONGEST = 100  # bytes of a recipe's name, which becomes part of file names


def comparable(recipes: Sequence[Recipe]) -> list[Recipe]:
    """The recipes, each checked; one that predicts nothing to be judged by, or a name that comes twice, is refused."""
    for recipe in recipes:
        recipe.check()
        if not predicts(recipe.stages[-1].framing):
            raise RecipeError(
                f"recipe {recipe.name}: its last stage predicts no labels, so there is no score to compare; end it with a head"
            )
    names = [r.name for r in recipes]
    for name in names:
        _fit_for_a_file(name)
    if not names or len(set(names)) < len(names):
        raise RecipeError(f"recipes: expected at least one and each name once, found {', '.join(names) or 'none'}")
    return list(recipes)


def _fit_for_a_file(name: str) -> None:
    """A study keeps every recipe as recipes/NAME.yaml."""
    plain = re.sub(r"[/\\\0]", "-", name)
    if plain != name:
        raise RecipeError(f"recipe {name!r}: its name is that of a file in the study; expected one without slashes, as {plain!r}")
    if len(name.encode()) > _LONGEST:
        raise RecipeError(
            f"recipe {name[:40]!r}...: its name is that of a file in the study; expected {_LONGEST} bytes at most,"
            f" found {len(name.encode())}: give it a shorter one (and describe it in its description)"
        )


def _named(recipes: list[str]) -> str:
    """Recipes as a title has them: by name as long as one line holds them."""
    return ", ".join(recipes) if len(recipes) <= _IN_A_TITLE else f"{len(recipes)} recipes"


def describe(
    recipes: Sequence[Recipe], task: Task, model: str, sizes: list[str], seeds: int, budget: int, metrics: Sequence[str]
) -> StudyInfo:
    """What the study compares, with the baseline every run is held against."""
    if task.test is None or task.dev is None:
        what = "test" if task.test is None else "dev"
        raise DataError(f"{task.name}: a study needs a {what} split; give --{what} FILE, or Task.from_file(..., hold_out_test=True)")
    metric = default_metric(task.kind, task.labels)
    gold = task.test.labels
    check_metrics(metrics, task.kind, task.labels)
    baseline = compute(task.kind, task.labels, gold, task.majority()).get(metric, 0.0)  # the main one, which needs no probabilities
    findings = [f.message for f in examine(task) if f.severity != "note"]
    return StudyInfo(
        title=f"{_named([r.name for r in recipes])} on {task.name}",
        data=task.train.source,
        model=model,
        kind=task.kind,
        metric=metric,
        recipes=[r.name for r in recipes],
        sizes=sizes,
        seeds=seeds,
        budget=budget,
        majority=0.0 if task.kind == "regression" else baseline,
        dev_rows=len(task.dev),
        test_rows=len(task.test),
        labels=list(task.labels),
        gold=list(gold),
        higher_is_better=higher_is_better(metric),
        fingerprint=task.fingerprint(),
        findings=findings,
        metrics=sorted(set(metrics)),
    )


def agreed(store: Store, info: StudyInfo, seed: int) -> None:
    """Refuse to continue a study about something else."""
    if store.meta("info") is None:
        return
    for what, value in _identity(store.info(), store.meta("seed")).items():
        now = _identity(info, seed)[what]
        if value != now:
            raise ResumeError(
                f"{store.path.parent}: holds a study with another {what} ({value[:64]}, now {now[:64]}); give another --output-dir"
            )


def joined(store: Store, info: StudyInfo, seed: int) -> StudyInfo:
    """Continue the study that is there, extended by what is new."""
    if store.meta("info") is not None:
        old = store.info()
        sizes = list(dict.fromkeys([*old.sizes, *info.sizes]))
        sizes.sort(key=lambda s: float("inf") if s == "all" else int(s))
        recipes = list(dict.fromkeys([*old.recipes, *info.recipes]))
        spaces = {name: count for name, count in old.small_spaces.items() if name not in info.recipes and count < info.budget}
        most = {name: max(getattr(old, name), getattr(info, name)) for name in ("seeds", "crossed")}
        info = replace(info, recipes=recipes, sizes=sizes, small_spaces=spaces | info.small_spaces, **most)
    store.put_meta("info", info.as_dict())
    store.put_meta("seed", seed)
    return info


def _identity(info: StudyInfo, seed: Any) -> dict[str, str]:
    """What all runs of a study share: with another of these, finished runs could not stand beside new ones."""
    return {
        "data": info.fingerprint[:16],
        "model": info.model,
        "quantization of the model": info.quantize or "none",
        "metric": info.metric,
        "choice of extra metrics": ", ".join(info.metrics) or "none",
        "seed": str(seed),
    }


def write_recipes(folder: Path, recipes: Sequence[Recipe]) -> None:
    """``recipes/NAME.yaml`` for each."""
    (folder / "recipes").mkdir(parents=True, exist_ok=True)
    for recipe in recipes:
        (folder / "recipes" / f"{recipe.name}.yaml").write_text(recipe.to_yaml(), encoding="utf-8")


def write_rows(folder: Path, task: Task, info: StudyInfo, seed: int) -> None:
    """``data.json``: how the splits came about, and by seed the rows of the largest subset in order; a size takes the first of them."""
    largest = max((int(size) for size in info.sizes if size != "all"), default=0)
    drawn = {i: nested_subsets(task, [largest], Seeds.of(seed + i).sampling)[largest] for i in range(info.seeds)} if largest else {}
    rows = {str(i): [task.train[index].row for index in chosen] for i, chosen in drawn.items()}
    facts = {"fingerprint": info.fingerprint, "columns": task.columns, "split": task.split_record, "sizes": info.sizes, "rows": rows}
    part = folder / f".data.{os.getpid()}"
    part.write_text(json.dumps(facts, ensure_ascii=False), encoding="utf-8")
    part.replace(folder / "data.json")
