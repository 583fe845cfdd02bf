"""The published ways of the five methods that share their passes here: loops around a transformers BERT classifier, written as released.

Each method makes passes of its own. `Published` joins several as people do who glue such loops together: every method's loss, summed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FIVE = ("r_drop", "r3f", "self_distillation", "mixout", "mmr")
P = 0.1  # of mixout


class MixLinear(nn.Module):
    """The released module: a mask over input columns, drawn in each call, between the weight and its first value."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        self.register_buffer("target", linear.weight.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """A linear map, with the mixed weight while training."""
        if not self.training:
            return F.linear(x, self.weight, self.bias)
        mask = torch.empty(1, self.weight.shape[1]).bernoulli_(1 - P).expand_as(self.weight)
        return F.linear(x, (mask * self.weight + (1 - mask) * self.target - P * self.target) / (1 - P), self.bias)


def mix_linears(model: nn.Module) -> None:
    """Replace the linear maps of the pretrained body."""
    for module in list(model.base_model.modules()):  # type: ignore[union-attr, operator]
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear):
                setattr(module, name, MixLinear(child))


class Published:
    """A model under one or several of the methods; ``calls`` counts calls of its body, the teacher's among them."""

    def __init__(self, model: Any, methods: Sequence[str]) -> None:
        self.model, self.methods, self.calls = model.train(), methods, 0
        if "mixout" in methods:
            mix_linears(model)
        self.teacher = copy.deepcopy(model).eval() if "self_distillation" in methods else None
        self.before = copy.deepcopy(model.state_dict()) if self.teacher is not None else {}
        for body in (m.base_model for m in (model, self.teacher) if m is not None):
            body.register_forward_pre_hook(self._count)

    def _count(self, *_: Any) -> None:
        self.calls += 1

    def loss(self, inputs: dict[str, Any], labels: Tensor) -> Tensor:
        """The methods' losses, summed."""
        return torch.stack([LOSSES[method](self, inputs, labels) for method in self.methods]).sum()

    def after_step(self) -> None:
        """The teacher of the next step has the weights that this step began with (K = 1)."""
        if self.teacher is not None:
            self.teacher.load_state_dict(self.before)
            self.before = copy.deepcopy(self.model.state_dict())


def plain(way: Published, inputs: dict[str, Any], labels: Tensor) -> Tensor:
    """Cross-entropy of one call; with mixout the weights differ, not the loss."""
    return F.cross_entropy(way.model(**inputs).logits, labels)


def r_drop(way: Published, inputs: dict[str, Any], labels: Tensor) -> Tensor:
    """Two calls."""
    first, second = way.model(**inputs).logits, way.model(**inputs).logits
    return (F.cross_entropy(first, labels) + F.cross_entropy(second, labels)) / 2 + divergence(first, second) / 2


def r3f(way: Published, inputs: dict[str, Any], labels: Tensor) -> Tensor:
    """A clean call and one with noise on the embeddings."""
    embeddings = way.model.get_input_embeddings()(inputs["input_ids"])
    rest = {name: tensor for name, tensor in inputs.items() if name != "input_ids"}
    clean = way.model(inputs_embeds=embeddings, **rest).logits
    noisy = way.model(inputs_embeds=embeddings.detach() + torch.empty_like(embeddings).uniform_(-1e-5, 1e-5), **rest).logits
    return F.cross_entropy(clean, labels) + divergence(noisy, clean)


def self_distillation(way: Published, inputs: dict[str, Any], labels: Tensor) -> Tensor:
    """A call of the student and one of a copy with the weights of the step before."""
    assert way.teacher is not None
    student = way.model(**inputs).logits
    with torch.no_grad():
        taught = way.teacher(**inputs).logits
    return F.cross_entropy(student, labels) + F.mse_loss(student, taught)


def mmr(way: Published, inputs: dict[str, Any], labels: Tensor) -> Tensor:
    """One call, whose pooled vectors are compared class by class."""
    pooled = way.model.dropout(way.model.base_model(**inputs).pooler_output)
    means = [pooled[labels == c].mean(0) for c in labels.unique()]
    apart = [1 / (1 + (a - b).norm()) for i, a in enumerate(means) for b in means[:i]]
    return F.cross_entropy(way.model.classifier(pooled), labels) + torch.stack(apart).mean()


LOSSES: dict[str, Callable[[Published, dict[str, Any], Tensor], Tensor]] = {
    "r_drop": r_drop,
    "r3f": r3f,
    "self_distillation": self_distillation,
    "mixout": plain,
    "mmr": mmr,
}


def divergence(a: Tensor, b: Tensor) -> Tensor:
    """KL both ways, mean over rows."""
    p, q = a.log_softmax(-1), b.log_softmax(-1)
    return F.kl_div(p, q, reduction="batchmean", log_target=True) + F.kl_div(q, p, reduction="batchmean", log_target=True)
