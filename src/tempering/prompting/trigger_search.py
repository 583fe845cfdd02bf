"""AutoPrompt: words of a template found by the gradient of the loss with respect to their embeddings, the model frozen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tempering.backbone import Backbone
from tempering.batching import close_batches, spare_on
from tempering.contracts import Batch, Example, Prompt
from tempering.errors import RecipeError
from tempering.framings.cloze import Cloze
from tempering.framings.gaps.soft_slots import SOFT, VECTORS
from tempering.framings.templates import plain, reading
from tempering.framings.templates.pieces import Piece, Soft, Template, Text
from tempering.framings.verbalizers.aggregate import label_nll
from tempering.framings.verbalizers.base import hidden_of, vocabulary_logits
from tempering.framings.verbalizers.words import WordCoder
from tempering.learner import Learner
from tempering.prompting.scoring import untrained
from tempering.prompting.sketches import words_of
from tempering.prompting.swaps import forbidden, proposals, seen_embeddings
from tempering.streams import numpy_stream
from tempering.tasks.task import Task
from tempering.train.progress import Listener, silent

By = Literal["accuracy", "loss"]
ROWS = 64  # development rows in one pass


@dataclass(frozen=True)
class Settings:
    """``candidates`` tokens are tried in one slot an iteration, each on ``accumulation`` batches of ``batch_size`` rows, ``iterations``
    times. ``by`` says what a swap must raise: "accuracy", as in the paper's classification code, or "loss" (its negative).
    ``lower_case`` forbids capitalized words, as for facts.
    """

    candidates: int = 100
    accumulation: int = 30
    batch_size: int = 24
    iterations: int = 180
    by: By = "accuracy"
    lower_case: bool = False


class Triggers(NamedTuple):
    """The tokens of the slots, the ``template`` with their words in the slots, scores on dev and in the last accepted iterations.

    ``empty`` slots were never swapped: they hold a mask still, and the template leaves them out. ``exact``: the words encode to these very
    tokens again; where they do not, or slots are left out, the template says nearly the same.
    """

    ids: tuple[int, ...]
    template: str
    dev: float
    exact: bool
    empty: int
    accepted: tuple[tuple[float, float], ...]  # (score before, score after) of every swap, on the same batches


class Part(NamedTuple):
    """Rows of like length that go through the model together, and how often each was drawn [rows]."""

    batch: Batch
    counts: Tensor


def find_triggers(
    task: Task, backbone: Backbone, cloze: Cloze, settings: Settings | None = None, seed: int = 0, listener: Listener = silent
) -> Triggers:
    """Search the tokens for the ``{soft:n}`` slots of the template of ``cloze``, shared by all inputs; the best on dev are kept.

    *Paper*: Shin et al. 2020 (AutoPrompt). *Formula*: loss = -log sum over the words w of the class of P([MASK] = w); candidates for slot
    t are the tokens e with the largest -(E_e . g_t), g_t the gradient at the slot's embedding. *Needs*: label words of one token.
    *Costs*: an iteration takes 1 backward and candidates + 1 forward passes over the distinct rows of ``accumulation`` batches.
    *Differs*: forbidden tokens and the current one are left out after the sign is settled (the reference masks them before, which is
    right for one sign only); gradients come from the embedding's output, so that any family serves; token 0 may be a label word; what
    is kept holds one word at least.
    """
    run = _Run.of(task, backbone, cloze, settings or Settings(), seed)
    current, dev, accepted = run.start(), -np.inf, list[tuple[float, float]]()
    best = current
    for step in range(run.settings.iterations):
        rng = numpy_stream(seed, "triggers", step)
        swapped, scores = run.swap(current, rng)
        if swapped is None:
            continue
        current = swapped
        accepted.append(scores)
        found = run.score(current, run.dev)
        if found > dev:
            best, dev = current, found
            text = f"iteration {step + 1} of {run.settings.iterations}: {run.settings.by} on dev {abs(dev):.4f} with {run.worded(best)[0]}"
            listener({"event": "note", "text": text})
    if not accepted:
        other = "" if run.settings.by == "loss" else " search by loss (--by loss), which every swap moves;"
        raise RecipeError(
            f"triggers: none of {run.settings.iterations} iterations found a word for template {str(cloze.first)!r}, as no swap raised the"
            f" {run.settings.by};{other} give more iterations, candidates or rows, or another template"
        )
    template, exact = run.worded(best)
    return Triggers(tuple(best.tolist()), template, dev, exact, int((best == run.mask).sum()), tuple(accepted))


@dataclass(frozen=True)
class _Run:
    learner: Learner
    rows: Sequence[Prompt]
    dev: Sequence[Part]
    words: tuple[tuple[int, ...], ...]
    banned: Tensor
    settings: Settings
    pieces: tuple[Piece, ...]

    @classmethod
    def of(cls, task: Task, backbone: Backbone, cloze: Cloze, settings: Settings, seed: int) -> _Run:
        if not cloze.soft or backbone.layout.kind != "encoder":
            raise RecipeError(
                "a search for triggers needs a masked language model and a template with slots for them, such as  {text} {soft:3} {mask}"
            )
        if task.dev is None or task.kind != "classification":
            raise RecipeError(f"{task.name}: triggers are searched for classes, and chosen on development rows")
        known = replace_slots(cloze)
        learner = untrained(known, replace(task, test=None), backbone, seed)
        pieces = learner.framing.text.template.skeleton()
        words = tuple(tuple(word[0] for word in row) for row in learner.framing.verbalizer.table)
        banned = forbidden(WordCoder.of(backbone), words, settings.lower_case)
        train, dev = (_prompts(learner, list(split)) for split in (task.train, task.dev))
        return cls(learner, train, parts(learner, dev, np.ones(len(dev), np.int64), ROWS), words, banned, settings, pieces)

    def start(self) -> Tensor:
        """Masks in every slot."""
        return torch.full((len(self.learner.framing.soft.table),), self.mask)

    @property
    def mask(self) -> int:
        """What a slot holds that was never swapped."""
        return int(self.learner.backbone.tokenizer.mask_token_id)

    def swap(self, current: Tensor, rng: np.random.Generator) -> tuple[Tensor | None, tuple[float, float]]:
        """One iteration: the triggers with a better token in one slot, or None; and the scores before and after, on the same batches."""
        gradient = self.gradient(current, self._draw(rng))
        slot = int(rng.integers(len(current)))
        table = self.learner.backbone.embeddings.get_parameter("weight").detach()
        tried = proposals(table, gradient[slot], int(current[slot]), self.banned, self.settings.candidates)
        drawn = self._draw(rng)
        before = self.score(current, drawn)
        scores = []
        for token in tried.tolist():
            other = current.clone()
            other[slot] = token
            scores.append((self.score(other, drawn), other))
        best, chosen = max(scores, key=lambda found: found[0])
        return (chosen, (before, best)) if best > before else (None, (before, before))

    def _draw(self, rng: np.random.Generator) -> list[Part]:
        """``accumulation`` batches of rows. They are equally large, so that their mean is that of all rows as often as each was drawn,
        which a pass need not read more than once.
        """
        size = min(self.settings.batch_size, len(self.rows))
        drawn = np.concatenate([rng.permutation(len(self.rows))[:size] for _ in range(self.settings.accumulation)])
        rows, counts = np.unique(drawn, return_counts=True)
        return parts(self.learner, [self.rows[i] for i in rows], counts, size)

    def logs(self, triggers: Tensor, part: Part) -> tuple[Tensor, Tensor]:
        """(log P of each class [rows, classes], classes [rows]) with ``triggers`` in the slots."""
        backbone, module, batch = self.learner.backbone, self.learner.framing, filled(part.batch, triggers)
        said = vocabulary_logits(backbone, hidden_of(module, backbone, batch)[:, 0]).float()
        assert batch.targets is not None  # prompts were made of labelled rows
        return -torch.stack([label_nll(said, torch.tensor(row, device=said.device)) for row in self.words], -1), batch.targets

    def loss(self, triggers: Tensor, part: Part) -> Tensor:
        """Sum over rows, each as often as it was drawn, of -log P(class)."""
        logs, targets = self.logs(triggers, part)
        return -(logs.gather(1, targets.unsqueeze(1)).squeeze(1) * part.counts).sum()

    def gradient(self, triggers: Tensor, drawn: Sequence[Part]) -> Tensor:
        """The gradient of the mean loss over what was ``drawn`` by the embedding in each slot [slots, width]."""
        total = torch.zeros(len(triggers), self.learner.backbone.embeddings.get_parameter("weight").shape[1])
        for part in drawn:
            places, slots = part.batch.extra[SOFT].cpu(), part.batch.extra[VECTORS].cpu()
            with torch.enable_grad(), seen_embeddings(self.learner.backbone) as seen:
                (g,) = torch.autograd.grad(self.loss(triggers, part), [seen()])
            at = g.cpu().gather(1, places.unsqueeze(-1).expand(-1, -1, g.shape[-1])).flatten(0, 1)
            total.index_add_(0, slots.flatten(), at.float())
        return total / sum(int(part.counts.sum()) for part in drawn)

    @torch.no_grad()
    def score(self, triggers: Tensor, drawn: Sequence[Part]) -> float:
        """Accuracy, or negative mean loss, over what was ``drawn``: higher is better."""
        gain = self._right if self.settings.by == "accuracy" else lambda *given: -self.loss(*given)
        return sum(float(gain(triggers, part)) for part in drawn) / sum(int(part.counts.sum()) for part in drawn)

    def _right(self, triggers: Tensor, part: Part) -> Tensor:
        logs, targets = self.logs(triggers, part)
        return ((logs.argmax(-1) == targets) * part.counts).sum()

    def worded(self, triggers: Tensor) -> tuple[str, bool]:
        """The template with the triggers as words, without slots that still hold a mask, and whether it encodes to the same tokens."""
        coder, made, exact = self.learner.framing.text.coder, list[Piece](), True
        slots = iter(self.learner.framing.text.vectors)
        for piece in self.pieces:
            if not isinstance(piece, Soft):
                made.append(piece)
                continue
            held = [int(triggers[i]) for i in next(slots)]
            ids = [i for i in held if i != self.mask]
            exact = exact and ids == held
            if not ids:
                continue
            words = words_of(ids, coder)
            exact = exact and words is not None
            text = words.text if words is not None else str(coder.tokenizer.decode(ids)).strip()
            made.append(Text(text, piece.space if words is None else words.space or piece.space))
        return plain.write(Template(tuple(made))), exact


def replace_slots(cloze: Cloze) -> Cloze:
    """The cloze with slots that begin as words, so that it stands untrained: what they hold is never read here."""
    given = reading.parse(str(cloze.first)).skeleton()
    pieces = tuple(replace(p, init=" ".join(["a"] * p.count), count=0) if isinstance(p, Soft) and not p.init else p for p in given)
    return replace(cloze, template=plain.write(Template(pieces)))


def filled(batch: Batch, triggers: Tensor) -> Batch:
    """A batch as ``batch`` with ``triggers`` as tokens in its slots, and no vectors there any more."""
    ids = batch.inputs["input_ids"]
    told = ids.scatter(1, batch.extra[SOFT], triggers.to(ids.device)[batch.extra[VECTORS]])
    rest = {name: value for name, value in batch.extra.items() if name not in (SOFT, VECTORS)}
    return replace(batch, inputs={**batch.inputs, "input_ids": told}, extra=rest)


def parts(learner: Learner, prompts: Sequence[Prompt], counts: Sequence[int] | np.ndarray, size: int) -> list[Part]:
    """``prompts``, each as often as ``counts`` says, in passes of at most ``size`` rows."""
    cuts = close_batches([len(prompt.input_ids) for prompt in prompts], size, spare_on(learner.device))
    rows = [learner.framing.collate([prompts[i] for i in cut], np.random.default_rng(0)).to(learner.device) for cut in cuts]
    return [Part(batch, torch.tensor([int(counts[i]) for i in cut], device=learner.device)) for batch, cut in zip(rows, cuts, strict=True)]


def _prompts(learner: Learner, examples: Sequence[Example]) -> list[Prompt]:
    known = [e for e in examples if e.label is not None]
    return [found[0] for found in learner.framing.render(known, (), np.random.default_rng(0))]
