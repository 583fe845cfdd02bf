"""In-context learning: the task is told by an instruction and some answered examples, and no weight is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator
from pydantic.dataclasses import dataclass

from tempering.framings.asked.calibration import Calibration
from tempering.framings.asked.ordering import SEARCHED, orders_of
from tempering.framings.asked.prompt_text import paired
from tempering.framings.asked.retrieval import Metric, Retrieval
from tempering.framings.asked.scoring import Scoring
from tempering.framings.gaps.label_words import labels_of

if TYPE_CHECKING:
    from tempering.backbone import Backbone
    from tempering.framings.asked.in_context_module import InContextModule

Order = Literal["random", "nearest_last", "nearest_first", "global_entropy", "local_entropy"]
Count = Annotated[int, Field(ge=1)]
_COMPARES = "compares given answers, and search: vocabulary writes one; set search: labels or candidates, or drop it"
_DIVIDES = "divides by what the prompt says anyway, which lifts the rarest tokens of a vocabulary; with search: vocabulary use additive"
_BEST = "contexts are the best of so many orders; give contexts of at most that, or more"
_NOTHING = "with search: vocabulary asks a query without content, which has no neighbors; set calibration or retrieval to none"
_FIRST = "with search: vocabulary the model writes after one prompt alone; set contexts to 1, or search: labels or candidates"
_JUDGES = "judges given answers, and search: vocabulary writes one; set it to 0, or search: labels or candidates"
_AMONG = "draws among the likeliest tokens of the vocabulary; set search: vocabulary and decode: sample with it, or drop it"


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class InContext:
    """Puts answered training rows before the query and reads which answer the model finds likeliest; trains nothing by itself.

    *Paper*: Brown et al. 2020; contextual calibration Zhao et al. 2021; PMI-DC Holtzman et al. 2021; channel Min et al. 2022; order
    Lu et al. 2022; retrieval after Liu et al. 2022 (KATE); domain calibration after Fei et al. 2023, batch calibration after Zhou et
    al. 2024; with masks the in-context row of Gao et al. 2021.
    *Formula*: prompt = instruction + sep + demo_1 + sep + ... + demo_k + sep + query; score(w) = sum_t log P(w_t | prompt, w_<t),
    divided or compared as ``scoring`` says (`tempering.framings.asked.scoring.normalized`); log p_y = log sum over its words w of exp
    score(w), normalized over the classes and the ``candidates`` that are no class's word; calibrated: p / p_cf or p - p_cf
    (`tempering.framings.asked.calibration`); the answer is the likeliest of these, or drawn. An answer searched in the vocabulary is
    written token by token; of the first one's candidates p - p_cf chooses with ``calibration`` additive.
    *Needs*: a causal language model, or one with a mask token. ``template``: a format of
    `tempering.framings.asked.prompt_text.FORMATS` or a string with {text}, {text_pair} and {answer}; ``words``: label -> word or words,
    by default the label's name. Rows for ``shots`` (in all, or of each class with ``per_class``) come from the training split alone.
    *Costs*: one forward pass a query; the demonstrations' keys and values are computed once for all queries. Several-token answers add a
    pass over those tokens alone. ``order`` of entropy: a pass a permutation and probe; ``contexts``: so many passes; ``sensitivity``:
    accuracy under so many orders of the demonstrations on up to 64 other training rows, told and used for nothing. ``retrieval`` knn by
    the model itself: a copy of it while it is trained, by which neighbors are found until the trained one embeds all rows anew.
    *Differs*: demonstrations that do not fit a long query are dropped whole, the farthest first. Batch calibration averages over up
    to 256 training rows and not over the rows predicted, so that a prediction depends on no other. ``contexts`` average probabilities
    over draws or, with an order of entropy, over the best orders (Lu et al. report each). In a training stage the same likelihoods are
    the logits of the loss, with a trained bias a class, and calibration follows training.
    """

    template: str | None = None
    words: Any = ()
    shots: Annotated[int, Field(ge=0)] = 8
    per_class: bool = False
    contexts: Count = 1
    order: Order | None = None
    permutations: Count = 24
    sensitivity: Annotated[int, Field(ge=0)] = 0
    probe_tokens: Count = 64
    retrieval: Retrieval = "none"
    metric: Metric = "cosine"
    encoder: str | None = None
    scoring: Scoring = "auto"
    alpha: Annotated[float, Field(ge=0)] = 1.0
    premise: str | None = None
    calibration: Calibration = "none"
    placeholders: tuple[str, ...] = ("N/A", "", "[MASK]")
    search: Literal["labels", "candidates", "vocabulary"] = "labels"
    candidates: tuple[str, ...] = ()
    decode: Literal["argmax", "sample"] = "argmax"
    temperature: Annotated[float, Field(gt=0)] = 1.0
    top_k: Annotated[int, Field(ge=0)] = 0
    max_new_tokens: Count = 16
    seed: int = 0
    instruction: str | None = None
    separator: str = "\n\n"
    max_length: Annotated[int, Field(ge=4)] | None = None
    cache: bool = True

    supervised: ClassVar[bool] = True
    works_untrained: ClassVar[bool] = True

    @field_validator("words", mode="before")
    @classmethod
    def _hashable(cls, given: Any) -> Any:
        """Label words as pairs, since a mapping does not hash."""
        return paired(given)

    @property
    def named(self) -> tuple[Any, ...]:
        """The labels it names words for: they stand for those of the data where there is none. Empty where it names none."""
        return labels_of(self.words, None)

    @model_validator(mode="after")
    def _means_something(self) -> InContext:
        """Refuse settings that contradict each other, before any weight is loaded."""
        for wrong, why in (*self._contradictions(), *self._unread()):
            if wrong:
                raise ValueError(why)
        return self

    def _unread(self) -> list[tuple[bool, str]]:
        """Settings that only another setting reads, given where that one does not."""
        searched = (self.order in SEARCHED, "order: global_entropy or local_entropy")
        read_by = {
            "permutations": searched,
            "probe_tokens": searched,
            "metric": (self.retrieval == "knn", "retrieval: knn"),
            "placeholders": (self.calibration in ("contextual", "additive"), "calibration: contextual or additive"),
            "max_new_tokens": (self.search == "vocabulary", "search: vocabulary"),
            "seed": (self.decode == "sample", "decode: sample (the seed of the run draws demonstrations)"),
        }
        return [
            (not read and getattr(self, name) != getattr(InContext, name), f"{name} acts with {where} only; set that, or drop it")
            for name, (read, where) in read_by.items()
        ]

    def _contradictions(self) -> list[tuple[bool, str]]:
        retrieved, searched = self.retrieval != "none", self.order in SEARCHED
        orders = orders_of(self.shots, self.permutations)
        near = self.order in ("nearest_last", "nearest_first")
        free = self.calibration in ("contextual", "additive", "domain")
        writes, draws = self.search == "vocabulary", self.decode == "sample"
        return [
            (near and not retrieved, f"order {self.order} ranks what retrieval finds; set retrieval to knn or bm25"),
            (retrieved and self.order == "random", "order random is no order of neighbors; set it to nearest_last or nearest_first"),
            (searched and retrieved, f"order {self.order} needs the same demonstrations for every query; set retrieval to none"),
            (searched and self.shots < 2, f"order {self.order} needs at least 2 shots"),
            (
                searched and self.contexts > self.permutations,
                f"contexts={self.contexts} of permutations={self.permutations}: {_BEST} permutations",
            ),
            (
                searched and not self.per_class and self.contexts > orders,
                f"{self.shots} shots have {orders} different orders: {_BEST} shots",
            ),
            (retrieved and self.sensitivity > 0, "sensitivity orders the same demonstrations anew, and retrieval has none; set it to 0"),
            (self.sensitivity == 1, "sensitivity compares orders; give at least 2, or 0 for none"),
            (self.sensitivity > 0 and self.shots < 2 - self.per_class, "sensitivity orders demonstrations; give at least 2 shots"),
            (self.contexts > 1 and not self.shots, f"contexts={self.contexts} of 0 shots are all the same; set contexts to 1"),
            (retrieved and not self.shots, "retrieval needs shots of at least 1"),
            (retrieved and self.contexts > 1, "contexts of more than 1 are draws of demonstrations, and retrieval draws none; set it to 1"),
            (retrieved and writes and self.calibration != "none", f"calibration {self.calibration} {_NOTHING}"),
            (retrieved and free, f"calibration {self.calibration} asks a query without content, which has no neighbors; use batch"),
            ((self.search == "candidates") != bool(self.candidates), "search: candidates and a list of candidates go together; give both"),
            (len(set(self.candidates)) < len(self.candidates), "candidates name an answer twice; name each once"),
            (self.premise is not None and self.scoring != "pmi", "premise is what scoring: pmi compares with; set that, or drop it"),
            (self.scoring == "channel" and self.search != "labels", "scoring: channel scores texts, not answers; set search: labels"),
            (self.encoder is not None and self.retrieval != "knn", "encoder embeds texts for retrieval: knn; set that, or drop it"),
            (writes and self.scoring not in ("auto", "channel"), f"scoring: {self.scoring} {_COMPARES}"),
            (writes and self.contexts > 1, f"contexts={self.contexts} do nothing: {_FIRST}"),
            (writes and self.sensitivity > 0, f"sensitivity {_JUDGES}"),
            (writes and self.calibration in ("contextual", "domain", "batch"), f"calibration {self.calibration} {_DIVIDES}"),
            (self.alpha != 1 and self.scoring != "length_norm", "alpha is the power of scoring: length_norm; set that, or drop it"),
            (self.temperature != 1 and not draws, "temperature acts on drawn answers only; set decode: sample with it, or drop it"),
            (self.top_k > 0 and not (draws and writes), f"top_k {_AMONG}"),
            (free and not self.placeholders and self.calibration != "domain", "calibration needs placeholders; give at least one"),
        ]

    def build(self, task: Any, backbone: Backbone) -> InContextModule:
        """The module for this task and backbone."""
        from tempering.framings.asked.in_context_module import InContextModule

        return InContextModule(self, task, backbone)
