"""Answered examples beside the query, in one input with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, field_validator
from pydantic.dataclasses import dataclass

from tempering.errors import ModelError, RecipeError
from tempering.framings.cloze import Cloze, refuse
from tempering.framings.gaps.demonstrations_module import DemonstrationsModule
from tempering.framings.templates import lm_bff

if TYPE_CHECKING:
    from tempering.backbone import Backbone

CONTEXTS = 16  # of the paper, for most tasks


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Demonstrations:
    """Puts answered training examples beside every query of a cloze: other ones in each epoch, several sets averaged when predicting.

    ``framing`` is the cloze. ``per_class`` examples of every class follow the query in the order of the classes, or with ``shots`` so many
    of any class; ``place`` says on which side of the query. ``contexts`` sets are drawn for a prediction (None: as many as the setting says
    where the template is one of ``lm-bff/``, else 16), for each of several templates as many; a training row sees one set under one of
    them. ``filter`` keeps that share of each class's examples which are most like the query, by the cosine of sentence vectors (None: all):
    mean top states of the model before training, or of the sentence ``encoder`` named. A prompt is as long as the model reads, or
    ``max_length``; query and examples keep to the cloze's own. Where it is too long, the fields of the longest example are shortened first,
    down to ``floor`` tokens, then one example of each class is left out at a time, then the query is shortened; with ``place`` before,
    whole examples are left out from the front. Where no training row could show a single round, training is refused. ``split`` is the value
    up to which an example of a value counts as low (by default the median).

    *Paper*: Gao, Fisch, Chen 2021 (LM-BFF), sections 6 and 6.2; with ``shots`` and ``place`` before, untrained, its "GPT-3" in-context row.
    *Formula*: class scores s = mean over contexts of s(query, context), values the mean of predictions; of N candidates in C classes
    floor(floor(N / C) filter) of each class are kept. *Needs*: two rows of every class. *Costs*: longer inputs; ``contexts`` passes a
    prediction; with a filter by the model itself a copy of it while it is trained. *Differs*: sentence vectors are the model's own unless
    an ``encoder`` is named (there SBERT); after training they are those of the trained model. An example with the text of the query is
    never shown with it, also when predicting. Numbers are never replaced in text, so that any template works. A prompt is as long as the
    model reads, and not once or twice the length of one example.
    """

    framing: Any = Field(default_factory=Cloze)
    per_class: Annotated[int, Field(ge=1)] = 1
    shots: Annotated[int, Field(ge=1)] | None = None
    contexts: Annotated[int, Field(ge=1)] | None = None
    filter: Annotated[float, Field(gt=0, le=1)] | None = 0.5
    encoder: str | None = None
    place: Literal["after", "before"] = "after"
    floor: Annotated[int, Field(ge=1)] = 8
    max_length: Annotated[int, Field(ge=1)] | None = None
    split: float | None = None

    supervised: ClassVar[bool] = True
    kinds: ClassVar[tuple[str, ...]] = Cloze.kinds
    why_not_cached: ClassVar[str] = "demonstrations are drawn anew in every epoch"

    @field_validator("framing")
    @classmethod
    def _is_cloze(cls, given: Any) -> Any:
        if not isinstance(given, Cloze):
            raise ValueError("expected a cloze, such as Cloze('lm-bff/sst2'): only it has a mask where the answer of an example goes")
        return given

    @property
    def sets(self) -> int:
        """How many sets of examples are averaged in a prediction."""
        first = self.framing.first or ""
        named = lm_bff.setting(first).contexts if first.startswith(lm_bff.PREFIX) else CONTEXTS
        return self.contexts or named

    @property
    def named(self) -> tuple[Any, ...]:
        """The labels that the cloze names words for."""
        return tuple(self.framing.named)

    @property
    def trains(self) -> bool:
        """Whether the cloze has weights of its own."""
        return bool(self.framing.trains)

    @property
    def works_untrained(self) -> bool:
        """Whether the cloze means something before any step."""
        return bool(self.framing.works_untrained)

    def build(self, task: Any, backbone: Backbone) -> DemonstrationsModule:
        """The module around that of the cloze. What cannot take demonstrations is refused."""
        refuse(backbone, "demonstrations")
        name = f"demonstrations cannot serve {backbone.source} ({backbone.layout.family})"
        if backbone.layout.kind == "decoder":
            raise ModelError(
                f"{name}: it reads from left to right; use framing in_context, which keeps the examples in a cache, or an encoder"
            )
        if self.framing.soft:
            raise RecipeError(
                "demonstrations: the template holds trained vectors, which every example would repeat; take them out and add the tuning"
                " prompt_tuning, which puts vectors before the whole prompt"
            )
        if self.encoder is not None and self.filter is None:
            raise RecipeError(
                f"demonstrations: encoder {self.encoder!r} is for the filter, and there is none; give filter: 0.5, or leave encoder out"
            )
        return DemonstrationsModule(self, self.framing.build(task, backbone), task, backbone)
