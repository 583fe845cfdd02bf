"""A model of transformers with ``generate`` around a backbone's own modules: the family's class, sharing every weight."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tempering.framings.output_head import OutputHead, output_matrix

if TYPE_CHECKING:
    from tempering.backbone import Backbone


class Output(nn.Module):
    """The output matrix in the place where the class has its own; what is scaled is scaled by the class."""

    def __init__(self, head: OutputHead, backbone: Backbone) -> None:
        super().__init__()
        self.parts = (head, backbone)  # in a tuple: their weights hang elsewhere
        self.held: tuple[Tensor, ...] = ()

    def forward(self, hidden: Tensor) -> Tensor:
        """States [rows, steps, dim] -> logits [rows, steps, vocabulary]."""
        head, backbone = self.parts
        return head.logits(hidden, self.held[0] if self.held else output_matrix(head, backbone))

    @contextmanager
    def holding(self) -> Iterator[None]:
        """While open the matrix is the one that it is now: what a tuning changes of it is not worked out again for every token."""
        self.held = (output_matrix(*self.parts),)
        try:
            yield
        finally:
            self.held = ()


def generator_class(backbone: Backbone) -> Any:
    """transformers' auto class of the family's model that writes."""
    import transformers

    return transformers.AutoModelForSeq2SeqLM if backbone.opened else transformers.AutoModelForCausalLM


def body_prefix(model: Any) -> str:
    """The attribute under which a class of transformers keeps its body; empty where the body's parts are its own."""
    prefix = str(model.base_model_prefix)
    return prefix if prefix and hasattr(model, prefix) else ""


def assembled(backbone: Backbone, head: OutputHead) -> Any:
    """The model: built without weights, with the backbone's own modules in the places of its own, so that what tunings hung in acts too."""
    with torch.device("meta"):
        model = generator_class(backbone).from_config(copy.deepcopy(backbone.config), dtype=torch.float32)
    prefix = body_prefix(model)
    if prefix:
        setattr(model, prefix, backbone.model)
    else:
        for name, part in backbone.model.named_children():
            setattr(model, name, part)
    model.set_output_embeddings(Output(head, backbone))
    for name, buffer in list(model.named_buffers(recurse=False)):  # a bias that the head adds already
        setattr(model, name, nn.Buffer(torch.zeros(buffer.shape, device=next(backbone.model.parameters()).device)))
    return model.eval()
