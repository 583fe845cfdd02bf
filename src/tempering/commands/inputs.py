"""What several commands read alike: the task, the recipe with its overrides, and what the data doctor has to say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tempering.commands.console import tell
from tempering.errors import ModelError, RecipeError

if TYPE_CHECKING:
    from tempering.backbone import Backbone
    from tempering.recipe import Recipe
    from tempering.tasks.doctor import Finding
    from tempering.tasks.task import Task

SHOWN = 5  # findings printed by commands that are not the doctor


@dataclass(frozen=True)
class Source:
    """Where the data is and which columns hold what; None where the user left it to us."""

    data: str
    dev: str | None = None
    test: str | None = None
    text: str | None = None
    text_pair: str | None = None
    label: str | None = None
    kind: str | None = None

    def task(self, seed: int = 0, hold_out_test: bool = False) -> Task:
        """The task; ``seed`` decides the rows that are held out where a file is missing."""
        from tempering.tasks.task import Task

        names: dict[str, Any] = {"text": self.text, "text_pair": self.text_pair, "label": self.label, "dev": self.dev, "test": self.test}
        return Task.from_file(self.data, **names, kind=self.kind, seed=seed, hold_out_test=hold_out_test)  # type: ignore[arg-type]

    @property
    def again(self) -> str:
        """All of it as it was typed, to repeat in a command that we suggest."""
        return f"{quoted(self.data)}{self.files}{self.words}"

    @property
    def files(self) -> str:
        """The options for further files as they were typed."""
        return "".join(f" {flag} {quoted(file)}" for flag, file in (("--dev", self.dev), ("--test", self.test)) if file)

    @property
    def words(self) -> str:
        """The column options as they were typed, to repeat in a command that we suggest."""
        given = {"--text": self.text, "--text-pair": self.text_pair, "--label": self.label, "--kind": self.kind}
        return "".join(f" {flag} {quoted(value)}" for flag, value in given.items() if value)


def quoted(word: object) -> str:
    """A word as a shell reads it."""
    import shlex

    return shlex.quote(str(word))


def read_recipe(name: str, settings: Sequence[str], task: Task | None) -> tuple[Recipe, str]:
    """(the recipe with its overrides, the line that says why it was chosen; empty where the user chose)."""
    from tempering.choosing import choose
    from tempering.recipe import Recipe, parse_settings

    if name == "auto" and task is None:
        raise RecipeError("recipe auto chooses by the data; give DATA too, or name a recipe (temper list recipes)")
    recipe, why = choose(task) if name == "auto" and task is not None else (Recipe.load(name), "")
    recipe = recipe.override(parse_settings(settings))
    recipe.check()
    return recipe, why


def examined(task: Task, backbone: Backbone | None) -> list[Finding]:
    """The data doctor's findings, with lengths in tokens where a model is given."""
    from tempering.plan import token_lengths
    from tempering.tasks.doctor import examine

    if backbone is None:
        return examine(task)
    return examine(task, lambda examples: token_lengths(backbone, examples), backbone.max_length)


def outlined(model: str, given: bool) -> Backbone | None:
    """The model's outline; None where the user named none (``given`` False) and the default is not on this machine."""
    from tempering.plan import outline

    try:
        return outline(model)
    except ModelError:
        if given:
            raise
        return None


def warn(findings: Sequence[Finding], source: Source) -> None:
    """Print what matters of the findings, and where to see the rest."""
    grave = [f for f in findings if f.severity != "note"]
    for finding in grave[:SHOWN]:
        tell(f"data {finding.severity}: {finding.message}")
    if len(grave) > SHOWN:
        tell(f"and {len(grave) - SHOWN} more; temper check {source.again}  shows the rest")
