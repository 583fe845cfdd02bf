"""Makes the cells of LM-BFF's protocol: searches, the grid with its choice on the development rows, and the test."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from arms import GRIDS, SEARCH, SHOTS, Arm, bounds, contexts, metric, template
from cells import Cells, load

from tempering.contracts import Seeds
from tempering.fitting import evaluate, fit
from tempering.framings.cloze import Cloze
from tempering.framings.demonstrations import Demonstrations
from tempering.framings.gaps import label_words
from tempering.prompting.search import Settings, find_prompts
from tempering.recipe import Recipe, parse_settings
from tempering.stages.use import Use
from tempering.tasks import Task
from tempering.tasks.metrics import compute
from tempering.tasks.sampling import few_shot
from tempering.tasks.task import Split


def split(task: Task, seed: int) -> Task:
    """16 training rows a class, and the next 16 of the same draw as development rows."""
    drawn = few_shot(task, 2 * SHOTS, Seeds.of(seed).sampling)
    half = len(drawn) // 2
    dev = tuple(task.train.examples[i] for i in drawn[half:])
    return replace(task.with_train(drawn[:half], Seeds.of(seed).sampling), dev=Split("dev", dev, task.train.source))


def recipe(framing: Any, rate: float, batch: int, steps: int, main: str, settings: Sequence[str] = ()) -> Recipe:
    """One grid point, chosen by the metric ``main``; LM-BFF's settings are those of the shipped recipe, but for ``settings``."""
    changes = parse_settings(settings) | {
        "learning_rate": rate,
        "per_device_train_batch_size": batch,
        "max_steps": steps,
        "eval_steps": max(1, steps // 10),
    }
    changes |= {"metric_for_best_model": main}
    shipped = Recipe.load("lm-bff").override(changes)
    return replace(shipped, stages=(replace(shipped.stages[-1], framing=framing),), search=())


def best(points: Mapping[str, Mapping[str, Any]]) -> str:
    """The point with the best development score, ties by the development loss, then the first."""
    return min(points, key=lambda name: (-points[name]["dev"], points[name]["loss"]))


@dataclass
class Runner:
    """Makes what is missing of the cells of one (task, arm, seed)."""

    cells: Cells
    args: argparse.Namespace
    tasks: dict[str, Task] = field(default_factory=dict)
    fitted: dict[str, Any] = field(default_factory=dict)  # the best learner so far of this arm and seed, by its point

    def task(self, name: str) -> Task:
        """A data set, read once."""
        if name not in self.tasks:
            self.tasks[name] = load(self.args.data, name, self.args.test_rows)
        return self.tasks[name]

    def run(self, name: str, arm: Arm, seed: int) -> None:
        """The cell of an arm, if it is not there."""
        key, same = f"{name}/{arm.name}/{seed}", f"{name}/{arm.same}/{seed}"
        if key in self.cells:
            return
        if same in self.cells:
            self.cells.get(key, lambda: self.cells[same])
            return
        whole = self.task(name)
        task = whole if arm.whole else split(whole, seed)
        self.fitted = {}
        if arm.name == "majority":
            self.cells.get(key, lambda: majority(name, whole))  # of the whole data set, as in the paper: a draw has all classes alike
        elif arm.whole:
            changes = parse_settings(self.args.settings) | {"metric_for_best_model": metric(name, task)}
            made = Recipe.load("full").override(changes)
            self.cells.get(key, lambda: self.once(made, name, task, seed, "recipe full"))
        elif not arm.trained:
            (framing,) = arm.candidates(name, task, self.args).values()
            self.cells.get(key, lambda: self.once(Recipe("untrained", (Use(framing),)), name, task, seed, "untrained"))
        else:
            self.grid(key, name, task, self.framing(name, arm, task, seed), seed)

    def once(self, made: Recipe, name: str, task: Task, seed: int, chosen: str) -> dict[str, Any]:
        """The cell of a recipe for which nothing is chosen."""
        return self.measured(fit(made, replace(task, test=None), self.args.model, seed=seed), task, chosen, name)

    def framing(self, name: str, arm: Arm, task: Task, seed: int) -> Any:
        """What the grid trains: the only candidate, or the best of the search."""
        if arm.searches:
            found = self.cells.get(f"{name}/found template/{seed}", lambda: self.search(name, task, seed))
            cloze = Cloze(
                found["template"], words=[(_key(task, label), tuple(said)) for label, said in found["words"]], bounds=bounds(task)
            )
            if arm.demonstrated:
                return Demonstrations(cloze, contexts=contexts(name, self.args))
            if "point" in found:  # the search has trained it with its own setting, which is one of the grid's
                rate, batch = SEARCH[self.args.grid]
                self.cells.get(f"{name}/{arm.name}/{seed}/{rate:g} x {batch}", lambda: found["point"])
            return cloze
        candidates = arm.candidates(name, task, self.args)
        if len(candidates) == 1:
            return next(iter(candidates.values()))
        rate, batch = SEARCH[self.args.grid]
        where = f"{name}/{arm.name}/{seed}"
        points = {which: self.point(f"{where}/{which}", name, task, framing, (rate, batch), seed) for which, framing in candidates.items()}
        chosen = best(points)
        self.take(f"{where}/{chosen}", f"{where}/{rate:g} x {batch}")
        return candidates[chosen]

    def take(self, key: str, point: str) -> None:
        """The fit ``key`` of a search is the grid's ``point``, too."""
        self.cells.get(point, lambda: self.cells[key])
        self.fitted = {point: self.fitted[key]} if key in self.fitted else {}

    def point(self, key: str, name: str, task: Task, framing: Any, setting: tuple[float, int], seed: int) -> dict[str, Any]:
        """The development score of one fit."""
        found: dict[str, Any] = self.cells.get(key, lambda: self.fit(key, name, task, framing, setting, seed))
        return found

    def fit(self, key: str, name: str, task: Task, framing: Any, setting: tuple[float, int], seed: int) -> dict[str, Any]:
        main = metric(name, task)
        made = recipe(framing, *setting, self.args.steps, main, self.args.settings)
        learner = fit(made, replace(task, test=None), self.args.model, seed=seed, metrics=(main,))
        dev = learner.record["metrics"]["dev"]
        found = {"dev": dev[main], "loss": dev["loss"], "seconds": learner.record["train_seconds"]}
        if not self.fitted or best({"held": next(iter(self.fitted.values()))[0], "new": found}) == "new":
            self.fitted = {key: (found, learner)}
        return found

    def grid(self, key: str, name: str, task: Task, framing: Any, seed: int) -> None:
        """Every grid point on the development rows, then the best of them, and it alone, on the test rows."""
        rates, batches = GRIDS[self.args.grid]
        settings = {f"{key}/{rate:g} x {batch}": (rate, batch) for rate in rates for batch in batches}
        points = {where: self.point(where, name, task, framing, setting, seed) for where, setting in settings.items()}
        chosen = best(points)

        def tested() -> dict[str, Any]:
            if chosen not in self.fitted:  # trained before the last stop: again, with the same seeds
                self.fitted = {}
                self.fit(chosen, name, task, framing, settings[chosen], seed)
            return self.measured(self.fitted[chosen][1], task, chosen.rpartition("/")[2], name)

        self.cells.get(key, tested)

    def search(self, name: str, task: Task, seed: int) -> dict[str, Any]:
        """A template written by the masked model itself and chosen on the development rows; the label words stay the manual ones.

        ``point`` is the development score of its fit, where several were fitted.
        """
        rate, batch = SEARCH[self.args.grid]
        main = metric(name, task)
        settings = Settings(candidates=4 * self.args.candidates, beam=self.args.beam, finalists=self.args.candidates)
        base = recipe(Cloze(), rate, batch, self.args.steps, main, self.args.settings)
        words = label_words.resolved((), task, template(name), ())
        bare = Cloze(words=tuple(words.items()), bounds=bounds(task))  # the manual template is no candidate
        found = find_prompts(task, self.args.model, bare, settings, base, seed)
        cloze = found.recipe.stages[-1].framing
        words = [[str(label), list(said)] for label, said in cloze.words]
        fits = [{"dev": one.metrics[main], "loss": one.metrics["loss"], "seconds": one.seconds} for one in found.tuned]
        told = {"template": cloze.template, "words": words, "notes": list(found.notes), "candidates": len(found.candidates)}
        return told | ({"point": fits[0]} if fits else {})

    def measured(self, learner: Any, task: Task, chosen: str, name: str) -> dict[str, Any]:
        """A finished cell: the test split is read here."""
        main = metric(name, task)
        found = evaluate(learner, task, (main,))
        return {"score": found["test"][main], "metric": main, "metrics": found["test"], "chosen": chosen}


def _key(task: Task, label: str) -> Any:
    """A label as the data has it (or a pole), from its name in a file."""
    return next((known for known in task.labels if str(known) == label), label)


def majority(name: str, task: Task) -> dict[str, Any]:
    """One who never reads the text."""
    assert task.test is not None
    main = metric(name, task)
    found = {} if task.kind == "regression" else compute(task.kind, task.labels, task.test.labels, task.majority(), names=(main,))
    return {"score": float(found.get(main, 0.0)), "metric": main, "metrics": found, "chosen": ""}
