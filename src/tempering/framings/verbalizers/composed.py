"""Label words composed of several sub-prompts, one word at each mask."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from torch import Tensor

from tempering.contracts import Slab
from tempering.errors import RecipeError
from tempering.framings.verbalizers.base import VerbalizerModule, Words, classes_of
from tempering.framings.verbalizers.words import WordCoder, given_words

if TYPE_CHECKING:
    from tempering.backbone import Backbone


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Composed:
    """Reads a class off several masks, each of which a sub-prompt of its own asks for: the words of a class are one a mask, in order.

    A relation is "person", "born", "city" at the three masks of ``the {mask} ... was {mask} in the {mask} ...``; classes may share words.

    *Paper*: Han et al. 2021 (PTR: prompt tuning with rules). *Formula*: s_y = sum over masks j of log P_j(w_yj), P_j the softmax over the
    words that any class has at mask j; loss = mean over rows of -s_y. *Needs*: a template with as many masks as each class has words,
    each word one token. *Costs*: one pass. *Differs*: PTR also draws its sub-prompts' masks to trained vectors in the template: write
    ``{soft:...}`` there; probabilities are the softmax of s over the classes, as no class but these is an answer.
    """

    trains: ClassVar[bool] = False
    reads_rows: ClassVar[bool] = False
    asks_words: ClassVar[bool] = True

    def build(self, task: Any, backbone: Backbone, words: Words) -> ComposedModule:
        """The module for the words of each class. Classes that say the same, or another number of words, are refused."""
        coder, rows = WordCoder.of(backbone), given_words(task, words)
        ids = {label: tuple(_single(coder, label, word) for word in given) for label, given in rows}
        first, *rest = ids
        for label in rest:
            if len(ids[label]) != len(ids[first]):
                raise RecipeError(
                    f"composed: class {first!r} has {len(ids[first])} words and class {label!r} has {len(ids[label])}; give every class one"
                    " word for each mask of the template"
                )
        for i, label in enumerate(rest, start=1):
            if same := next((other for other in list(ids)[:i] if ids[other] == ids[label]), None):
                raise RecipeError(f"composed: classes {same!r} and {label!r} have the same words at every mask; change one of them")
        return ComposedModule(classes_of(task, words), tuple(ids.values()))


def _single(coder: WordCoder, label: Any, word: str) -> int:
    found = coder.encode(word)
    if len(found) != 1 or found[0] == coder.tokenizer.unk_token_id:
        raise RecipeError(
            f"composed: word {word!r} of class {label!r} is {coder.pieces(found) or 'nothing'} to {coder.source}, and each mask takes one"
            " known token; choose another word"
        )
    return found[0]


class ComposedModule(VerbalizerModule):
    """`Composed` at run time: ``rows`` [classes][masks] are token ids. It has no weights."""

    pick: Tensor
    among: Tensor

    def __init__(self, labels: tuple[Any, ...], rows: tuple[tuple[int, ...], ...]) -> None:
        super().__init__()
        self.labels, self.masks = labels, len(rows[0])
        self.ids = tuple(dict.fromkeys(i for row in rows for i in row))
        self.table = tuple((row,) for row in rows)  # what a demonstration shows at the masks
        place = {i: at for at, i in enumerate(self.ids)}
        pick = torch.tensor([[place[i] for i in row] for row in rows])
        among = torch.zeros(self.masks, len(self.ids), dtype=torch.bool)
        among[torch.arange(self.masks).expand_as(pick), pick] = True
        self.register_buffer("pick", pick, persistent=False)
        self.register_buffer("among", among, persistent=False)

    def forward(self, read: Tensor) -> Tensor:
        """Logits of the ids [rows, masks, ids] -> class scores [rows, classes]."""
        logs = read.float().masked_fill(~self.among, -torch.inf).log_softmax(-1)
        at = torch.arange(self.masks, device=logs.device)
        return torch.stack([logs[:, at, row].sum(-1) for row in self.pick], -1)

    def loss(self, slab: Slab) -> Tensor | None:
        """-s_y of each row: the masks are asked for one by one, and not the classes against each other."""
        if slab.targets is None:
            return None
        rows = -slab.logits[0].gather(1, slab.targets.unsqueeze(1))[:, 0]
        return rows.mean() if slab.weights is None else (rows * slab.weights).sum() / slab.weights.sum()
