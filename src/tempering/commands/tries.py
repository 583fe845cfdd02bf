"""``temper fit --tries N``: the best of several tries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tempering.errors import RecipeError

if TYPE_CHECKING:
    from tempering.commands.fit import Place
    from tempering.contracts import Seeds
    from tempering.learner import Learner
    from tempering.recipe import Recipe
    from tempering.tasks.task import Task
    from tempering.train.progress import Listener
    from tempering.trying import Tries

STOP_WORST, STOP_AT = 0.5, 0.3


@dataclass(frozen=True)
class Several:
    """How many runs are started, what share of them is stopped, and how far into training, as on the command line."""

    tries: int = 1
    stop_worst: float = STOP_WORST
    stop_at: float = STOP_AT

    def check(self) -> None:
        """Refuse shares that are none, and shares without tries."""
        if self.tries > 1:
            self._how()
        elif (self.stop_worst, self.stop_at) != (STOP_WORST, STOP_AT):
            raise RecipeError("--stop-worst and --stop-at speak of several tries; give --tries N with them")

    def _how(self) -> Tries:
        from tempering.trying import Tries

        return Tries(self.tries, self.stop_worst, self.stop_at)

    def fit(
        self, recipe: Recipe, task: Task, model: str, seeds: Seeds, place: Place, metrics: tuple[str, ...], listener: Listener
    ) -> Learner:
        """The best try. Where all of them stand is kept in the output folder, so that the same command with --resume goes on."""
        from tempering.trying import fit_tries

        where, how = place.output_dir, self._how()
        return fit_tries(
            recipe, task, model, tries=how, seeds=seeds, output_dir=where, resume=place.resume, metrics=metrics, listener=listener
        )


ONE = Several()
