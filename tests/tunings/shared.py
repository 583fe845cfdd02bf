"""What the tests of tunings share: one value of every kind, and what is done to a backbone with it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tempering.backbone import Backbone
from tempering.streams import torch_stream
from tempering.tunings.attach import Added
from tempering.tunings.bitfit import BitFit
from tempering.tunings.frozen import Frozen
from tempering.tunings.full import Full
from tempering.tunings.houlsby import Houlsby
from tempering.tunings.lora import LoRA
from tempering.tunings.top_layers import TopLayers
from tests.tiny import FAMILIES, tiny_backbone

TEXTS = ["the film was good and not sad", "a bad day"]
ALL: dict[str, Any] = {
    "full": Full(),
    "body": Full(embeddings=False),
    "frozen": Frozen(),
    "top": TopLayers(1),
    "bitfit": BitFit(),
    "lora": LoRA(r=4, lora_dropout=0.1),
    "lora-all": LoRA(r=4, target_modules="all-linear"),
    "houlsby": Houlsby(m=8),
    "houlsby-frozen-norms": Houlsby(m=8, layer_norm=False, activation="relu"),
}
REFUSED = {("albert", "top"), *((family, "bitfit") for family in ("modernbert", "llama", "t5"))}
SERVED = [(family, name) for family in FAMILIES for name in ALL if (family, name) not in REFUSED]


def inputs(backbone: Backbone) -> dict[str, torch.Tensor]:
    return dict(backbone.tokenizer(TEXTS, padding=True, return_tensors="pt"))


def states(backbone: Backbone) -> torch.Tensor:
    with torch.no_grad():
        return backbone.eval().encode(inputs(backbone)).last


def trained(backbone: Backbone) -> dict[str, nn.Parameter]:
    return {name: w for name, w in backbone.named_parameters() if w.requires_grad}


def attached(tuning: Any, family: str = "bert", seed: int = 0) -> Backbone:
    backbone = tiny_backbone(family)
    with torch_stream(seed):
        tuning.attach(backbone)
    return backbone


def loss_of(backbone: Backbone) -> torch.Tensor:
    """Reads every hidden state and, where there is one, the pooler, with weights that no symmetry cancels."""
    out = backbone.encode(inputs(backbone))
    with torch_stream("loss"):
        loss = (out.last * torch.randn_like(out.last)).sum()
        return loss if out.pooled is None else loss + (out.pooled * torch.randn_like(out.pooled)).sum()


def one_step(backbone: Backbone) -> None:
    backbone.train()
    optimizer = torch.optim.AdamW(trained(backbone).values(), lr=1e-2, weight_decay=0.1)
    with torch_stream("step"):
        loss_of(backbone).backward()
    optimizer.step()


def disturb(backbone: Backbone) -> None:
    """Give what a tuning added (B starts at zero) weights that matter."""
    with torch_stream("disturb"):
        for module in backbone.modules():
            for weight in module.parameters() if isinstance(module, Added) else ():
                weight.data = 0.1 * torch.randn_like(weight)
