"""How a text is chosen token by token: the settings, named as in transformers, and what they become there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

Share = Annotated[float, Field(gt=0, le=1)]
AtLeastZero = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_SAMPLING: dict[str, float] = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "typical_p": 1.0}  # at these they do nothing


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Decoding:
    """Greedy by default; ``num_beams`` searches, ``do_sample`` draws (then ``temperature``, ``top_k``, ``top_p``, ``min_p`` and
    ``typical_p`` say from what; ``generation_seed`` makes the draws those of every run with batches of the same size).

    ``must_include``: texts that must occur: no text ends without them, tokens of theirs gain ``inclusion_bonus`` before, and where the
    room for them runs out they are written. ``sibling_penalty`` (Li, Monroe, Jurafsky 2016): the k-th best continuation of one beam loses k
    times that much, so that beams come from different ones. ``guidance_scale`` g (Sanchez et al. 2023): log P = log P(. | nothing) + g
    (log P(. | source) - log P(. | nothing)), nothing being ``guidance_source``, by default the source without its texts; 1 is plain
    decoding. ``num_return_sequences`` texts of one source are all named in the probabilities, the best is the prediction.
    """

    num_beams: int = Field(default=1, ge=1, kw_only=True)
    length_penalty: float = Field(default=1.0, allow_inf_nan=False, kw_only=True)
    do_sample: bool = Field(default=False, kw_only=True)
    temperature: float = Field(default=1.0, gt=0, allow_inf_nan=False, kw_only=True)
    top_k: int = Field(default=0, ge=0, kw_only=True)
    top_p: Share = Field(default=1.0, kw_only=True)
    min_p: Annotated[float, Field(ge=0, le=1)] = Field(default=0.0, kw_only=True)
    typical_p: Share = Field(default=1.0, kw_only=True)
    repetition_penalty: float = Field(default=1.0, gt=0, allow_inf_nan=False, kw_only=True)
    no_repeat_ngram_size: int = Field(default=0, ge=0, kw_only=True)
    min_new_tokens: int = Field(default=0, ge=0, kw_only=True)
    max_new_tokens: int | None = Field(default=None, ge=1, kw_only=True)
    stop_strings: tuple[str, ...] = Field(default=(), kw_only=True)
    bad_words: tuple[str, ...] = Field(default=(), kw_only=True)
    must_include: tuple[str, ...] = Field(default=(), kw_only=True)
    inclusion_bonus: AtLeastZero = Field(default=0.0, kw_only=True)
    sibling_penalty: AtLeastZero = Field(default=0.0, kw_only=True)
    guidance_scale: AtLeastZero = Field(default=1.0, kw_only=True)
    guidance_source: str | None = Field(default=None, kw_only=True)
    num_return_sequences: int = Field(default=1, ge=1, kw_only=True)
    generation_seed: int = Field(default=0, kw_only=True)

    @model_validator(mode="after")
    def _agree(self) -> Decoding:
        moved = [name for name, idle in _SAMPLING.items() if getattr(self, name) != idle]
        if moved and not self.do_sample:
            raise ValueError(f"{moved[0]} acts on drawn texts only; set do_sample: true with it, or leave it out")
        if self.num_return_sequences > self.num_beams and (not self.do_sample or self.num_beams > 1):
            raise ValueError(
                f"num_return_sequences {self.num_return_sequences} asks for more texts than num_beams {self.num_beams} gives; raise"
                " num_beams, or set do_sample: true with num_beams: 1"
            )
        if self.sibling_penalty and self.num_beams == 1:
            raise ValueError("sibling_penalty parts the beams of a search, and there is one; set num_beams to 2 or more")
        if self.max_new_tokens is not None and self.min_new_tokens > self.max_new_tokens:
            raise ValueError(f"min_new_tokens {self.min_new_tokens} is more than max_new_tokens {self.max_new_tokens}")
        if self.guidance_source is not None and self.guidance_scale == 1.0:
            raise ValueError(
                "guidance_source says what is steered away from, and guidance_scale 1 steers nowhere; set guidance_scale above 1"
            )
        return self

    def generation(self, special: Mapping[str, int | None], tokenizer: Any, steps: int) -> Any:
        """transformers' ``GenerationConfig`` with the ``special`` token ids of the model, for at most ``steps`` new tokens."""
        from transformers import GenerationConfig

        drawn = {name: getattr(self, name) for name in _SAMPLING} if self.do_sample else {}
        drawn |= {"min_p": self.min_p or None} if drawn else {}
        bad = [tokenizer(f"{space}{word}", add_special_tokens=False)["input_ids"] for word in self.bad_words for space in ("", " ")]
        return GenerationConfig(  # type: ignore[no-untyped-call]
            num_beams=self.num_beams,
            length_penalty=self.length_penalty if self.num_beams > 1 else 1.0,
            do_sample=self.do_sample,
            repetition_penalty=self.repetition_penalty,
            no_repeat_ngram_size=self.no_repeat_ngram_size,
            min_new_tokens=self.min_new_tokens,
            max_new_tokens=self.max_new_tokens or steps,
            bad_words_ids=[list(ids) for ids in dict.fromkeys(map(tuple, bad)) if ids] or None,
            num_return_sequences=self.num_return_sequences,
            return_dict_in_generate=True,
            output_scores=True,
            **drawn,
            **special,
        )
