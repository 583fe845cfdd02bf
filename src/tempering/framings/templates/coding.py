"""Text to token ids piece by piece, by the rules of each kind of tokenizer, with special tokens placed by id."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from tempering.framings.templates.pieces import SpecialName
from tempering.framings.wrapping import Wrapping

MARKS = ("\u0120", "\u2581")  # how byte-level BPE and SentencePiece write the space before a word
SENTINELS = ("\n", ".", "-", "'", "(", "0")
Habit = Literal["none", "space", "always"]


@dataclass(frozen=True)
class PieceCoder:
    """A tokenizer that encodes one piece of a prompt as it would stand in running text, with or without a space before it.

    ``habit``: "none" of its tokens says whether a space came before (WordPiece, whole words); "space": the first one does where the
    text has one in front (byte-level BPE); "always": it says so even where there was none (SentencePiece). There a piece without
    a space is encoded behind a sentinel, whose own tokens are dropped.

    Names of special tokens inside the text are split like any text: what a user writes is never a mask or a separator.
    """

    tokenizer: Any

    @cached_property
    def wrapping(self) -> Wrapping:
        """The special tokens at both ends of a text."""
        return Wrapping.of(self.tokenizer)

    @cached_property
    def habit(self) -> Habit:
        """What a space before a word does to its first token."""
        bare, after = (str(self.tokenizer.convert_ids_to_tokens(ids)[0]) if ids else "" for ids in self._ids(["a", " a"]))
        if bare.startswith(MARKS):
            return "always"
        return "space" if after.startswith(MARKS) or after != bare else "none"

    @cached_property
    def _sentinels(self) -> list[tuple[str, list[int]]]:
        """Texts after which the next letter begins no word, with their own tokens."""
        both = zip(SENTINELS, self._ids(SENTINELS), self._ids([f"{s}a" for s in SENTINELS]), strict=True)
        return [(s, own) for s, own, longer in both if self._follows(own, longer)]

    def _follows(self, own: list[int], longer: list[int]) -> bool:
        if not own or longer[: len(own)] != own or len(longer) == len(own):
            return False
        return not str(self.tokenizer.convert_ids_to_tokens(longer[len(own) :])[0]).startswith(MARKS)

    def encode(self, texts: Sequence[str], spaces: Sequence[bool | None]) -> list[list[int]]:
        """Token ids of each text, an empty one has none. ``spaces``: whether a space stands before it; None: nothing does, it begins."""
        if self.habit == "always":
            found = self._ids([t.lstrip(" ") for t in texts])
            bare = [i for i, space in enumerate(spaces) if space is False and texts[i]]
            for i, ids in zip(bare, self._unspaced([texts[i] for i in bare]), strict=True):
                found[i] = ids
            return [ids if texts[i] else [] for i, ids in enumerate(found)]
        in_front = self.habit == "space"
        found = self._ids([f" {t}" if space and in_front and not t.startswith(" ") else t for t, space in zip(texts, spaces, strict=True)])
        return [ids if text else [] for text, ids in zip(texts, found, strict=True)]

    def _unspaced(self, texts: list[str]) -> list[list[int]]:
        """Behind the first sentinel that does not melt into the text; as if after a space where all do."""
        found: list[list[int] | None] = [None] * len(texts)
        for sentinel, own in self._sentinels:
            left = [i for i, ids in enumerate(found) if ids is None]
            for i, ids in zip(left, self._ids([sentinel + texts[i] for i in left]), strict=True):
                if self._follows(own, ids):
                    found[i] = ids[len(own) :]
        rest = [i for i, ids in enumerate(found) if ids is None]
        for i, ids in zip(rest, self._ids([texts[i] for i in rest]), strict=True):
            found[i] = ids
        return [ids or [] for ids in found]

    def special(self, name: SpecialName) -> list[int]:
        """The special token by what it is for: none where the tokenizer has nothing like it."""
        t = self.tokenizer
        known = {"cls": t.cls_token_id, "bos": t.bos_token_id, "eos": t.eos_token_id, "sep": t.sep_token_id}
        order = {"cls": ("cls", "bos"), "bos": ("bos", "cls"), "eos": ("eos", "sep"), "sep": ("sep", "eos"), "sep+": ("sep", "eos")}
        found = next((known[kind] for kind in order[name] if known[kind] is not None), None)
        return [] if found is None else [int(found)]

    @cached_property
    def _reserved(self) -> tuple[frozenset[int], re.Pattern[str]]:
        """Ids of the special tokens, and what finds their names; the unknown token, which any text may come to, is not among them."""
        t = self.tokenizer
        named = {int(i): str(name) for i, name in zip(t.all_special_ids, t.all_special_tokens, strict=True) if i != t.unk_token_id}
        longest = sorted(named.values(), key=len, reverse=True)
        return frozenset(named), re.compile("|".join(re.escape(name) for name in longest) or r"(?!)")

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of the texts by themselves. Where a vocabulary holds names of special tokens as words, those are broken up by a space."""
        found = self._tokenized(texts)
        reserved, names = self._reserved
        held = [i for i, ids in enumerate(found) if not reserved.isdisjoint(ids)]
        broken = self._tokenized([names.sub(lambda name: f"{name[0][:1]} {name[0][1:]}", texts[i]) for i in held])
        for i, ids in zip(held, broken, strict=True):
            found[i] = [token for token in ids if token not in reserved]
        return found

    def _tokenized(self, texts: Sequence[str]) -> list[list[int]]:
        if not texts:
            return []
        options = {"add_special_tokens": False, "split_special_tokens": True, "return_attention_mask": False, "verbose": False}
        return [list(ids) for ids in self.tokenizer(list(texts), return_token_type_ids=False, **options)["input_ids"]]
