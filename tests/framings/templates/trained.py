"""Tokenizers of every kind, trained on a few sentences."""

from __future__ import annotations

from functools import cache
from typing import Any

import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

SENTENCES = [
    "The film was great, and the room was warm.",
    "It was a terrible meal: nobody liked the soup!",
    "Is this a good book? Yes, it was great fun.",
    "Number, location, description, entity; they are all words.",
    "no, maybe, yes. It was terrible, it was great, it was okay.",
] * 20
SPECIAL = ["<pad>", "<unk>", "<s>", "</s>", "<mask>"]
ROLES = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "mask_token": "<mask>"}


def _wrapped(core: Tokenizer, middle: str = "</s>") -> Any:
    ids = [(t, core.token_to_id(t)) for t in ("<s>", "</s>")]
    core.post_processor = processors.TemplateProcessing(single="<s> $A </s>", pair=f"<s> $A {middle} $B </s>", special_tokens=ids)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, model_max_length=64, cls_token="<s>", sep_token="</s>", model_input_names=["input_ids"], **ROLES
    )


@cache
def byte_level() -> Any:
    """Byte-level BPE: a token that begins a word carries the space before it."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        SENTENCES, trainers.BpeTrainer(vocab_size=500, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False)
    )
    return _wrapped(core, "</s> </s>")


@cache
def word_piece() -> Any:
    """WordPiece: a token that continues a word carries ##."""
    core = Tokenizer(models.WordPiece(unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.train_from_iterator(SENTENCES, trainers.WordPieceTrainer(vocab_size=300, special_tokens=SPECIAL, show_progress=False))
    return _wrapped(core)


@cache
def unigram(prepend: bool = False) -> Any:
    """SentencePiece: the first token of every text begins a word, whatever stood before. ``prepend``: as Llama's normalizer writes it."""
    core = Tokenizer(models.Unigram())
    if prepend:
        core.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
        core.pre_tokenizer = pre_tokenizers.Split("\u2581", "merged_with_next")  # no piece spans words, as in real vocabularies
    else:
        core.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=150, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False)
    core.train_from_iterator(SENTENCES, trainer)
    return _wrapped(core)


KINDS = {"bytes": byte_level, "wordpiece": word_piece, "unigram": unigram, "prepended": lambda: unigram(True)}
