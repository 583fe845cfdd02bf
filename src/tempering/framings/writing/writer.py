"""Answers that are written: trained by the likelihood of the target's tokens, predicted by decoding, freely or within allowed texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from tempering.contracts import Batch, Example, Prediction, Prompt, Rendered, Scores, Slab
from tempering.errors import DataError, RecipeError
from tempering.framings.output_head import ensure_output_head, output_matrix
from tempering.framings.writing.base import Writing, turned
from tempering.framings.writing.controls import Guidance, MustInclude, PartSiblings, StopAt
from tempering.framings.writing.linear import NONE
from tempering.framings.writing.model import assembled
from tempering.framings.writing.states import begin_id, given_states, rows_of
from tempering.framings.writing.targets import Answers, Names, Sets, example_of
from tempering.framings.writing.trie import Allowed, Stretches, Trie, allowing
from tempering.streams import torch_stream

if TYPE_CHECKING:
    import numpy as np

    from tempering.backbone import Backbone
    from tempering.framings.text_to_text import TextToText
    from tempering.learner import Learner

Written = list[tuple[str, float]]  # texts for one source with their weights, best first


class Limits(NamedTuple):
    """The trie of each row that a search is kept in, how many texts are asked for (0: as the settings say), and ``choices`` by their
    tokens, where there are a fixed few.
    """

    tries: Sequence[Allowed]
    all_of: int
    choices: dict[tuple[int, ...], str]


class TextWriter(Writing):
    """`TextToText` by decoding: a row of the slab is a token of a target, its logits are over the vocabulary."""

    keeps_scores = False
    smooths = True

    def __init__(self, framing: TextToText, task: Any, backbone: Backbone) -> None:
        super().__init__(framing, task, backbone)
        self.bound = framing.answers == "trie"
        names = self._names(task)
        if names is not None and not self.bound:
            self._check_read(names)

    def _check_read(self, names: Names) -> None:
        """Refuse a word that is another text once its tokens are written."""
        for i, (label, word) in enumerate(zip(names.labels, names.words, strict=True)):
            if names.named(found := self._text(self.ids(word), None)) != i:
                raise RecipeError(
                    f"text_to_text.words: {word!r}, written for label {label!r}, reads {found!r} once this model has written it, so that it"
                    f" could never be predicted; give it another word, as in  {example_of(label)}"
                    + ("" if isinstance(self.targets, Sets) else ", or answers: likelihood")
                )

    def collate(self, prompts: Sequence[Prompt], rng: np.random.Generator) -> Batch:
        """Sources padded on the right; where all rows have one, targets [tokens], row after row, with their rows in ``extra``."""
        if any(p.target is None for p in prompts):
            return Batch(self.inputs(prompts))
        ids, real = rows_of([p.target for p in prompts])
        extra = {"ids": ids, "real": real}
        if not self.source_only:
            longest = max(len(p.input_ids) for p in prompts) + ids.shape[1] - 1
            reads = torch.tensor([len(p.input_ids) + len(p.target) - 1 for p in prompts])
            extra["read"] = (torch.arange(longest) < reads[:, None]).long()
        return Batch(self.inputs(prompts), ids[real], None, extra=extra)

    def trunk(self, backbone: Backbone, batch: Batch) -> Tensor:
        """The states that predict the tokens of the targets [tokens, dim]."""
        if "ids" not in batch.extra:
            raise DataError("text_to_text scores targets that are given, and this batch holds rows without one; leave unlabelled rows out")
        return given_states(backbone, batch.inputs, batch.extra["ids"], batch.extra["real"])

    def scores(self, backbone: Backbone, batch: Batch) -> Scores:
        """One slab: logits [1, tokens, vocabulary], made for tokens of targets alone, and the states that they were made of."""
        states = self.trunk(backbone, batch)
        sizes = batch.extra["real"].sum(1)
        logits = self.logits(backbone, states)[None]
        return Scores((Slab(logits, batch.targets, None, states, "classification", batch.task, sizes),))

    def loss(self, scores: Scores, batch: Batch | None) -> Tensor:
        """Cross entropy, mean over the tokens of all targets; they are smoothed in training mode only."""
        slab = scores.only
        assert slab.targets is not None  # `scores` is made of targets
        return F.cross_entropy(slab.logits[0], slab.targets, label_smoothing=self.smoothing if self.training else 0.0)

    def decode(self, scores: Scores) -> list[Prediction]:
        """For each token of a target the likeliest: what `predictions` writes is another thing."""
        ids = scores.only.logits[0].argmax(-1).tolist()
        return [Prediction(token) for token in self.tokenizer.convert_ids_to_tokens(ids)]

    def predictions(self, learner: Learner, asked: Rendered, scores: Scores | None, batch_size: int = 64) -> list[Prediction]:
        """What the model writes for each source, read back as labels."""
        model = assembled(learner.backbone, ensure_output_head(learner.backbone))

        def work(batch: Batch, rows: Any) -> list[Written]:
            with torch_stream(self.framing.generation_seed, "generate", *rows.tolist(), device=learner.device):
                return self.write(learner.backbone, model, batch.to(learner.device), [asked.examples[i] for i in rows])

        return self.said(learner.each(asked.prompts, batch_size, work), asked.examples)

    @torch.no_grad()
    def write(self, backbone: Backbone, model: Any, batch: Batch, examples: Sequence[Example]) -> list[Written]:
        """The texts that ``model`` writes for the sources of a batch, by the settings of the framing."""
        settings, given = self.framing, batch.inputs if self.source_only else turned(batch, self.pad_id)
        limits = self._limits(examples)
        special = {"eos_token_id": self.end, "pad_token_id": self.pad_id, "bos_token_id": self.tokenizer.bos_token_id}
        special |= {"decoder_start_token_id": begin_id(backbone)} if self.source_only else {}
        config = settings.generation(special, self.tokenizer, self.room)
        if limits is not None:
            if limits.all_of:
                config.num_beams = config.num_return_sequences = limits.all_of
            if config.num_beams > 1:
                config.length_penalty = 0.0  # sums of log-probabilities: the ranking of the texts themselves
        begin = 1 if self.source_only else given["input_ids"].shape[1]
        drawn = int(config.num_return_sequences) if config.num_beams == 1 else 1
        allowed = None if limits is None else allowing(limits.tries, begin, self.end, drawn)
        with model.get_output_embeddings().holding():
            out = model.generate(
                **given,
                generation_config=config,
                logits_processor=self._processors(backbone, begin, int(config.max_new_tokens)),
                prefix_allowed_tokens_fn=allowed,
                stopping_criteria=[StopAt(settings.stop_strings, self._plain, begin)] if settings.stop_strings else None,
            )
        each = int(config.num_return_sequences)
        texts = [self._text(row, limits) for row in out.sequences[:, begin:].tolist()]
        scored = getattr(out, "sequences_scores", None)
        return [_ranked(texts[i : i + each], None if scored is None else scored[i : i + each]) for i in range(0, len(texts), each)]

    def _text(self, ids: list[int], limits: Limits | None) -> str:
        """What was written; a choice of the trie by its tokens, which a tokenizer may not give back letter by letter."""
        if limits is not None and limits.choices:
            whole = ids[: ids.index(self.end) + 1] if self.end in ids else ids
            return limits.choices.get(tuple(whole), "")
        found = self._plain(ids).strip()
        stops = [found.find(stop) for stop in self.framing.stop_strings if stop in found]
        return found[: min(stops)].strip() if stops else found

    def _plain(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def _limits(self, examples: Sequence[Example]) -> Limits | None:
        """What a search is kept in: the choices of the task, or the words of each row's own context."""
        if not self.bound:
            return None
        if isinstance(self.targets, Answers):
            nothing, begins = self.bare(NONE), self.around.before if self.source_only else ()
            return Limits([Stretches(self.bare(e.texts[1]), [nothing], self.end, begins) for e in examples], 0, {})
        choices = {tuple(self.ids(text)): text for text in self.targets.choices()}
        every = len(choices) if self.framing.num_beams >= len(choices) > 1 else 0
        return Limits([Trie(list(choices))] * len(examples), every, choices)

    def _processors(self, backbone: Backbone, begin: int, room: int) -> list[Any]:
        settings = self.framing
        found: list[Any] = []
        if settings.guidance_scale != 1.0:
            found.append(Guidance(settings.guidance_scale, self._without(backbone), begin))
        if settings.must_include:
            ways = [
                [self.tokenizer(f"{s}{word}", add_special_tokens=False)["input_ids"] for s in ("", " ")] for word in settings.must_include
            ]
            found.append(MustInclude(ways, self.end, begin, room, settings.inclusion_bonus))
        if settings.sibling_penalty:
            found.append(PartSiblings(settings.sibling_penalty, settings.num_beams, begin))
        return found

    def _without(self, backbone: Backbone) -> Callable[[Tensor], Tensor]:
        """Logits after what is written, from a source that says nothing."""
        source, head = torch.tensor([self.source.blank(self.framing.guidance_source)]), ensure_output_head(backbone)
        matrix = output_matrix(head, backbone)  # once for all tokens

        def without(written: Tensor) -> Tensor:
            rows = source.to(written.device).expand(len(written), -1)
            ids = F.pad(written, (0, 1))  # the token to come: only its state is read
            real = torch.zeros_like(ids, dtype=torch.bool)
            real[:, -1] = True
            return head(given_states(backbone, {"input_ids": rows}, ids, real), matrix)[0]  # type: ignore[no-any-return]

        return without


def _ranked(texts: list[str], scores: Tensor | None) -> Written:
    """Texts with their weights: the softmax of their scores, or the share of the draws that gave them."""
    if scores is None:
        shares = {text: texts.count(text) / len(texts) for text in texts}
        return sorted(shares.items(), key=lambda pair: -pair[1])
    return list(zip(texts, scores.float().softmax(0).tolist(), strict=True))
