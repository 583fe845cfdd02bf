"""`InContext` at run time: from prompts to scores of answers, calibrated; what is chosen from the training rows; predictions."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tempering.backbone import Backbone
from tempering.contracts import Batch, Example, Kind, Prediction, Rendered, Scores, Slab
from tempering.errors import ModelError, RecipeError
from tempering.framings.asked import answering, calibration, choice
from tempering.framings.asked.asking import Asked
from tempering.framings.asked.drawing import prompt_length
from tempering.framings.asked.first_token import first_prior
from tempering.framings.asked.prompted import PromptedModule
from tempering.framings.asked.refusing import idle, refuse
from tempering.framings.asked.retrieval import Neighbors, embedded, joined
from tempering.framings.asked.scoring import classes_from, lengths_of, normalized
from tempering.framings.losses import supervised_loss

if TYPE_CHECKING:
    from tempering.framings.in_context import InContext
    from tempering.learner import Learner


class InContextModule(PromptedModule):
    """Scores of answers under the backbone. Buffers: ``prior`` [contexts, outcomes], log p_cf; ``first`` [vocabulary], that of the first
    token (vocabulary); ``unconditional`` [answers] (pmi); ``embeddings`` [rows, dim] of the rows that may be retrieved (knn).

    ``outcomes`` are what scores have a column for: the classes, then every candidate that is no class's word.
    """

    method: ClassVar[str] = "in_context"
    kinds: ClassVar[tuple[Kind, ...]] = ("classification", "text")
    smooths = True

    def __init__(self, value: InContext, task: Any, backbone: Backbone) -> None:
        self.given = value
        super().__init__(value, task, backbone, back=value.scoring == "channel")
        self.keeps_scores = self.kind != "text"
        refuse(self, backbone)
        words = super().answers_of(Example(())) if self.kind == "classification" else []
        self.free = self.kind == "text" and value.search == "vocabulary"
        self.scored = tuple(dict.fromkeys([*words, *value.candidates]))
        self.reader.check_words(value.candidates, self.method)
        self.reader.limit -= value.max_new_tokens if value.search == "vocabulary" else 0
        index = {w: c for c, found in enumerate(self.words) for w in found}
        self.outcomes: tuple[Any, ...] = (*self.labels, *(w for w in self.scored if w not in index))
        self.owners = torch.tensor([index[w] if w in index else self.outcomes.index(w) for w in self.scored])
        self.register_buffer("prior", torch.zeros(value.contexts, len(self.outcomes) or 1))
        if value.search == "vocabulary" and value.calibration != "none":
            table: Any = backbone.embeddings.weight
            self.register_buffer("first", torch.zeros(len(table)))
        self.calibrated = False
        self.found: dict[str, float] = {}  # what the search for an order told
        if value.scoring == "pmi":
            self.register_buffer("unconditional", torch.zeros(len(self.scored)))
        self.neighbors: Neighbors | None = None
        self._embedder = (Backbone.load(value.encoder) if value.encoder else backbone,)  # in a tuple: it is not a part of this module
        self._first: tuple[Backbone, ...] = ()  # the model before training, while it is trained and finds neighbors itself

    @property
    def answers(self) -> tuple[Any, ...]:
        """The labels, or the candidates of a task of free text."""
        return self.labels or self.given.candidates

    def answers_of(self, example: Example) -> list[str]:
        """All scored answers; of a task of free text without candidates the row's own."""
        return ["" if example.label is None else str(example.label)] if self.free else list(self.scored)

    def word_of(self, label: Any) -> str:
        """A label's first word; free text as it is."""
        return str(label) if self.kind == "text" else super().word_of(label)

    def index_of(self, example: Example) -> int | None:
        """The class, or the candidate, of ``example``; -100 where its text is none of the candidates."""
        if self.kind != "text" or example.label is None:
            return super().index_of(example)
        return self.answers.index(example.label) if example.label in self.answers else -100

    def _ask(self, texts: Sequence[str], shown: tuple[int, ...], context: int, answers: Sequence[str]) -> Asked:
        if not self.back:
            return super()._ask(texts, shown, context, answers)
        told = [self.pattern.told(texts, word) for word in answers]
        fixed = self.fixed(shown)
        return self.reader.ask_back([(fixed + before, text) for before, text in told], shown, context)

    # From a batch to scores

    def trunk(self, backbone: Backbone, batch: Batch) -> Tensor:
        """Scores of all answers [rows, answers], as `normalized` compares them, before calibration."""
        parts: list[Tensor] = []
        order: list[int] = []
        for rows, asked, text in self.groups(batch):
            totals = self.reader.totals(backbone, asked, text)
            lengths = lengths_of(self.scored or ("",), torch.tensor([one.tokens for one in asked], device=totals.device))
            how = "mean" if self.free else self.given.scoring
            unconditional = self.get_buffer("unconditional") if self.given.scoring == "pmi" else None
            parts.append(normalized(totals, lengths, how, self.given.alpha, unconditional))
            order += rows
        return torch.cat(parts)[torch.argsort(torch.tensor(order, device=parts[0].device))]

    def length_hint(self, lengths: Sequence[int], limit: int) -> int:
        """Tokens of the longest prompt for rows of ``lengths`` (none known: ``limit`` each), all its demonstrations counted."""
        return prompt_length(self, lengths or (limit,))

    def trunk_key(self) -> str:
        """Everything that prompts and scores depend on."""
        return f"in_context {self.state_text()}"

    def log_probabilities(self, words: Tensor) -> Tensor:
        """log p of the outcomes [rows, outcomes] from scores of answers, not calibrated; candidates have no bias."""
        found = classes_from(words, self.owners.to(words.device), len(self.outcomes))
        return (found + F.pad(self.bias, (0, len(self.outcomes) - len(self.answers)))).log_softmax(-1)

    def scores(self, backbone: Backbone, batch: Batch) -> Scores:
        """One slab: calibrated log-probabilities of the outcomes, and the scores of all answers as features."""
        cached = batch.inputs.get("features")
        words = self.trunk(backbone, batch) if cached is None else cached
        if self.free:
            return Scores((Slab(words[None], batch.targets, batch.weights, words, self.kind, batch.task),))
        logits = self.log_probabilities(words)
        if self.calibrated:
            prior = self.get_buffer("prior")[[one.context for one in batch.extra["asked"]]]
            change = calibration.additive if self.given.calibration == "additive" else calibration.diagonal
            logits = change(logits, prior)
        return Scores((Slab(logits[None], batch.targets, batch.weights, words, self.kind, batch.task),))

    def loss(self, scores: Scores, batch: Batch) -> Tensor:
        """Cross entropy of the outcomes; of free text, minus the log-likelihood of the answer as it is scored."""
        slab = scores.only
        if self.free:
            return -slab.logits.mean()
        if self.kind == "text":
            assert slab.targets is not None  # labels were asked for by whoever wants a loss
            known = (slab.targets >= 0).sum().clamp_min(1)
            return F.cross_entropy(slab.logits[0], slab.targets, ignore_index=-100, reduction="sum") / known
        return supervised_loss(slab, self.smoothing if self.training else 0.0)

    # What is chosen from the training rows

    def prepare(self, learner: Learner, examples: Sequence[Example], rng: np.random.Generator) -> None:
        """As all such framings, with notes on settings that do nothing on this task and model."""
        super().prepare(learner, examples, rng)
        self.notes += tuple(idle(self))

    def _choose(self, learner: Learner, examples: Sequence[Example], rng: np.random.Generator) -> None:
        v = self.given
        self.calibrated = False
        choice.measure_premise(self, learner)
        if v.retrieval != "none":
            if v.shots >= len(examples):
                raise RecipeError(f"in_context: {v.shots} shots are to be retrieved from {len(examples)} training rows; give fewer shots")
            self.pool, self.contexts = tuple(examples), [()]
            trained = any(w.requires_grad for w in learner.backbone.parameters())
            if v.retrieval == "knn" and v.encoder is None and trained:
                self._first = (copy.deepcopy(learner.backbone).requires_grad_(False),)
            self._look(learner)
            return
        choice.draw_contexts(self, learner, examples, rng)

    def finish(self, learner: Learner, examples: Sequence[Example], rng: np.random.Generator) -> None:
        """Find neighbors by the trained model, and measure what the prompt makes it say by itself."""
        self.calibrated = False
        if self._first:
            self._first = ()
            self._look(learner)
        choice.measure_premise(self, learner)
        if self.given.calibration == "none":
            return
        if not self.free:
            self.get_buffer("prior").copy_(choice.prior(self, learner, examples, rng))
        if self.given.search == "vocabulary":
            empty = choice.under(self, list(choice.without_content(self, examples, rng)), 0)
            self.get_buffer("first").copy_(first_prior(self, learner, empty))
        self.calibrated = True

    def _look(self, learner: Learner) -> None:
        """From here on neighbors are those that the model, as it is now, or the encoder finds."""
        self.neighbors = self._neighbors()
        if self.given.retrieval == "knn":
            found = embedded(self.neighbors.embedder[0], [joined(e) for e in self.pool])
            self.register_buffer("embeddings", found.to(learner.device))

    def shown_for(self, examples: Sequence[Example]) -> Iterator[list[tuple[int, ...]]]:
        """The demonstrations of each query: those of every context, or its neighbors."""
        if self.neighbors is None:
            yield from super().shown_for(examples)
            return
        for found in self.neighbors.of(examples, self.get_buffer("embeddings") if "embeddings" in self._buffers else None):
            yield [found if self.given.order == "nearest_first" else found[::-1]]

    def _without_farthest(self, shown: tuple[int, ...]) -> tuple[int, ...]:
        if self.given.order == "nearest_first":
            return super()._without_farthest(shown[::-1])[::-1]
        return super()._without_farthest(shown)

    def common_text(self, asked: Asked) -> str:
        """Neighbors are each query's own, so that queries have no more than the instruction in common."""
        return super().common_text(asked) if self.neighbors is None else self.fixed(()) + self.pattern.opening

    # What is said in the end

    def predictions(self, learner: Learner, asked: Rendered, scores: Scores | None, batch_size: int = 64) -> list[Prediction]:
        """Probabilities averaged over contexts, and the answer searched for and chosen as the value says.

        The record tells the share of answers of the last call that are no label, where others may be said.
        """
        said = answering.written(self, learner, asked, batch_size) if self.given.search == "vocabulary" else None
        if self.free:
            assert said is not None  # free text is searched in the vocabulary
            return [Prediction(text) for text in said]
        found = answering.chosen(self, learner.score(asked.prompts, batch_size) if scores is None else scores, asked, said)
        if self.given.search != "labels" and self.labels:
            learner.record["out_of_label"] = sum(p.label not in self.labels for p in found) / len(found)
        return found

    def keep(self) -> dict[str, Any]:
        """What all such framings keep, whether it is calibrated and over how many outcomes, and how many rows are embedded."""
        shape = list(self.get_buffer("embeddings").shape) if "embeddings" in self._buffers else None
        return super().keep() | {"calibrated": self.calibrated, "prior": list(self.get_buffer("prior").shape), "embeddings": shape}

    def recall(self, kept: dict[str, Any]) -> None:
        """Take them back; the embeddings themselves come with the weights."""
        super().recall(kept)
        self.calibrated = bool(kept["calibrated"])
        if kept.get("prior", [0, len(self.answers) or 1])[1] != (len(self.outcomes) or 1):  # a folder that names none: over the labels
            raise ModelError("in_context: this model was saved with a prior of its labels and none of its candidates; fit it again")
        if kept["embeddings"]:
            self.register_buffer("embeddings", torch.zeros(kept["embeddings"]))
        if self.given.retrieval != "none":
            self.neighbors = self._neighbors()

    def _neighbors(self) -> Neighbors:
        v = self.given
        targets = [e.label for e in self.pool]
        return Neighbors(
            self.pool, targets, v.shots, v.per_class, v.metric, (self._first or self._embedder) if v.retrieval == "knn" else ()
        )

    def facts(self) -> dict[str, float]:
        """Those of all such framings, retrieved demonstrations counted too, and what the search for an order found."""
        return super().facts() | ({} if self.neighbors is None else {"demonstrations": float(self.neighbors.most)}) | self.found
