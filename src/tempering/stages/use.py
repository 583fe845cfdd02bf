"""The stage that takes no step: a framing used as it stands, on the pretrained model or on what an earlier stage made of it."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from tempering.backbone import Backbone
from tempering.contracts import Seeds
from tempering.errors import ModelError, RecipeError
from tempering.learner import Learner
from tempering.registry import name_of
from tempering.stages.setup import Surroundings, assemble, metric_of, rows_of, tell_notes
from tempering.stages.stepless import Stepless
from tempering.streams import numpy_stream
from tempering.train.device import place
from tempering.train.settings import Loop

_NO_STEPS = Loop()


def check_head(backbone: Backbone) -> None:
    """Refuse a language-model head that was drawn at random."""
    if getattr(backbone.lm_head, "fresh", False):
        backbone.lm_head = None
        raise ModelError(
            f"{backbone.source} ({backbone.layout.family}) holds no weights of a language-model head and would name words at random; choose"
            " a model that was saved with its head, masked such as roberta-base or causal, or train a head by a stage with framing"
            " masked_lm before"
        )


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
        """The learner as it is put together, its framing prepared on the training rows. ``context`` holds a `Surroundings`.

        A language-model head that has to be drawn at random is refused: nothing would train it, and its answers would be noise.
        """
        around: Surroundings = context.get("around") or Surroundings()
        metric_of(self, task, around.metrics)
        examples, _ = rows_of(self, task, seeds)
        drawn = backbone.lm_head is None  # one that is there was left by an earlier stage, which may have trained it
        learner = assemble(self, backbone, task, seeds).to(place(_NO_STEPS).device)
        if drawn and learner.framing.reads_lm_head:
            check_head(backbone)
        learner.framing.prepare(learner, examples, numpy_stream(seeds.sampling, "framing"))
        tell_notes(learner, around)
        learner.framing.finish(learner, examples, numpy_stream(seeds.sampling, "framing", "finish"))
        learner.record["stage"] = self.account(len(examples), learner.framing.facts())
        return learner.eval()
