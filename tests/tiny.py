"""Tiny random models of every family, with a working tokenizer, built in memory from a seed. Nothing is downloaded."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from tempering.backbone import Backbone
from tempering.framings.output_head import language_head
from tempering.layouts import LAYOUTS, layout_of
from tempering.streams import torch_stream

POSITIVE = ("good", "great", "lovely", "fine", "bright", "warm", "clever", "happy")
NEGATIVE = ("bad", "awful", "dull", "poor", "dark", "cold", "silly", "sad")
WORDS = ("the", "a", "film", "book", "meal", "was", "is", "very", "and", "not", "it", "this", "story", "room", "day", "but")
SPECIAL = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]", "eos": "</s>"}
VOCAB = [*SPECIAL.values(), *POSITIVE, *NEGATIVE, *WORDS, *(f"w{i}" for i in range(154))]  # 192 entries
ROLE = {role: VOCAB.index(token) for role, token in SPECIAL.items()}
LENGTH = 64

_IDS = {"pad_token_id": ROLE["pad"], "bos_token_id": ROLE["cls"], "eos_token_id": ROLE["sep"]}
_ENCODER = {
    "vocab_size": len(VOCAB),
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": LENGTH,
    "pad_token_id": ROLE["pad"],
}
_OFFSET = _ENCODER | {"max_position_embeddings": LENGTH + 2, "pad_token_id": 1}
_DECODER = _ENCODER | {"num_key_value_heads": 1, "pad_token_id": None, "bos_token_id": None, "eos_token_id": ROLE["eos"]}
_CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("BertConfig", _ENCODER),
    "roberta": ("RobertaConfig", _OFFSET | {"type_vocab_size": 1}),
    "distilbert": (
        "DistilBertConfig",
        {"vocab_size": len(VOCAB), "dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64, "max_position_embeddings": LENGTH},
    ),
    "electra": ("ElectraConfig", _ENCODER | {"embedding_size": 16}),
    "albert": ("AlbertConfig", _ENCODER | _IDS | {"embedding_size": 16}),
    "modernbert": (
        "ModernBertConfig",
        _ENCODER | _IDS | {"cls_token_id": ROLE["cls"], "sep_token_id": ROLE["sep"], "global_attn_every_n_layers": 2},
    ),
    "mpnet": ("MPNetConfig", _OFFSET),
    "deberta-v2": (
        "DebertaV2Config",
        _ENCODER | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8, "norm_rel_ebd": "layer_norm"},
    ),
    "gpt2": (
        "GPT2Config",
        {"vocab_size": len(VOCAB), "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": LENGTH, "bos_token_id": ROLE["eos"]}
        | {"eos_token_id": ROLE["eos"]},
    ),
    "llama": ("LlamaConfig", _DECODER),
    "qwen2": ("Qwen2Config", _DECODER | {"vocab_size": 512, "eos_token_id": 0}),
    "t5": (
        "T5Config",
        {"vocab_size": len(VOCAB), "d_model": 32, "num_layers": 2, "num_heads": 2, "d_kv": 16, "d_ff": 64, "pad_token_id": ROLE["pad"]}
        | {"eos_token_id": ROLE["eos"], "decoder_start_token_id": ROLE["pad"]},
    ),
    "bart": (
        "BartConfig",
        {"vocab_size": len(VOCAB), "d_model": 32, "max_position_embeddings": LENGTH, "decoder_start_token_id": ROLE["sep"]}
        | {f"{half}_{name}": n for half in ("encoder", "decoder") for name, n in (("layers", 2), ("attention_heads", 2), ("ffn_dim", 64))}
        | _IDS
        | {"forced_eos_token_id": None},
    ),
}
_CONFIGS["mt5"] = ("MT5Config", _CONFIGS["t5"][1])  # the same modules, but for a feed-forward sub-layer of two branches
FAMILIES = tuple(name for name in _CONFIGS if name != "mt5")  # what every law walks; the other is in tests of its own
GATED = ("mt5",)


def tiny_config(family: str) -> Any:
    """The configuration of a two-block model of width 32."""
    name, fields = _CONFIGS[family]
    return getattr(transformers, name)(**fields)


def _template(family: str) -> processors.TemplateProcessing | None:
    if family in ("gpt2", "llama"):
        return None
    if family in ("t5", "mt5"):
        eos = ("</s>", _ids(family)["eos"])
        return processors.TemplateProcessing(single="$A </s>", pair="$A </s> $B </s>", special_tokens=[eos])
    ids = _ids(family)
    second = 1 if family == "bert" else 0
    pair = f"[CLS]:0 $A:0 [SEP]:0 $B:{second} [SEP]:{second}"
    return processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0", pair=pair, special_tokens=[("[CLS]", ids["cls"]), ("[SEP]", ids["sep"])]
    )


def _vocab(family: str) -> list[str]:
    """Position-offset families (RoBERTa, MPNet) count positions from the padding id 1; their vocabulary has it there."""
    if family in ("roberta", "mpnet"):
        return ["[CLS]", "[PAD]", *(t for t in VOCAB if t not in ("[CLS]", "[PAD]"))]
    return VOCAB


def _ids(family: str) -> dict[str, int]:
    vocab = _vocab(family)
    return {role: vocab.index(token) for role, token in SPECIAL.items()}


def _byte_pairs() -> Any:
    """transformers rebuilds this family's tokenizer from vocabulary and merges, so it gets real byte pairs of our words."""
    merges: dict[tuple[str, str], None] = {}
    for word in (*POSITIVE, *NEGATIVE, *WORDS):
        for i in range(1, len(word)):
            merges[word[:i], word[i]] = None
        merges["\u0120", word] = None  # a leading space
    pieces = dict.fromkeys(["<|endoftext|>", *sorted(pre_tokenizers.ByteLevel.alphabet()), *(a + b for a, b in merges)])
    return transformers.Qwen2Tokenizer(vocab={t: i for i, t in enumerate(pieces)}, merges=list(merges), model_max_length=LENGTH)


def tiny_tokenizer(family: str, spaced: bool = False) -> Any:
    """A fast word-level tokenizer over `VOCAB` with the special tokens the family needs (token types for BERT only).

    ``spaced``: a word's token holds the blank before the word, and of two blanks one is a token, as SentencePiece has it.
    """
    if family == "qwen2":
        return _byte_pairs()
    vocab = [f"\u2581{t}" if spaced and t not in SPECIAL.values() else t for t in _vocab(family)]
    core = Tokenizer(models.WordLevel({t: i for i, t in enumerate(vocab)}, unk_token="[UNK]"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Metaspace() if spaced else pre_tokenizers.BertPreTokenizer()
    template = _template(family)
    if template is not None:
        core.post_processor = template
    roles = {"gpt2": ("unk", "eos"), "llama": ("unk", "eos"), "t5": ("unk", "eos", "pad"), "mt5": ("unk", "eos", "pad")}
    chosen = roles.get(family, ("unk", "pad", "cls", "sep", "mask"))
    names = ["input_ids", "attention_mask"] + (["token_type_ids"] if family == "bert" else [])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, model_max_length=LENGTH, model_input_names=names, **{f"{r}_token": SPECIAL[r] for r in chosen}
    )


def tiny_model(family: str, seed: int = 0, loader: str = "") -> Any:
    """The random body (or, by ``loader``, another auto class of it) in fp32 and evaluation mode."""
    config = tiny_config(family)
    layout = layout_of(config)
    auto = loader or ("AutoModelForTextEncoding" if layout.kind == "text-encoder" else "AutoModel")
    with torch_stream(seed, "tiny", family):
        cls = getattr(transformers, auto)
        body = cls.from_config(config, dtype=torch.float32)
        for name, weight in body.named_parameters():  # biases start at zero and norms at one: make each matter
            if weight.dim() == 1:
                weight.data += 0.05 * torch.randn_like(weight)
            elif "embed" not in name and "wte" not in name:
                weight.data *= 3.0  # random blocks of width 32 would otherwise do nearly nothing
    return body.eval()


def tiny_whole(family: str, seed: int = 0) -> tuple[Any, frozenset[str]]:
    """Both halves of an encoder-decoder, the encoder that of `tiny_model`; and that nothing was missing."""
    body = tiny_model(family, seed, "AutoModel")
    body.load_state_dict(tiny_model(family, seed).state_dict(), strict=False)
    return body, frozenset()


def tiny_backbone(family: str = "bert", seed: int = 0, spaced: bool = False) -> Backbone:
    """A tiny random backbone of ``family`` (see `FAMILIES` and `GATED`): the body a `Backbone.load` of the same folder would hold.

    ``spaced``: see `tiny_tokenizer`.
    """
    model, tokenizer = tiny_model(family, seed), tiny_tokenizer(family, spaced)
    layout = layout_of(model.config)
    if layout.head is not None and layout.head.pool != "pooler" and getattr(model, "pooler", None) is not None:
        model.pooler = None
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    return Backbone(model, tokenizer, f"tiny-{family}", whole=partial(tiny_whole, family, seed) if layout.decoder else None)


def tiny_speaker(family: str = "bert", seed: int = 0) -> Backbone:
    """`tiny_backbone` with a language-model head that counts as read from its checkpoint: random as the body is, it speaks as well."""
    backbone = tiny_backbone(family, seed)
    with torch_stream(seed, "tiny", "head", family):
        head = language_head(backbone)
    head.fresh = False
    return backbone


def save_tiny(family: str, folder: Path | str, seed: int = 0) -> Path:
    """Write the tiny model and its tokenizer as transformers does; the folder."""
    model = tiny_whole(family, seed)[0] if LAYOUTS[family].decoder else tiny_model(family, seed)
    model.save_pretrained(folder)
    tiny_tokenizer(family).save_pretrained(folder)
    return Path(folder)


def tiny_examples(n: int, kind: str = "classification", seed: int = 0, start: int = 1) -> list[Any]:
    """``n`` learnable rows: the label is the tone of the words in the text."""
    from tempering.contracts import Example

    rng = random.Random(f"{seed}-{kind}-{start}")
    rows = []
    for i in range(n):
        tone = i % 2
        mine, other = (POSITIVE, NEGATIVE) if tone else (NEGATIVE, POSITIVE)
        words = rng.choices(WORDS, k=rng.randint(2, 8)) + rng.choices(mine, k=3) + rng.choices(other, k=i % 2)
        rng.shuffle(words)
        label: Any = {"classification": ("bad", "good")[tone], "regression": float(tone) + rng.random() / 10}.get(kind)
        if kind == "multilabel":
            label = tuple(name for name, on in (("good", tone), ("long", len(words) > 8)) if on)
        if kind == "tagging":
            rows.append(_tagged(words, start + i))
            continue
        if kind == "question_answering":
            rows.append(_asked(words, start + i))
            continue
        rows.append(Example((" ".join(words),), label, start + i))
    return rows


def _tagged(words: list[str], row: int) -> Any:
    """Stretches of words of one tone are entities of it; every third word of no tone is glued to another, for more tokens than words."""
    from tempering.contracts import Example
    from tempering.tags import Entity, entities, joined, written

    tokens = [f"{word}-{word}" if i % 3 == 0 and word in WORDS else word for i, word in enumerate(words)]
    tone = ["I-good" if word in POSITIVE else "I-bad" if word in NEGATIVE else "O" for word in words]
    text, places = joined(tokens)
    return Example((text,), written([Entity(*found) for found in entities(tone)], len(tokens), "IOB2"), row, places)


def _asked(words: list[str], row: int) -> Any:
    """Which word is of the tone that is asked for: the first, if there is one."""
    from tempering.contracts import Example

    tone, context = ("good", "bad")[row % 2], " ".join(words)
    found = [word for word in words if word in (POSITIVE if tone == "good" else NEGATIVE)]
    answer = ((f" {context} ".index(f" {found[0]} "), found[0]),) if found else ()
    return Example((f"is it {tone}", context), answer, row)


def tiny_task(n: int = 24, kind: str = "classification", seed: int = 0) -> Any:
    """A small task of ``n`` training rows and half as many development rows."""
    from tempering.tasks import Task

    train, dev = tiny_examples(n, kind, seed), tiny_examples(max(4, n // 2), kind, seed, start=n + 1)
    return Task.from_examples(train=train, dev=dev, kind=kind)
