"""Trained-parameter counts at the real shapes, against the published and measured constants. No weight is allocated."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from tempering.backbone import Backbone
from tempering.contracts import Example
from tempering.framings.head import Head
from tempering.tasks.task import Task
from tempering.tunings.bitfit import BitFit
from tempering.tunings.diff_pruning import DiffPruning
from tempering.tunings.dora import DoRA
from tempering.tunings.fish import FISH
from tempering.tunings.full import Full
from tempering.tunings.grft import GRFT
from tempering.tunings.houlsby import Houlsby
from tempering.tunings.ia3 import IA3
from tempering.tunings.layer_norm import LayerNormOnly
from tempering.tunings.lora import LoRA
from tempering.tunings.lt_sft import LTSFT
from tempering.tunings.magnitude import MagnitudeMask
from tempering.tunings.peft_method import PEFT
from tempering.tunings.pfeiffer import Pfeiffer
from tempering.tunings.top_layers import TopLayers
from tempering.tunings.truncate import Truncate
from tempering.tunings.vera import VeRA
from tests.tiny import tiny_backbone

LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
ALL_SIX = ("query", "key", "value", "attention_out", "ffn_in", "ffn_out")
FOUR = ALL_SIX[:4]


def _shape(name: str) -> Backbone:
    configs: dict[str, Any] = {
        "bert-base": transformers.BertConfig(),
        "bert-large": transformers.BertConfig(**LARGE),
        "roberta-base": transformers.RobertaConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1),
        "roberta-large": transformers.RobertaConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1, **LARGE),
        "deberta-xxl": transformers.DebertaV2Config(
            hidden_size=1536, num_hidden_layers=48, num_attention_heads=24, intermediate_size=6144, vocab_size=128100
        ),
        "t0-11b": transformers.T5Config(
            d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64, feed_forward_proj="gated-gelu", vocab_size=32128
        ),
        "gpt2": transformers.GPT2Config(),
    }
    with torch.device("meta"):
        model = transformers.AutoModel.from_config(configs[name])
    if name.startswith("roberta"):
        model.pooler = None  # as `Backbone.load` leaves it out
    return Backbone(model, None, name)


BLOCK = 12 * 768**2 + 13 * 768  # 4 d d + 4 d, 2 d f + f + d, two norms 4 d, with f = 4 d
PUBLISHED = [
    ("bert-base", LoRA(), 294_912),
    ("bert-large", LoRA(), 786_432),
    ("roberta-base", LoRA(), 294_912),
    ("roberta-large", LoRA(), 786_432),
    ("deberta-xxl", LoRA(r=16), 4_718_592),
    ("bert-base", LoRA(target_modules=FOUR), 589_824),
    ("bert-base", LoRA(target_modules=ALL_SIX), 1_327_104),
    ("bert-base", LoRA(target_modules="all-linear"), 1_327_104),
    ("bert-large", LoRA(target_modules=FOUR), 1_572_864),
    ("bert-large", LoRA(target_modules=ALL_SIX), 3_538_944),
    ("gpt2", LoRA(), 12 * 8 * (768 + 3 * 768)),  # one for the fused matrix: r (d + 3 d)
    ("bert-base", Houlsby(m=8, layer_norm=False), 313_536),
    ("bert-base", Houlsby(m=48, layer_norm=False), 1_789_056),
    ("bert-base", Houlsby(layer_norm=False), 2_379_264),
    ("bert-base", Houlsby(), 2_379_264 + 38_400),
    ("roberta-base", Houlsby(), 2_379_264 + 38_400),
    ("bert-large", Houlsby(m=8, layer_norm=False), 835_968),
    ("bert-large", Houlsby(m=48, layer_norm=False), 4_770_048),
    ("bert-large", Houlsby(layer_norm=False), 6_343_680),
    ("bert-large", Houlsby(), 6_343_680 + 100_352),
    ("bert-base", BitFit(), 102_912),
    ("bert-base", BitFit(subset=True), 12 * (768 + 3072)),
    ("bert-base", LayerNormOnly(), 38_400),
    ("roberta-base", LayerNormOnly(), 38_400),
    ("bert-large", LayerNormOnly(), 100_352),
    ("bert-base", FISH(), round(0.005 * 109_482_240)),
    ("bert-base", DiffPruning(), round(0.005 * 109_482_240)),
    ("bert-base", MagnitudeMask(density=0.01), round(0.01 * 109_482_240)),
    ("bert-base", LTSFT(), round(0.08 * (109_482_240 - 38_400))),
    ("bert-base", GRFT(), 12 * 8 * (5 * 768 + 3072)),
    ("bert-base", Truncate(k=4), 109_482_240 - 4 * BLOCK),
    ("bert-base", Truncate(k=4, tuning=LoRA()), 294_912 * 8 // 12),
    ("roberta-base", TopLayers(layers=(0, -1)), 2 * BLOCK),
    ("bert-large", BitFit(), 272_384),
    ("roberta-base", BitFit(), 102_144),
    ("roberta-large", BitFit(), 271_360),
    ("bert-large", DoRA(), 835_584),
    ("bert-large", VeRA(r=1024), 98_304),
    ("bert-large", IA3(), 147_456),
    ("t0-11b", IA3(), 1_081_344),  # 4.2 MB: encoder and decoder
    ("bert-large", Pfeiffer(m=48), 2_385_024),
    ("bert-base", PEFT("ia3", {"target_modules": ["key", "value", "output.dense"], "feedforward_modules": ["output.dense"]}), 64_512),
    ("bert-base", Full(), 109_482_240),
    ("roberta-base", Full(), 124_055_040),
    ("bert-base", Full(embeddings=False), 12 * BLOCK + 768 * 769),
    ("bert-base", TopLayers(2), 2 * BLOCK + 768 * 769),
    ("roberta-base", TopLayers(3), 3 * BLOCK),
    ("gpt2", TopLayers(1), BLOCK + 2 * 768),  # the final norm lies above
]


@pytest.mark.parametrize(("shape", "tuning", "published"), PUBLISHED, ids=lambda v: str(v)[:40])
def test_count_is_the_published_figure(shape: str, tuning: Any, published: int) -> None:
    backbone = _shape(shape)
    assert tuning.count(backbone) == published
    tuning.attach(backbone)
    assert sum(w.numel() for w in backbone.parameters() if w.requires_grad) == published
    assert all(w.is_meta for w in backbone.parameters())  # what is added lives where the body lives


def test_with_its_head_a_lora_on_roberta_is_what_the_authors_print() -> None:
    """887,811 = 294,912 and a head of d d + d + 3 d + 3 for MNLI: 3.39 MiB in fp32, the 3.4 MB of their table of files."""
    backbone, rows = _shape("roberta-base"), [Example(("a text",), label, i) for i, label in enumerate("abc")]
    backbone.tokenizer = tiny_backbone("roberta").tokenizer
    with torch.device("meta"):
        head = Head().build(Task.from_examples(rows, kind="classification"), backbone)
    LoRA().attach(backbone)
    trained = [w for part in (backbone, head) for w in part.parameters() if w.requires_grad]
    assert sum(w.numel() for w in head.parameters()) == 592_899
    assert sum(w.numel() for w in trained) == 887_811 and round(4 * 887_811 / 2**20, 2) == 3.39
