"""A vector for each text from a model as it stands: the mean of its top states, of length one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from tempering.backbone import Backbone
from tempering.contracts import Example, Prompt
from tempering.framings.pooling import pool
from tempering.framings.text import TextEncoder, pad, tensors

BATCH = 64

load = lru_cache(maxsize=2)(Backbone.load)  # sentence encoders by name: read once


@torch.no_grad()
def sentence_vectors(body: Backbone, examples: Sequence[Example]) -> Tensor:
    """[examples, dim], in main memory; the two texts of a pair are joined by a space (LM-BFF). Longest texts first."""
    joined = [Example((" ".join(e.texts),), row=e.row) for e in examples]
    prompts = [Prompt(x.ids, x.types) for x in TextEncoder.of(body, None).encode(joined)]
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i].input_ids))
    device = next(body.parameters()).device
    modes = [(module, module.training) for module in body.modules()]
    body.eval()
    found = []
    for start in range(0, len(order), BATCH):
        inputs = tensors(pad([prompts[i] for i in order[start : start + BATCH]], int(body.tokenizer.pad_token_id or 0)))
        inputs = {name: x.to(device) for name, x in inputs.items()}
        found.append(pool(body.encode(inputs).last, inputs.get("attention_mask"), "mean").float().cpu())
    for module, mode in modes:
        module.training = mode
    if not found:
        return torch.zeros(0, body.hidden_size)
    back = torch.argsort(torch.tensor(order))
    return F.normalize(torch.cat(found)[back], dim=-1)
