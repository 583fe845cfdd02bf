"""The stage that takes no step: a framing used as it stands, on the pretrained model or on what an earlier stage made of it."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from tempering.backbone import Backbone
from tempering.contracts import Seeds
from tempering.errors import RecipeError
from tempering.learner import Learner
from tempering.registry import name_of
from tempering.stages.setup import Surroundings, assemble, metric_of, rows_of, tell_notes
from tempering.stages.stepless import Stepless
from tempering.streams import numpy_stream
from tempering.train.device import place
from tempering.train.settings import Loop

_NO_STEPS = Loop()


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Use(Stepless):
    """Takes no step: the framing reads the training rows where it needs them (demonstrations, a calibration), and nothing is trained.

    Tuning-free prompting of the survey by Liu et al. (2021): zero-shot prompts, in-context learning.
    """

    framing: Any
    per_device_eval_batch_size: Annotated[int, Field(gt=0)] = 64

    trains: ClassVar[bool] = False
    cached: ClassVar[bool] = False
    why_not_cached: ClassVar[str] = "nothing is trained"

    def check(self, where: str, last: bool) -> list[str]:
        """A framing whose new weights would stay as drawn is refused."""
        if not getattr(self.framing, "works_untrained", False):
            raise RecipeError(
                f"{where}: framing {name_of(self.framing)[1]} has weights of its own that would stay as they are drawn; put it into a stage"
                " train, or use a framing that prompts, such as in_context or cloze"
            )
        return []

    def run(self, backbone: Backbone, task: Any, seeds: Seeds, **context: Any) -> Learner:
        """The learner as it is put together, its framing prepared on the training rows. ``context`` holds a `Surroundings`."""
        around: Surroundings = context.get("around") or Surroundings()
        metric_of(self, task, around.metrics)
        examples, _ = rows_of(self, task, seeds)
        learner = assemble(self, backbone, task, seeds).to(place(_NO_STEPS).device)
        learner.framing.prepare(learner, examples, numpy_stream(seeds.sampling, "framing"))
        tell_notes(learner, around)
        learner.framing.finish(learner, examples, numpy_stream(seeds.sampling, "framing", "finish"))
        learner.record["stage"] = self.account(len(examples), learner.framing.facts())
        return learner.eval()
