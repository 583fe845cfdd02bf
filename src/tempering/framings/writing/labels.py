"""Answers scored by their likelihood: every choice is read as the target of the source, and the likeliest is the prediction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tempering.contracts import Batch, Example, Prediction, Prompt, Scores, Slab
from tempering.errors import DataError, RecipeError
from tempering.framings.writing.base import Writing
from tempering.framings.writing.losses import length_norm, lm, normalized, unlikelihood
from tempering.framings.writing.states import given_states, read_mask, rows_of
from tempering.framings.writing.targets import Names, Values

if TYPE_CHECKING:
    import numpy as np

    from tempering.backbone import Backbone
    from tempering.framings.text_to_text import TextToText

TOKENS = 8192  # tokens of choices whose logits over the vocabulary are held at once where no gradient is wanted
_NUMBERS = "give a larger step, or answers: free; if its vocabulary has no digits, another model or the framing head"


class LabelScorer(Writing):
    """`TextToText` by likelihood: a row of the slab is a text, its logits are (normalized) log-likelihoods of the choices.

    ``choices``: the token ids of each; ``power``: a score is the sum of log-probabilities over |choice|^power.
    """

    def __init__(self, framing: TextToText, task: Any, backbone: Backbone) -> None:
        super().__init__(framing, task, backbone)
        self.losses = framing.losses
        self._choose()

    def _choose(self) -> None:
        """The tokens of every choice; two that come out alike are refused."""
        texts = self.targets.choices()
        self.choices = [self.ids(text) for text in texts]
        for i, ids in enumerate(self.choices):
            if ids in self.choices[:i]:
                raise RecipeError(
                    f"text_to_text: {texts[self.choices.index(ids)]!r} and {texts[i]!r} are the same tokens to this model's tokenizer; "
                    + (_NUMBERS if isinstance(self.targets, Values) else "give words that differ, as in  words: {label: word}")
                )
        if self.framing.max_source_length is None and not self.source_only:  # the choices need no more than this
            self.source = replace(self.source, length=self.limit - max(map(len, self.choices)))
        given = self.framing.length_norm
        self.power = float(len({len(ids) for ids in self.choices}) > 1) if given is None else given

    def recall(self, kept: dict[str, Any]) -> None:
        """Take the range of values back, and with it the choices."""
        super().recall(kept)
        self._choose()

    def measured(self, example: Example) -> tuple[Any, int]:
        """The number of the right choice; nothing of it is cut."""
        if isinstance(self.targets, Names):
            return self.targets.index(example.label), 0
        assert isinstance(self.targets, Values)
        values = self.targets.grid()
        return min(range(len(values)), key=lambda i: abs(values[i] - float(example.label))), 0

    def collate(self, prompts: Sequence[Prompt], rng: np.random.Generator) -> Batch:
        """Sources padded on the right; targets [rows] if every row has one; weights [rows] if any is not 1."""
        labelled = all(p.target is not None for p in prompts)
        targets = torch.tensor([p.target for p in prompts]) if labelled else None
        weights = torch.tensor([p.weight for p in prompts]) if any(p.weight != 1.0 for p in prompts) else None
        extra = {} if self.source_only else {"read": read_mask([p.input_ids for p in prompts], self.choices)}
        return Batch(self.inputs(prompts), targets, weights, extra=extra)

    def owner(self, device: torch.device) -> Tensor:
        """The choice of each token, one choice after the other [tokens]."""
        sizes = torch.tensor([len(ids) for ids in self.choices], device=device)
        return torch.arange(len(sizes), device=device).repeat_interleave(sizes)

    def trunk(self, backbone: Backbone, batch: Batch) -> Tensor:
        """The state that predicts the first token of every choice [rows, dim]."""
        ids, real = (x.to(batch.inputs["input_ids"].device) for x in rows_of([self.choices[0][:1]]))
        rows = len(batch)
        return given_states(backbone, batch.inputs, ids.expand(rows, -1), real.expand(rows, -1))

    def scores(self, backbone: Backbone, batch: Batch) -> Scores:
        """One slab: logits [1, rows, choices], ``features`` [rows, dim] at the first token, ``steps`` [rows, tokens of all choices].

        While training by a loss that reads the right choice alone, and with nothing else that reads scores, the others are not computed:
        their logits are nan and their steps 0.
        """
        if self.training and torch.is_grad_enabled() and batch.targets is not None and self.losses == ("lm",) and not self.compared:
            return self._right(backbone, batch, batch.targets)
        rows, memory = len(batch), backbone.memory(batch.inputs) if backbone.opened else None
        features, parts = None, []
        for chosen in self._parts(rows):
            ids, real = (x.to(batch.inputs["input_ids"].device) for x in rows_of([self.choices[c] for c in chosen]))
            states = given_states(backbone, batch.inputs, ids.repeat(rows, 1), real.repeat(rows, 1), memory)
            parts.append(self._picked(backbone, states, ids.repeat(rows, 1)[real.repeat(rows, 1)]).view(rows, -1))
            features = states.view(rows, -1, states.shape[-1])[:, 0] if features is None else features
        steps = torch.cat(parts, 1)
        logits = normalized(steps, self.owner(steps.device), self.power)
        return Scores((Slab(logits[None], batch.targets, batch.weights, features, "classification", batch.task, steps=steps),))

    def _right(self, backbone: Backbone, batch: Batch, targets: Tensor) -> Scores:
        """The scores of the right choice of each row."""
        ids, real = (x.to(targets.device) for x in rows_of([self.choices[c] for c in targets.tolist()]))
        states = given_states(backbone, batch.inputs, ids, real)
        owner = self.owner(targets.device)
        right = owner == targets[:, None]
        picked = self._picked(backbone, states, ids[real])
        steps = picked.new_zeros(right.shape).masked_scatter(right, picked)
        logits = normalized(steps, owner, self.power)
        logits = logits.masked_fill(torch.arange(len(self.choices), device=targets.device) != targets[:, None], torch.nan)
        features = states[real.sum(1).cumsum(0) - real.sum(1)]
        return Scores((Slab(logits[None], targets, batch.weights, features, "classification", batch.task, steps=steps),))

    def _parts(self, rows: int) -> list[list[int]]:
        """The numbers of all choices; where no gradient is wanted, a few at a time."""
        most = len(self.choices) if torch.is_grad_enabled() else max(1, TOKENS // (rows * max(map(len, self.choices))))
        return [list(range(i, min(i + most, len(self.choices)))) for i in range(0, len(self.choices), most)]

    def _picked(self, backbone: Backbone, states: Tensor, tokens: Tensor) -> Tensor:
        found = self.logits(backbone, states).float().log_softmax(-1)
        return found.gather(1, tokens[:, None])[:, 0]

    def loss(self, scores: Scores, batch: Batch | None) -> Tensor:
        """The sum of the chosen losses (`tempering.framings.writing.losses`), a mean over rows, by their weights."""
        slab = scores.only
        if slab.targets is None:
            raise DataError("training needs a label in every row, and this batch holds rows without one; leave unlabelled rows out")
        assert slab.steps is not None  # `scores` made them
        owner, made = self.owner(slab.steps.device), {"lm": lm, "unlikelihood": unlikelihood}
        rows = torch.zeros(len(slab.targets), device=slab.steps.device)
        for name in self.losses:
            power = 1.0 if self.framing.length_norm is None else self.power
            loss = length_norm(slab.steps, owner, slab.targets, power) if name == "length_norm" else None
            rows = rows + (made[name](slab.steps, owner, slab.targets) if loss is None else loss)
        return rows.mean() if slab.weights is None else (rows * slab.weights).sum() / slab.weights.sum()

    def decode(self, scores: Scores) -> list[Prediction]:
        """The choice of the highest score, and the softmax of the scores; a value where choices are numbers."""
        logits = scores.only.logits.detach().float().mean(0)
        best, chances = logits.argmax(-1).tolist(), logits.softmax(-1).tolist()
        if isinstance(self.targets, Values):
            values = self.targets.grid()
            return [Prediction(values[i]) for i in best]
        return [Prediction(self.labels[i], dict(zip(self.labels, row, strict=True))) for i, row in zip(best, chances, strict=True)]
