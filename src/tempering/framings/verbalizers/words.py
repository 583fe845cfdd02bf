"""Label words to token ids and back, by the rules of each kind of tokenizer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from tempering.errors import RecipeError
from tempering.framings.gaps.naming import for_each
from tempering.framings.verbalizers.base import Words, classes_of

if TYPE_CHECKING:
    from tempering.backbone import Backbone

Scheme = Literal["bytes", "pieces", "continuations", "words"]
Ids = tuple[int, ...]
Table = tuple[tuple[Ids, ...], ...]  # class -> word -> its pieces

MARKS: dict[Scheme, str] = {"bytes": "\u0120", "pieces": "\u2581", "continuations": "##"}
UNSPACED = ("<", "[", ".", ",")  # a word that begins so stands without a space before it (LM-BFF)
RESERVED = re.compile(r"\[unused\d+\]|<extra_id_\d+>|<0x[0-9A-F]{2}>|<\|.*\|>|madeupword\d+")


@dataclass(frozen=True)
class WordCoder:
    """A tokenizer as label words need it: a word is encoded as it stands inside a sentence, after a space.

    ``scheme``: "bytes" marks the token that begins a word with a leading space (byte-level BPE), "pieces" with a lower block
    (SentencePiece), "continuations" marks all tokens but the first (WordPiece), "words" marks none. ``causal``: the model reads from
    left to right, and has no masks to give to each piece of a word.
    """

    tokenizer: Any
    source: str
    causal: bool = False

    @classmethod
    def of(cls, backbone: Backbone) -> WordCoder:
        """The coder for the tokenizer of ``backbone``."""
        return cls(backbone.tokenizer, backbone.source, backbone.layout.kind == "decoder")

    @cached_property
    def tokens(self) -> list[str]:
        """The vocabulary by id; ids that stand for nothing are empty."""
        known: dict[str, int] = self.tokenizer.get_vocab()
        found = [""] * (max(known.values()) + 1)
        for token, i in known.items():
            found[i] = token
        return found

    @cached_property
    def scheme(self) -> Scheme:
        """The scheme whose mark most tokens bear."""
        counts = {s: sum(t.startswith(mark) and len(t) > len(mark) for t in self.tokens) for s, mark in MARKS.items()}
        best = max(counts, key=lambda s: counts[s])
        return best if counts[best] else "words"

    @cached_property
    def initial(self) -> tuple[int, ...]:
        """Ids of the tokens that begin a word: what may serve as a label word. Special and reserved tokens do not, nor does punctuation."""
        special = set(self.tokenizer.all_special_ids)
        return tuple(i for i, token in enumerate(self.tokens) if i not in special and self._begins(token))

    def _begins(self, token: str) -> bool:
        mark = "" if self.scheme == "words" else MARKS[self.scheme]
        bare = token.removeprefix(mark)
        if RESERVED.fullmatch(token) or not any(map(str.isalnum, bare)):
            return False
        if self.scheme in ("words", "continuations"):
            return self.scheme == "words" or bare == token
        return bare != token and bare[0] != mark

    def word(self, token_id: int) -> str:
        """The word that a word-initial token stands for."""
        found = str(self.tokenizer.convert_tokens_to_string([self.tokens[token_id]]))
        return found.removeprefix(MARKS["pieces"]).strip()

    def encode(self, word: str) -> Ids:
        """The pieces of ``word``: after a space, unless it begins with one of `UNSPACED`."""
        bare = word.startswith(UNSPACED)
        if self.scheme == "bytes":
            return self._ids(word if bare or word.startswith(" ") else f" {word}")
        if self.scheme != "pieces":
            return self._ids(word)
        mark = MARKS["pieces"]
        found = self._ids(word)
        if not bare and found and not self.tokens[found[0]].startswith(mark):  # this tokenizer adds no space of its own
            found = self._ids(f" {word}")
        return found[1:] if bare and len(found) > 1 and self.tokens[found[0]] == mark else found

    def _ids(self, text: str) -> Ids:
        return tuple(int(i) for i in self.tokenizer.encode(text, add_special_tokens=False))

    def pieces(self, ids: Sequence[int]) -> str:
        """The tokens as a person would look them up."""
        return ", ".join(self.tokens[i] for i in ids)

    def table(self, task: Any, words: Words, single: bool = True) -> Table:
        """The pieces of every word of every class, in the order of the classes. What cannot serve is a `RecipeError`.

        ``single``: a word of several pieces is refused. Words of one class that come to the same pieces count once.
        """
        rows = [self._row(label, given, single) for label, given in given_words(task, words)]
        owners: dict[Ids, tuple[Any, str]] = {}
        for label, row in rows:
            for ids, word in row.items():
                if ids in owners:
                    raise self._shared(owners[ids], (label, word), ids)
            owners |= {ids: (label, word) for ids, word in row.items()}
        return tuple(tuple(row) for _, row in rows)

    def _row(self, label: Any, given: Sequence[str], single: bool) -> tuple[Any, dict[Ids, str]]:
        row: dict[Ids, str] = {}
        for word in given:
            ids = self.encode(word)
            self._check(label, word, ids, single)
            row.setdefault(ids, word)
        return label, row

    def _check(self, label: Any, word: str, ids: Ids, single: bool) -> None:
        name = f"label word {word!r} of class {label!r}"
        if not word.strip() or not ids:
            raise RecipeError(f"{name} is empty; give a word that the model of {self.source} knows")
        if self.tokenizer.unk_token_id in ids:
            raise RecipeError(
                f"{name} is unknown to the tokenizer of {self.source}: it reads {self.pieces(ids)}; choose a word of its vocabulary"
            )
        if single and len(ids) > 1:
            whole = "score whole labels (framing: in_context)" if self.causal else "give each piece a mask (verbalizer: multi_mask)"
            raise RecipeError(
                f"{name} is {len(ids)} tokens to {self.source} ({self.pieces(ids)}) where one is needed; {self._near(word)}"
                "choose a word that is one token, read several pieces at one mask (verbalizer: {manual: {pieces: mean}}),"
                f" or {whole}"
            )

    def _near(self, word: str) -> str:
        """Another spelling of ``word`` that is one known token."""
        stem = word.strip()
        for other in dict.fromkeys((stem.lower(), stem.capitalize(), stem.upper())):
            ids = self.encode(other)
            if other != word and len(ids) == 1 and ids[0] != self.tokenizer.unk_token_id:
                return f"{other!r} is one token: case counts here; or "
        return ""

    def _shared(self, mine: tuple[Any, str], theirs: tuple[Any, str], ids: Ids) -> RecipeError:
        same = "" if mine[1] == theirs[1] else ", since this tokenizer does not tell the two spellings apart"
        return RecipeError(
            f"label words {mine[1]!r} of class {mine[0]!r} and {theirs[1]!r} of class {theirs[0]!r} are the same to {self.source}"
            f" ({self.pieces(ids)}){same}; give each class words of its own"
        )


def given_words(task: Any, words: Words) -> list[tuple[Any, tuple[str, ...]]]:
    """(class, its words) in the order of the classes; a class without words, or words without a class, are a `RecipeError`."""
    return for_each({key: (given,) if isinstance(given, str) else given for key, given in words.items()}, classes_of(task, words))
