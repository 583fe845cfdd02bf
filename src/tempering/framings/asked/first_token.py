"""The first token of an answer: the state that predicts it, what a prompt makes the model say there anyway, and how that is taken off."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tempering.contracts import Batch, Prompt
from tempering.framings.asked.calibration import content_free, remaining
from tempering.framings.asked.left_to_right import log_probabilities

if TYPE_CHECKING:
    from tempering.backbone import Backbone
    from tempering.framings.asked.prompted import PromptedModule
    from tempering.learner import Learner

Pick = Callable[[Tensor], Tensor]  # log-probabilities [rows, vocabulary] -> ids [rows]


def first_states(module: PromptedModule, backbone: Backbone, batch: Batch) -> Tensor:
    """The last states [rows, dim] that predict the first token of the answer."""
    parts: list[Tensor] = []
    order: list[int] = []
    for rows, asked, text in module.groups(batch):
        parts.append(module.reader.states(backbone, asked, text))
        order += rows
    return torch.cat(parts)[torch.argsort(torch.tensor(order, device=parts[0].device))]


def first_prior(module: PromptedModule, learner: Learner, prompts: Sequence[Prompt]) -> Tensor:
    """log p_cf [vocabulary]: the least that ``prompts``, which ask about nothing, give to each token as the first, summing to 1."""
    body = learner.backbone
    found = learner.outputs(prompts, 64, lambda batch: log_probabilities(body, first_states(module, body, batch)))
    return content_free(found, "min")


def calibrated(pick: Pick, prior: Tensor) -> Pick:
    """``pick`` with p_cf taken off the candidates for the first token; all others are chosen as they are (Zhao et al. 2021)."""
    begins = True

    def picked(logp: Tensor) -> Tensor:
        nonlocal begins
        given, begins = remaining(logp, prior.to(logp)) if begins else logp, False
        return pick(given)

    return picked
