"""What a stage makes: a backbone with a framing, able to predict, to be trained further and to be saved."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from tempering import tags
from tempering.batching import Rows, even_batches, halving, keyed_batches, spare_on
from tempering.contracts import Batch, Example, Prediction, Prompt, Rendered, Scores, Slab, Weights
from tempering.errors import DataError

if TYPE_CHECKING:
    from tempering.backbone import Backbone

Found = TypeVar("Found")


class Learner(nn.Module):
    """Backbone plus framing module for one task.

    ``tuning`` is the value that was attached to the backbone, ``record`` a JSON-ready account of how the learner was made
    (recipe, data, seeds, metrics): it is what `save_pretrained` writes beside the weights.
    """

    def __init__(self, backbone: Backbone, framing: Any, tuning: Any, record: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.backbone = backbone
        self.framing = framing
        self.tuning = tuning
        self.record: dict[str, Any] = record or {}
        self.fits: int | None = None  # rows of an evaluation batch that memory held, once it ran out
        self.eval_batch_size = 64  # rows of an evaluation batch where nobody says otherwise; the stage that made it may
        self.sharded = False  # weights are spread over processes, which then have to do all passes together
        self.steps = 0  # optimizer steps of the run that trains it, for schedules of a method's own; set before hooks start

    def forward(self, batch: Batch) -> Scores:
        """Scores of a batch. While training, only `tempering.passes.Passes` calls this."""
        scores: Scores = self.framing.scores(self.backbone, batch)
        return scores

    def train(self, mode: bool = True) -> Learner:
        """Training mode; the trunk stays in evaluation mode where the tuning says so."""
        super().train(mode)
        if self.tuning.trunk_eval:
            self.backbone.eval()
        return self

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def trained(self) -> Weights:
        """The trained weights, by name."""
        return {n: p for n, p in self.named_parameters() if p.requires_grad}

    def kept(self) -> Weights:
        """All that changes while training, by name: the trained weights, and the state that framing and tuning hold in buffers."""
        own = {f"backbone.model.{name}" for name in self.backbone.own}
        buffers = {n for n, _ in self.named_buffers()} & set(self.state_dict())
        state = {n: b for n, b in self.named_buffers() if n in buffers and n not in own}
        return self.trained() | state

    def pretrained(self, name: str) -> bool:
        """Whether weight ``name`` came with the pretrained model (and was not added or drawn anew)."""
        if name.startswith("backbone.lm_head."):  # its weights were read together, or drawn together
            return not getattr(self.backbone.lm_head, "fresh", True)
        return name.removeprefix("backbone.model.") in self.backbone.pretrained if name.startswith("backbone.model.") else False

    def depth(self, name: str) -> int:
        """Height of a weight: 0 embeddings, 1 .. L blocks, L + 1 above them, L + 2 for the framing's own weights."""
        return self.backbone.depth(name) if name.startswith("backbone.") else self.backbone.top + 1

    @torch.no_grad()
    def evaluated(
        self, prompts: Sequence[Prompt], batch_size: int, work: Callable[[Batch, Rows], Found], drawn: bool = False
    ) -> list[tuple[Rows, Found]]:
        """``work(batch, rows)`` in evaluation mode on every batch, with its rows. Longest texts first: what memory cannot hold shows soon.
        ``drawn``: batches are drawn and not of like length, the same each time, because what is in one is compared.

        Where memory runs out, everything is done again in batches of half the size, and ``fits`` keeps the size for the next time.
        """
        self.eval()

        def all_of(size: int) -> list[tuple[Rows, Found]]:
            rng = np.random.default_rng(0)
            if drawn:
                order = even_batches(len(prompts), size, np.random.default_rng(0))
            else:
                lengths, begun = [len(p.input_ids) for p in prompts], [self.framing.begun(p) for p in prompts]
                order = keyed_batches(begun, lengths, size, spare_on(self.device))[::-1]
            return [(rows, work(self.framing.collate([prompts[i] for i in rows], rng), rows)) for rows in order]

        wanted = min(batch_size, len(prompts), self.fits or batch_size)
        found, size = halving(wanted, all_of, least=wanted if self.sharded else 1)
        if size < wanted:
            self.fits = size
        return found

    def each(self, prompts: Sequence[Prompt], batch_size: int, work: Callable[[Batch, Rows], Sequence[Found]]) -> list[Found]:
        """`evaluated` where ``work`` says one thing of every row of its batch: these, in the order of ``prompts``."""
        found = {int(i): one for rows, said in self.evaluated(prompts, batch_size, work) for i, one in zip(rows, said, strict=True)}
        return [found[i] for i in range(len(prompts))]

    def outputs(self, prompts: Sequence[Prompt], batch_size: int, work: Callable[[Batch], Tensor]) -> Tensor:
        """What ``work`` makes of batches on the learner's device, [rows, ...] each, as one tensor in main memory, in the order of
        ``prompts``.
        """
        found = self.evaluated(prompts, batch_size, lambda batch, _: work(batch.to(self.device)).cpu())
        order = np.argsort(np.concatenate([rows for rows, _ in found]))
        return torch.cat([part for _, part in found])[torch.from_numpy(order)]

    def score(self, prompts: Sequence[Prompt], batch_size: int = 64, features: Tensor | None = None) -> Scores:
        """Evaluation-mode scores of many prompts, in their order, batched by length. ``features`` are cached trunk outputs."""

        def work(batch: Batch, rows: Rows) -> Slab:
            if features is not None:
                batch = Batch({"features": features[torch.from_numpy(rows)]}, batch.targets, batch.weights, batch.task, batch.extra)
            return _off_device(self(batch.to(self.device)).only)

        found = self.evaluated(prompts, batch_size, work)
        return joined([slab for _, slab in found], np.concatenate([rows for rows, _ in found]))

    def mean_loss(self, prompts: Sequence[Prompt], batch_size: int = 64) -> float:
        """The framing's loss over many prompts, batch by batch: what a vocabulary of logits a row leaves no memory to keep."""

        def work(batch: Batch, _: Rows) -> tuple[float, int]:
            batch = batch.to(self.device)
            scores = self(batch)
            return float(self.framing.loss(scores, batch)), int(scores.only.logits.shape[1])

        losses = [found for _, found in self.evaluated(prompts, batch_size, work, self.framing.compares_texts)]
        return sum(loss * count for loss, count in losses) / sum(count for _, count in losses)

    def predictions(self, examples: Sequence[Example], batch_size: int = 64) -> list[Prediction]:
        """A `Prediction` for every example, in order. Several prompts of one example are averaged."""
        if not examples:
            return []
        asked = Rendered.of(examples, self.framing.render(examples, (), np.random.default_rng(0)))
        scores = self.score(asked.prompts, batch_size) if self.framing.keeps_scores else None
        return list(self.framing.predictions(self, asked, scores, batch_size))

    def predict(self, texts: Sequence[str | tuple[str, str]] | Sequence[Sequence[str]], batch_size: int = 64) -> list[Any]:
        """The label (value, tuple of labels) of every text or pair of texts, as the user wrote labels.

        A model that tags words takes a text, whose words it finds itself, or a list of words, and says the tags; one that answers
        questions takes (question, context) and says the answer, "" where there is none. `predictions` tells where entities and answers
        stand.
        """
        return [p.label for p in self.predictions(as_examples(texts, self.framing), batch_size)]

    def predict_proba(self, texts: Sequence[str | tuple[str, str]] | Sequence[Sequence[str]], batch_size: int = 64) -> list[Any]:
        """For every text, the probability of each label (a dict); where words are tagged, a list of such, one a word."""
        found = self.predictions(as_examples(texts, self.framing), batch_size)
        words = getattr(self.framing, "kind", "") == "tagging"
        return [[dict(chances) for chances in p.each] if words else dict(p.probabilities) for p in found]

    def save_pretrained(self, folder: str | Path, merge: bool = False) -> Path:
        """Write the learner to ``folder``; `tempering.load` reads it back with equal predictions. See `tempering.saving.save`.

        A README beside the weights says how to load them, with `tempering` and with every other library that can.
        """
        from tempering.exporting import explained
        from tempering.saving import save

        return explained(self, save(self, Path(folder), merge=merge))

    def push_to_hub(self, repo_id: str, merge: bool = False, private: bool | None = None) -> str:
        """Upload the folder that `save_pretrained` writes to the hub; returns its address."""
        from tempering.publishing import push

        return push(self, repo_id, merge=merge, private=private)


def as_examples(texts: Sequence[str | tuple[str, str]] | Sequence[Sequence[str]], framing: Any = None) -> list[Example]:
    """Examples without labels. For a framing that tags, a list is the words of one text."""
    texts = given_texts(texts)
    if getattr(framing, "kind", "") == "tagging":
        laid = [(t, ()) if isinstance(t, str) else tags.joined(t) for t in texts]
        return [Example((text,), words=words) for text, words in laid]
    return [Example((t,) if isinstance(t, str) else tuple(t)) for t in texts]


def given_texts(texts: Iterable[Any]) -> list[Any]:
    """The texts as a list, and what each is made of: iterators are read once. What is no text is refused by its row."""
    if isinstance(texts, str):
        raise DataError('predict takes a list of texts, found one string; write learner.predict(["..."])')
    found = [t if isinstance(t, str | bytes | Sequence) or not isinstance(t, Iterable) else tuple(t) for t in texts]
    _check_texts(found)
    return found


def _check_texts(texts: Sequence[Any]) -> None:
    """Refuse what a tokenizer would choke on, by its row: a missing value, half of a surrogate pair."""
    for row, given in enumerate(texts):
        for text in (given,) if isinstance(given, str | bytes) or not isinstance(given, Iterable) else given:
            if not isinstance(text, str):
                raise DataError(
                    f"texts[{row}]: expected a text, a pair of texts or a list of words, found {text!r}; leave the row out, or give a text"
                )
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise DataError(
                    f"texts[{row}]: expected characters, found {text[error.start]!r}, half of a surrogate pair; read the texts as UTF-8,"
                    ' or repair them with  text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")'
                ) from None


def _off_device(slab: Slab) -> Slab:
    """The slab in main memory: the scores of a whole split would fill a device."""
    return slab._replace(
        **{name: part.cpu() for name in ("logits", "targets", "features", "sizes", "steps") if (part := getattr(slab, name)) is not None}
    )


def joined(slabs: Sequence[Slab], order: np.ndarray) -> Scores:
    """One slab from those of all batches, rows put back in their original order."""
    sizes = torch.cat([s.sizes for s in slabs]) if all(s.sizes is not None for s in slabs) else None  # type: ignore[misc]
    back = torch.from_numpy(np.argsort(order))
    if sizes is not None:  # groups of rows change places, each as it is
        ends = sizes.cumsum(0)
        back, sizes = torch.cat([torch.arange(int(ends[i] - sizes[i]), int(ends[i])) for i in back]), sizes[back]
    logits = torch.cat([s.logits for s in slabs], 1)
    rows_match = logits.shape[1] == len(back)
    targets = torch.cat([s.targets for s in slabs]) if all(s.targets is not None for s in slabs) else None  # type: ignore[misc]
    features = torch.cat([s.features for s in slabs]) if all(s.features is not None for s in slabs) else None  # type: ignore[misc]
    steps = torch.cat([s.steps for s in slabs]) if all(s.steps is not None for s in slabs) else None  # type: ignore[misc]
    if rows_match:
        logits = logits[:, back]
        targets = None if targets is None else targets[back]
        features = None if features is None else features[back]
        steps = None if steps is None else steps[back]
    return Scores((Slab(logits, targets, None, features, slabs[0].kind, slabs[0].task, sizes, steps),))
