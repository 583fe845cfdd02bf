"""One prompt and its possible answers, ready for the model: encoded, cut to the context, its demonstrations whole or left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from tempering.errors import ModelError, RecipeError
from tempering.framings.asked.left_to_right import Prefix, Prefixes, cacheable, context_length
from tempering.framings.asked.likelihood import answer_states, shared_ids, totals
from tempering.framings.asked.mask_likelihood import Blank, blank_states, blank_totals
from tempering.framings.asked.scoring import Split, encoded, split
from tempering.framings.wrapping import Wrapping

if TYPE_CHECKING:
    from tempering.backbone import Backbone


class Asked(NamedTuple):
    """A rendered query: the demonstrations ``shown``, the number of its ``context``, and what the model reads.

    For a model that reads from left to right ``splits``: one with all answers after it, or for the channel one an answer. For a model
    that fills masks ``blank``, with the ids of the ``words`` for its gap.
    """

    shown: tuple[int, ...]
    context: int
    splits: tuple[Split, ...]
    blank: Blank | None = None
    words: tuple[tuple[int, ...], ...] = ()

    @property
    def ids(self) -> list[int]:
        """What stands for it where prompts are told apart: everything before the answers, or the first of several rows whole."""
        if self.blank is not None:
            return [*self.blank.before, *self.blank.after]
        return self.splits[0].context if len(self.splits) == 1 else self.splits[0].context + self.splits[0].tails[0]

    @property
    def length(self) -> int:
        """Tokens of the longest row the model would read."""
        if self.blank is not None:
            return len(self.blank.before) + len(self.blank.after) + max(map(len, self.words))
        return max(found.longest for found in self.splits)

    @property
    def tokens(self) -> list[int]:
        """The number of scored tokens of every answer."""
        if self.blank is not None:
            return [len(word) for word in self.words]
        return [len(tail) - start for found in self.splits for tail, start in zip(found.tails, found.starts, strict=True)]


@dataclass
class Reader:
    """How one backbone is asked: from left to right, or with masks. ``limit`` counts tokens, special ones among them."""

    tokenizer: Any
    wrapping: Wrapping
    masked: bool
    limit: int
    reuse: bool = True
    prefixes: Prefixes = field(default_factory=Prefixes)
    _shared: dict[str, list[int]] = field(default_factory=dict)

    @classmethod
    def of(cls, backbone: Backbone, method: str, max_length: int | None, reuse: bool) -> Reader:
        """The reader for ``backbone``; a model that can name no tokens is a `ModelError`."""
        layout = backbone.layout
        layout.require(method)
        masked = layout.kind == "encoder"
        if layout.kind not in ("encoder", "decoder") or (masked and backbone.tokenizer.mask_token_id is None):
            why = "has no mask token to answer at" if masked else "reads text with an encoder and writes with a decoder"
            raise ModelError(
                f"{method} cannot serve {backbone.source} ({layout.family}): it {why}; use a causal language model, a masked one such as"
                " roberta-base, or the framing text_to_text for an encoder-decoder"
            )
        limit = min(context_length(backbone), max_length or context_length(backbone))
        return cls(backbone.tokenizer, Wrapping.of(backbone.tokenizer), masked, limit, reuse and not masked)

    def ask(self, before: str, answers: Sequence[str], after: str, shown: tuple[int, ...], context: int) -> Asked:
        """``answers`` after ``before``; of a model with masks also what stands ``after`` the answer."""
        if not self.masked:
            return Asked(shown, context, (split(self.tokenizer, self.wrapping, before, answers),))
        bare = before.rstrip(" ")
        moved = before[len(bare) :]
        head, tail, *words = encoded(self.tokenizer, [bare, after, *(moved + answer for answer in answers)])
        blank = Blank([*self.wrapping.before, *head], [*tail, *self.wrapping.after])
        return Asked(shown, context, (), blank, tuple(map(tuple, words)))

    def ask_back(self, tellings: Sequence[tuple[str, str]], shown: tuple[int, ...], context: int) -> Asked:
        """The channel: for every answer (what stands before the text, the text), of which the text is scored."""
        return Asked(shown, context, tuple(split(self.tokenizer, self.wrapping, before, [text]) for before, text in tellings))

    def check_words(self, words: Sequence[str], method: str) -> None:
        """Refuse a word that the vocabulary does not have."""
        unknown = self.tokenizer.unk_token_id
        for word in words:
            (ids,) = encoded(self.tokenizer, [" " + word])
            if not ids or (unknown is not None and unknown in ids):
                pieces = self.tokenizer.convert_ids_to_tokens(ids)
                raise RecipeError(
                    f"{method}: words: {word!r} becomes {' '.join(pieces) or 'nothing'} in this model's vocabulary, so it cannot be an"
                    " answer; give another word"
                )

    def totals(self, backbone: Backbone, asked: Sequence[Asked], fixed: str) -> Tensor:
        """log P of every answer of every query [queries, answers]; ``fixed`` is the text that all of them begin with."""
        if self.masked:
            return blank_totals(backbone, [_blank(found) for found in asked], asked[0].words)
        rows = [found for one in asked for found in one.splits]
        return torch.cat(totals(backbone, rows, self.prefix(backbone, fixed), self.reuses(backbone))).view(len(asked), -1)

    def reuses(self, backbone: Backbone) -> bool:
        """Whether keys and values may be kept from one pass to the next."""
        return self.reuse and not torch.is_grad_enabled() and cacheable(backbone)

    def prefix(self, backbone: Backbone, fixed: str) -> Prefix:
        """What is kept of the text that queries begin with."""
        return self.prefixes.of(backbone, self._begins(fixed)) if self.reuses(backbone) else Prefix()

    def bare(self, text: str) -> list[int]:
        """``text`` with the special tokens that stand before it, to be gone on from."""
        return [*self.wrapping.before, *encoded(self.tokenizer, [text])[0]] or split(self.tokenizer, self.wrapping, "", ["a"]).context

    @property
    def line_ends(self) -> list[int]:
        """The token of a line's end, where the vocabulary has one."""
        ids = encoded(self.tokenizer, ["\n"])[0]
        return ids if len(ids) == 1 and ids[0] != self.tokenizer.unk_token_id else []

    def states(self, backbone: Backbone, asked: Sequence[Asked], fixed: str) -> Tensor:
        """The last states [queries, dim] that predict the first token of the answer."""
        if self.masked:
            return blank_states(backbone, [_blank(found) for found in asked])
        contexts = [found.splits[0].context for found in asked]
        return answer_states(backbone, contexts, self.prefix(backbone, fixed), self.reuses(backbone))

    def _begins(self, fixed: str) -> list[int]:
        """The ids that every query after ``fixed`` begins with, whatever letter it starts with: a token may span the join."""
        if fixed not in self._shared:
            rows = encoded(self.tokenizer, [fixed, *(fixed + start for start in ("a", "B", "1", '"', "é"))])
            self._shared[fixed] = [*self.wrapping.before, *shared_ids(rows)]
        return self._shared[fixed]

    def count(self, text: str) -> int:
        """Tokens of a bare text."""
        return len(encoded(self.tokenizer, [text])[0])

    def shortened(self, texts: Sequence[str], over: int) -> tuple[str, ...]:
        """``texts`` with ``over`` tokens off the end of the longest."""
        sizes = [self.count(text) for text in texts]
        longest = max(range(len(texts)), key=lambda i: sizes[i])
        if not sizes[longest]:
            raise RecipeError(
                f"max_length {self.limit}: the template alone fills the context and leaves no room for text; take a shorter template or"
                " instruction, or a model with a longer context"
            )
        kept = self._cut(texts[longest], max(0, sizes[longest] - over))
        return tuple(kept if i == longest else text for i, text in enumerate(texts))

    def _cut(self, text: str, tokens: int) -> str:
        """The characters of the first ``tokens`` tokens; always fewer than there were."""
        options = {"add_special_tokens": False, "split_special_tokens": True, "verbose": False}
        if not self.tokenizer.is_fast:  # no offsets: the share of its characters
            return text[: min(len(text) - 1, len(text) * tokens // max(1, self.count(text)))]
        ends = self.tokenizer(text, return_offsets_mapping=True, **options)["offset_mapping"]
        return text[: min(len(text) - 1, ends[tokens - 1][1])] if tokens else ""


def _blank(asked: Asked) -> Blank:
    assert asked.blank is not None  # a reader with masks made it
    return asked.blank
