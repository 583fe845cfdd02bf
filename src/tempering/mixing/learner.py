"""Learners of several tasks as one model: a batch holds rows of any of them, and passes once through their common backbone."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tempering.backbone import Backbone, Encoded
from tempering.batching import close_batches, length_batches, spare_on
from tempering.contracts import Batch, Example, Prediction, Prompt, Rendered, Scores, Slab
from tempering.errors import DataError, ModelError
from tempering.learner import Learner, as_examples, given_texts, joined
from tempering.mixing.lifting import Entries, lift
from tempering.mixing.probing import prove
from tempering.mixing.routes import routed
from tempering.mixing.rows import SHARED_INPUTS, NotByRow, Span, join_inputs, part_of
from tempering.mixing.served import Served
from tempering.tunings.attach import freeze

Text = str | tuple[str, str]
OF_PARTS = "it says something of every word or place of a text, and a mixed batch holds one row a text"


class MixedLearner(nn.Module):
    """Several tasks over one frozen backbone, each with its own tuning and framing.

    Every task keeps a `Learner` of its own, whose body shares all tensors that the task did not change with ``backbone``. In a batch
    of several tasks the backbone runs once for all whose texts are about as long; what each task changed acts on its own rows, and
    its head reads them. ``apart`` names the tasks for which that is not possible (a body with matrices of its own, or whose layers
    are not led by rows): they run in passes of their own, with equal results.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        freeze(backbone)
        self.backbone = backbone.eval()
        self.names: list[str] = []
        self.learners = nn.ModuleList()
        self._entries: list[Entries] = []
        self._reads_layers: list[bool] = []
        self.apart: dict[str, str] = {}  # task -> why it needs passes of its own

    def add(self, name: str, learner: Learner) -> None:
        """Take in ``learner`` as task ``name``. Its backbone must be a copy of this one's with a tuning attached, before or after
        training; it is made to share this one's tensors, and proves on a few rows that it scores as before.
        """
        self._check_name(name)
        if learner.framing.windows:
            raise ModelError(f"task {name}: {OF_PARTS}; load and run it by itself")
        entries: Entries = {}
        try:
            entries = lift(self.backbone, learner.backbone)
        except NotByRow as reason:
            self.apart[name] = str(reason)
        self.names.append(name)
        self.learners.append(learner)
        self._entries.append(entries)
        self._reads_layers.append(False)
        if name not in self.apart:
            why, self._reads_layers[-1] = prove(self, len(self.names) - 1)
            self.apart |= {name: why} if why else {}

    def _check_name(self, name: str) -> None:
        if name in ("", "..", *self.names) or name != Path(name).name:
            raise DataError(
                f"task name {name!r}: expected a name that can be a folder's and that no other task has"
                f" ({', '.join(self.names) or 'none yet'}); give every task another name"
            )

    def __getitem__(self, name: str) -> Learner:
        """The learner of one task, sharing the backbone's tensors: to read scores from; `solo` gives one to change."""
        found: Any = self.learners[self.index(name)]
        return found  # type: ignore[no-any-return]

    def index(self, name: str) -> int:
        """The number of task ``name``; one that is not there is a `DataError`."""
        if name not in self.names:
            near = difflib.get_close_matches(name, self.names, n=3, cutoff=0.4)
            raise DataError(f"no task {name!r}; " + (f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(self.names)}"))
        return self.names.index(name)

    def solo(self, name: str) -> Learner:
        """A copy of one task's learner that shares nothing: to train on, to merge, to save by itself."""
        return copy.deepcopy(self[name])

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.backbone.parameters()).device

    def forward(self, batches: Mapping[str, Batch]) -> Scores:
        """Scores of one mixed batch, given as a batch for each of its tasks: a slab a task, in the order given."""
        found: dict[str, Slab] = {}
        together: dict[bool, list[str]] = {}
        for name, batch in batches.items():
            if name in self.apart or not SHARED_INPUTS.issuperset(batch.inputs):
                found[name] = self[name](batch).only
            else:
                still = self.training and self[name].tuning.trunk_eval
                together.setdefault(still, []).append(name)
        for still, names in together.items():
            self.backbone.train(self.training and not still)
            for close in self._close(names, batches):
                found |= self._pass({name: batches[name] for name in close})
        return Scores(tuple(found[name]._replace(task=name) for name in batches))

    def _close(self, names: Sequence[str], batches: Mapping[str, Batch]) -> list[list[str]]:
        """Tasks that share a pass: where texts differ much in length, padding to the longest of all costs more than another pass."""
        shapes = [tuple(batches[name].inputs["input_ids"].shape) for name in names]
        widths = [shape[1] for shape in shapes for _ in range(shape[0])]  # of every row: a task's rows are equally wide and stay together
        owners = np.repeat(np.arange(len(names)), [shape[0] for shape in shapes])
        return [[names[i] for i in np.unique(owners[rows])] for rows in close_batches(widths, len(widths), spare_on(self.device))]

    def _pass(self, batches: Mapping[str, Batch]) -> dict[str, Slab]:
        numbers = sorted((self.index(name) for name in batches), key=lambda i: (type(self._tuning(i)).__name__, i))
        parts = [batches[self.names[i]] for i in numbers]
        wide = any(self._reads_layers[i] for i in numbers)
        spans, encoded = self.encode([part.inputs for part in parts], numbers, wide)
        found = {}
        for span, part in zip(spans, parts, strict=True):
            learner = self[self.names[span.task]]
            served: Any = Served(learner.backbone, part.inputs, part_of(encoded, span, part.inputs["input_ids"].shape[1]))
            found[self.names[span.task]] = learner.framing.scores(served, part).only
        return found

    def encode(self, parts: Sequence[Mapping[str, Tensor]], tasks: Sequence[int], layers: bool = False) -> tuple[list[Span], Encoded]:
        """One pass over the inputs of several tasks by their numbers (-1: the backbone as it is), and which rows are whose."""
        stops = np.cumsum([len(part["input_ids"]) for part in parts]).tolist()
        spans = [Span(i, start, stop) for i, start, stop in zip(tasks, [0, *stops], stops, strict=False)]
        with routed(self.backbone, spans, self._entries):
            return spans, self.backbone.encode(join_inputs(parts, int(self.backbone.tokenizer.pad_token_id or 0)), layers)

    def _tuning(self, i: int) -> Any:
        learner: Any = self.learners[i]
        return learner.tuning

    @torch.no_grad()
    def predictions(self, texts: Sequence[Text], tasks: str | Sequence[str], batch_size: int = 64) -> list[Prediction]:
        """A `Prediction` for every text, in order, by the task named beside it (one name: for all of them)."""
        given = given_texts(texts)
        names = [tasks] * len(given) if isinstance(tasks, str) else list(tasks)
        if len(names) != len(given):
            raise DataError(f"{len(given)} texts and {len(names)} task names; give one task name for every text, or one for all")
        rows: dict[str, list[int]] = {}
        for row, name in enumerate(names):
            rows.setdefault(name, []).append(row)
        found: dict[int, Prediction] = {}
        asked = {name: as_examples([given[i] for i in mine], self[name].framing) for name, mine in rows.items()}
        for name in [name for name in asked if not self[name].framing.keeps_scores]:  # it writes answers, say
            found |= zip(rows[name], self[name].predictions(asked.pop(name), batch_size), strict=True)
        for name, rendered, scores in self._scored(asked, batch_size):
            learner = self[name]
            found |= zip(rows[name], learner.framing.predictions(learner, rendered, scores, batch_size), strict=True)
        return [found[i] for i in range(len(names))]

    def predict(self, texts: Sequence[Text], tasks: str | Sequence[str], batch_size: int = 64) -> list[Any]:
        """The label (value, tuple of labels) of every text, as the user of its task wrote labels."""
        return [p.label for p in self.predictions(texts, tasks, batch_size)]

    def predict_proba(self, texts: Sequence[Text], tasks: str | Sequence[str], batch_size: int = 64) -> list[dict[Any, float]]:
        """For every text, the probability of each label of its task."""
        return [dict(p.probabilities) for p in self.predictions(texts, tasks, batch_size)]

    def _scored(self, examples: Mapping[str, Sequence[Example]], batch_size: int) -> Iterator[tuple[str, Rendered, Scores]]:
        """Prompts of every task's examples, and their scores. Batches hold texts of like length, whatever their task."""
        self.eval()
        rendered = {
            name: Rendered.of(mine, self[name].framing.render(mine, (), np.random.default_rng(0))) for name, mine in examples.items()
        }
        queue = [(name, i, p) for name, asked in rendered.items() for i, p in enumerate(asked.prompts)]
        slabs: dict[str, list[Slab]] = {name: [] for name in examples}
        order: dict[str, list[int]] = {name: [] for name in examples}
        for chosen in length_batches([len(p.input_ids) for _, _, p in queue], batch_size):
            mixed: dict[str, list[Prompt]] = {}
            for name, i, prompt in (queue[c] for c in chosen):
                mixed.setdefault(name, []).append(prompt)
                order[name].append(i)
            rng = np.random.default_rng(0)
            batches = {name: self[name].framing.collate(prompts, rng).to(self.device) for name, prompts in mixed.items()}
            for slab in self(batches).slabs:
                slabs[slab.task].append(slab)
        for name, asked in rendered.items():
            yield name, asked, joined(slabs[name], np.array(order[name]))

    def save_pretrained(self, folder: str | Path) -> dict[str, Path]:
        """Write every task to a folder of its own under ``folder``, as if it had been trained by itself: name -> path."""
        return {name: self[name].save_pretrained(Path(folder) / name) for name in self.names}
