"""How much memory training takes: a rough estimate from shapes alone, with its formula."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tempering.contracts import Weights
from tempering.quantizing import saved_bytes

if TYPE_CHECKING:
    from tempering.learner import Learner
    from tempering.train.hooks import Folded

FLOAT = 4  # bytes; weights, gradients and averages are fp32
GIB = 1024**3
_MOST_COPIES = 1_000  # a method that keeps more copies of the weights than this is not followed further


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes by purpose. ``copies`` are what methods and the choice of the best weights keep, ``features`` a kept trunk output.

    ``texts`` is how many texts are in the model at once.
    """

    weights: int
    gradients: int
    optimizer: int
    copies: int
    activations: int
    features: int
    texts: int

    @property
    def total(self) -> int:
        """All of it; Python and its libraries take some 0.5 GB more."""
        return self.weights + self.gradients + self.optimizer + self.copies + self.activations + self.features

    def words(self, tokens: int) -> str:
        """The estimate as a sentence."""
        parts = {
            "weights": self.weights,
            "gradients": self.gradients,
            "AdamW": self.optimizer,
            "copies of weights": self.copies,
            f"activations of {self.texts} texts of {tokens} tokens": self.activations,
            "kept outputs": self.features,
        }
        named = ", ".join(f"{size_words(size)} {name}" for name, size in parts.items() if size)
        return f"about {size_words(self.total)} ({named}), Python and its libraries not counted"


def size_words(size: int) -> str:
    """Bytes as people say them."""
    return f"{size / GIB:.1f} GB" if size >= GIB else f"{max(size / 1024**2, 0.1):.0f} MB" if size >= 1024**2 else f"{size / 1024:.0f} KB"


def memory_of(stage: Any, learner: Learner, folded: Folded, trained: Weights, tokens: int, rows: int | None) -> Memory:
    """The estimate for one micro-batch of ``stage`` with texts of ``tokens`` tokens.

    weights = 4 P (less where they are packed: `tempering.quantizing`), gradients = 4 T, AdamW = 8 T for P parameters of which T are
    trained; copies = 4 (T for the best weights, where there is an evaluation) + what the methods' states and replaced weights hold, read
    off the methods themselves.
    activations = 4 b t (s G + 1 if there is a teacher pass): b texts and s of their student and perturbed passes in memory at once (a
    stage's ``at_once``), G >= 1 blocks that gradients pass through, and t = n (10 d + 3 f + 4 a n) numbers a block for n tokens, width d,
    feed-forward width f, a heads; a language-model head adds 3 p n V for a share p of masked tokens and V words. Measured with MiniLM on
    a CPU, six settings of five recipes came within a quarter of it, and head, which needs little, stayed 30 % under it.
    """
    total = sum(p.numel() for p in learner.parameters())
    size = sum(w.numel() for w in trained.values())
    best = size if stage.load_best_model_at_end and stage.eval_strategy != "no" else 0
    cached = stage.cached
    features = 0 if not cached or rows is None else FLOAT * rows * learner.backbone.hidden_size
    copies = FLOAT * best + _kept(folded, trained)
    texts = stage.per_device_eval_batch_size if cached else stage.at_once[0]
    activations = FLOAT * texts * _numbers_a_text(stage, learner, trained, tokens)
    backbone = learner.backbone
    weights = FLOAT * total - saved_bytes(backbone.model, backbone.stacks, backbone.quantized)
    return Memory(weights, FLOAT * size, 2 * FLOAT * size, copies, activations, features, texts)


def _kept(folded: Folded, trained: Weights) -> int:
    """Bytes of the methods' states at their largest, and of the weights they put in place of others for a pass."""
    size, steps = _bytes(folded.save()), 0
    while steps < _MOST_COPIES:
        folded.after_step(trained)
        steps, now = steps + 1, _bytes(folded.save())
        if now <= size:
            break
        size = now
    if folded.view is None:
        return size
    replaced = folded.view(trained, np.random.default_rng(0))
    return size + _bytes({n: w for n, w in replaced.items() if w is not trained[n]})


def _bytes(weights: Weights) -> int:
    return sum(w.numel() * w.element_size() for w in weights.values())


def _numbers_a_text(stage: Any, learner: Learner, trained: Weights, tokens: int) -> int:
    config, backbone = learner.backbone.config, learner.backbone
    width = backbone.hidden_size
    inner = _field(config, ("intermediate_size", "d_ff", "hidden_dim", "n_inner"), 4 * width)
    heads = _field(config, ("num_attention_heads", "n_heads", "num_heads", "n_head"), 1)
    block = tokens * (10 * width + 3 * inner + 4 * heads * tokens)
    changed = [(getattr(s, "perturbations", 0), s) for s in stage.live]
    graded: int = stage.at_once[1] + sum(min(made, getattr(s, "held", made)) for made, s in changed)  # an attack's passes go one by one
    teachers = any(getattr(s, "teachers", 0) for s in stage.live)  # one block at a time
    per_text = block * (graded * max(1, _blocks_with_gradient(learner, trained)) + teachers)
    per_text *= getattr(learner.framing, "texts_a_row", 1)
    if not stage.framing.supervised and learner.framing.reads_lm_head:
        per_text += int(3 * getattr(stage.framing, "probability", 1.0) * tokens * backbone.embeddings.get_parameter("weight").shape[0])
    return per_text


def _blocks_with_gradient(learner: Learner, trained: Weights) -> int:
    """How many blocks lie at or above the lowest trained weight of the body."""
    backbone = learner.backbone
    lowest = min((_depth(learner, name) for name in trained if name.startswith("backbone.model.")), default=None)
    layers = _field(backbone.config, ("num_hidden_layers", "n_layers", "num_layers", "n_layer"), 1)
    layers = backbone.top - 1 if backbone.opened else layers
    if lowest is None:
        return 0
    return layers if backbone.layout.shared_blocks or not backbone.layout.blocks else min(layers, backbone.top - max(1, lowest))


def _depth(learner: Learner, name: str) -> int:
    """Height of a trained weight. What a tuning hangs beside the parts of the body, such as a bank of changes, all blocks read."""
    parts = {own.partition(".")[0] for own in learner.backbone.own}
    return learner.depth(name) if name.removeprefix("backbone.model.").partition(".")[0] in parts else 0


def _field(config: Any, names: tuple[str, ...], default: int) -> int:
    """The first of ``names`` that the configuration has."""
    return int(next((v for name in names if isinstance(v := getattr(config, name, None), int)), default))
