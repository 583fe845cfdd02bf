"""The special tokens that a tokenizer puts around a text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Wrapping:
    """The special tokens that a tokenizer puts before and after a single text."""

    before: tuple[int, ...]
    after: tuple[int, ...]

    @classmethod
    def of(cls, tokenizer: Any, target: bool = False) -> Wrapping:
        """Read off a text of one word (a ``target``: as it is written): transformers 5 has no method that would say it. None where the
        word has no token to tell by.
        """
        found = tokenizer(**{"text_target" if target else "text": "a"}, return_special_tokens_mask=True)
        ids, marks = found["input_ids"], found["special_tokens_mask"]
        if 0 not in marks:
            return cls((), ())
        return cls(tuple(ids[: marks.index(0)]), tuple(ids[len(ids) - marks[::-1].index(0) :]))


def filler(tokenizer: Any) -> int:
    """What stands where there is no token and no special one is put: a model can neither read an empty row nor continue one."""
    known = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    return next((int(i) for i in known if i is not None), 0)
