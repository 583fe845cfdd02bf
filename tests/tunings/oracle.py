"""PEFT as the oracle of the low-rank family: our tuning and PEFT's method on one tiny classifier, with equal weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from safetensors.torch import load_file, save_file

from tempering.backbone import Backbone
from tempering.streams import torch_stream
from tests.tiny import save_tiny, tiny_backbone

SHAPES: dict[str, Any] = {
    "bert-base": transformers.BertConfig(),
    "roberta-base": transformers.RobertaConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1),
    "gpt2": transformers.GPT2Config(),
    "t0-3b": transformers.T5Config(
        d_model=2048, d_kv=64, d_ff=5120, num_layers=24, num_heads=32, feed_forward_proj="gated-gelu", vocab_size=32128
    ),
}
TEXTS = ["the film was good", "a very dull and awful book"]


def shape(name: str) -> Backbone:
    """A body of published size without weights."""
    with torch.device("meta"):
        return Backbone(transformers.AutoModel.from_config(SHAPES[name]), None, name)


def check_count(tuning: Any, name: str, published: int) -> None:
    """The formula and what is trained are the published number."""
    backbone = shape(name)
    assert tuning.count(backbone) == published
    tuning.attach(backbone)
    assert sum(w.numel() for w in backbone.parameters() if w.requires_grad) == published
    assert all(w.is_meta for w in backbone.parameters())


def inputs(backbone: Backbone) -> dict[str, torch.Tensor]:
    return dict(backbone.tokenizer(TEXTS, padding=True, return_tensors="pt"))


@torch.no_grad()
def states(backbone: Backbone) -> torch.Tensor:
    return backbone.eval().encode(inputs(backbone)).last


def stir(backbone: Backbone, size: float = 0.2) -> None:
    """Move every trained weight."""
    with torch_stream("stir"), torch.no_grad():
        for weight in backbone.parameters():
            if weight.requires_grad:
                weight.add_(size * torch.randn_like(weight))


def attached(tuning: Any, family: str = "bert") -> Backbone:
    backbone = tiny_backbone(family)
    with torch_stream("attach"):
        tuning.attach(backbone)
    return backbone


def exported(tuning: Any, backbone: Backbone, folder: Path) -> None:
    """The PEFT folder of the bare body."""
    if hasattr(tuning, "to_peft"):
        state = tuning.to_peft(backbone, "")
    else:
        own = backbone.state_dict()
        state = {theirs: own[mine] for mine, theirs in tuning.peft_names(backbone, "").items()}
    folder.mkdir(exist_ok=True)
    save_file({name: tensor.detach().contiguous() for name, tensor in state.items()}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(tuning.peft_config(backbone, "FEATURE_EXTRACTION", ())))


def check_against_peft(tuning: Any, family: str, folder: Path) -> Any:
    """PEFT loads our folder and gives our states, merged and not; and we get them back from it. Returns PEFT's model."""
    backbone = Backbone.load(str(save_tiny(family, folder / "base")))
    with torch_stream("attach"):
        tuning.attach(backbone)
    stir(backbone)
    mine, fresh = states(backbone), Backbone.load(str(folder / "base"))
    exported(tuning, backbone, folder / "adapter")
    loaded = peft.PeftModel.from_pretrained(fresh.model, folder / "adapter").eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(**inputs(backbone)).last_hidden_state, mine, rtol=1e-4, atol=2e-5)
    again = Backbone.load(str(folder / "base"))
    with torch_stream("another"):
        tuning.attach(again)
    _restore(tuning, again, load_file(folder / "adapter" / "adapter_model.safetensors"))
    assert torch.equal(states(again), mine)
    tuning.merge(backbone)
    torch.testing.assert_close(states(backbone), mine, rtol=1e-4, atol=2e-5)
    merged = loaded.merge_and_unload()
    for name, weight in backbone.model.named_parameters():
        torch.testing.assert_close(weight, merged.get_parameter(name), rtol=1e-4, atol=1e-5)
    return loaded


def _restore(tuning: Any, backbone: Backbone, stored: dict[str, torch.Tensor]) -> None:
    if hasattr(tuning, "from_peft"):
        state = tuning.from_peft(stored, backbone, "")
    else:
        state = {mine: stored[theirs] for mine, theirs in tuning.peft_names(backbone, "").items()}
    missing = backbone.load_state_dict(state, strict=False)
    assert not missing.unexpected_keys
