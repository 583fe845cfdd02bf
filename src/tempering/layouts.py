"""The one table of architectures: where each family keeps its blocks, sub-layers, head and language-model head.

No other file names a model family. A family without a row still serves `full` and `frozen` tuning with a head of our own; what
needs a named place in the network is refused with a sentence that says so (`Layout.require`).

Module names are those of transformers 5. ``{}``-free dotted paths are relative to the body (``AutoModel``) or, where said,
to one block.
"""

from __future__ import annotations

from typing import Any

from tempering.layout import DecoderSpec, HeadSpec, LanguageModelSpec, Layout, OutputSpec, out_proj, word_heads

__all__ = ["LAYOUTS", "DecoderSpec", "HeadSpec", "LanguageModelSpec", "Layout", "OutputSpec", "layout_of"]

_BERT: dict[str, Any] = {
    "blocks": "encoder.layer",
    "embeddings": "embeddings.word_embeddings",
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attention_out": "attention.output.dense",
    "attention_output": "attention.output.dropout",
    "ffn_in": "intermediate.dense",
    "ffn_out": "output.dense",
    "ffn_output": "output.dropout",
    "ffn_norm": "output.LayerNorm",
}
_LLAMA: dict[str, Any] = {
    "blocks": "layers",
    "embeddings": "embed_tokens",
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "attention_out": "self_attn.o_proj",
    "attention_output": "self_attn.o_proj",
    "ffn_in": "mlp.up_proj",
    "ffn_out": "mlp.down_proj",
    "ffn_output": "mlp.down_proj",
    "kind": "decoder",
    "output": OutputSpec(),
    "head": HeadSpec("model", "score", pool="last", bias=False, dropout=()),
    "tokens": HeadSpec("model", "score", dropout=("classifier_dropout", "hidden_dropout")),
}
_T5: dict[str, Any] = {
    "blocks": "encoder.block",
    "embeddings": "encoder.embed_tokens",
    "query": "layer.0.SelfAttention.q",
    "key": "layer.0.SelfAttention.k",
    "value": "layer.0.SelfAttention.v",
    "attention_out": "layer.0.SelfAttention.o",
    "attention_output": "layer.0.dropout",
    "ffn_in": "layer.1.DenseReluDense.wi",
    "linear_branch": "wi_1",
    "ffn_out": "layer.1.DenseReluDense.wo",
    "ffn_output": "layer.1.dropout",
    "kind": "text-encoder",
    "tokens": HeadSpec("transformer", "classifier", dropout=("classifier_dropout",)),
    "output": OutputSpec(scaled=True, says_tied=True),
    "decoder": DecoderSpec(
        "decoder.block",
        {
            **{
                place: (f"layer.0.SelfAttention.{name}", f"layer.1.EncDecAttention.{name}")
                for place, name in (("query", "q"), ("key", "k"), ("value", "v"), ("attention_out", "o"))
            },
            "attention_output": ("layer.0.dropout", "layer.1.dropout"),
            "ffn_in": ("layer.2.DenseReluDense.wi",),
            "ffn_out": ("layer.2.DenseReluDense.wo",),
            "ffn_output": ("layer.2.dropout",),
        },
    ),
}
_BART: dict[str, Any] = {
    "blocks": "encoder.layers",
    "embeddings": "encoder.embed_tokens",
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "attention_out": "self_attn.out_proj",
    "attention_output": "self_attn.out_proj",
    "ffn_in": "fc1",
    "ffn_out": "fc2",
    "ffn_output": "fc2",
    "ffn_norm": "final_layer_norm",
    "kind": "encoder-decoder",
    "output": OutputSpec(bias="final_logits_bias"),
    "decoder": DecoderSpec(
        "decoder.layers",
        {
            **{
                place: (f"self_attn.{name}", f"encoder_attn.{name}")
                for place, name in (
                    ("query", "q_proj"),
                    ("key", "k_proj"),
                    ("value", "v_proj"),
                    ("attention_out", "out_proj"),
                    ("attention_output", "out_proj"),
                )
            },
            "ffn_in": ("fc1",),
            "ffn_out": ("fc2",),
            "ffn_output": ("fc2",),
            "ffn_norm": ("final_layer_norm",),
        },
    ),
}
_TRANSFORM = LanguageModelSpec("cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", "cls.predictions.bias")
_LM_HEAD = LanguageModelSpec("lm_head.dense", "lm_head.layer_norm", "lm_head.bias")
_MODERN_HEAD = HeadSpec("model", "classifier", "first", "head.dense", "head.norm", "gelu", dropout=("classifier_dropout",))
_MPNET = {"attention_out": "attention.attn.o", "attention_output": "attention.dropout"}
_HIDDEN = ("hidden_dropout_prob",)
_EAGER = {"prefix_tuning": "its attention cannot be given further keys from outside; use prompt_tuning, p_tuning or lora"}
_SHARED = {
    "top_layers": "its blocks share one set of weights, so there is no top layer to choose; use full, lora or bitfit",
    "re_init": "its blocks share one set of weights, so its top ones cannot be drawn anew alone; use mixout, l2_sp or layer_decay",
    "truncate": "its blocks share one set of weights, so dropping some of them makes it no smaller; use full, lora or bitfit",
}


LAYOUTS: dict[str, Layout] = {
    "bert": Layout("bert", **_BERT, head=HeadSpec("bert", "classifier", pool="pooler"), lm=_TRANSFORM, **word_heads("bert")),
    **{
        name: Layout(name, **_BERT, head=out_proj("roberta"), lm=_LM_HEAD, position_offset=2, **word_heads("roberta"))
        for name in ("roberta", "xlm-roberta")
    },
    "electra": Layout(
        "electra",
        **(_BERT | word_heads("electra")),
        head=out_proj("electra", "gelu"),
        lm=LanguageModelSpec("generator_predictions.dense", "generator_predictions.LayerNorm", "generator_lm_head.bias"),
    ),
    "distilbert": Layout(
        "distilbert",
        blocks="transformer.layer",
        embeddings="embeddings.word_embeddings",
        query="attention.q_lin",
        key="attention.k_lin",
        value="attention.v_lin",
        attention_out="attention.out_lin",
        attention_output="attention.out_lin",
        ffn_in="ffn.lin1",
        ffn_out="ffn.lin2",
        ffn_output="ffn.dropout",
        ffn_norm="output_layer_norm",
        **word_heads("distilbert", ("dropout",), ("qa_dropout",)),
        head=HeadSpec("distilbert", "classifier", dense="pre_classifier", activation="relu", dropout=("seq_classif_dropout",)),
        lm=LanguageModelSpec("vocab_transform", "vocab_layer_norm", "vocab_projector.bias"),
    ),
    "albert": Layout(
        "albert",
        blocks="encoder.albert_layer_groups.0.albert_layers",
        embeddings="embeddings.word_embeddings",
        query="attention.query",
        key="attention.key",
        value="attention.value",
        attention_out="attention.dense",
        attention_output="attention.output_dropout",
        ffn_in="ffn",
        ffn_out="ffn_output",
        ffn_output="ffn_output",
        ffn_norm="full_layer_layer_norm",
        shared_blocks=True,
        **word_heads("albert", ("classifier_dropout_prob", "hidden_dropout_prob")),
        head=HeadSpec("albert", "classifier", pool="pooler", dropout=("classifier_dropout_prob",)),
        lm=LanguageModelSpec("predictions.dense", "predictions.LayerNorm", "predictions.bias"),
        refuses=_SHARED,
    ),
    "modernbert": Layout(
        "modernbert",
        blocks="layers",
        embeddings="embeddings.tok_embeddings",
        query="attn.Wqkv",
        key="attn.Wqkv",
        value="attn.Wqkv",
        attention_out="attn.Wo",
        attention_output="attn.out_drop",
        ffn_in="mlp.Wi",
        ffn_out="mlp.Wo",
        ffn_output="mlp.Wo",
        head=_MODERN_HEAD,
        tokens=_MODERN_HEAD,
        spans=_MODERN_HEAD,
        lm=LanguageModelSpec("head.dense", "head.norm", "decoder.bias"),
    ),
    "mpnet": Layout(
        "mpnet",
        **(_BERT | {p: f"attention.attn.{p[0]}" for p in ("query", "key", "value")} | _MPNET),
        **word_heads("mpnet", _HIDDEN),
        head=out_proj("mpnet", rates=_HIDDEN),
        lm=_LM_HEAD,
        position_offset=2,
        refuses=_EAGER,
    ),
    "deberta-v2": Layout(
        "deberta-v2",
        **(_BERT | {p: f"attention.self.{p}_proj" for p in ("query", "key", "value")}),
        **word_heads("deberta", _HIDDEN),
        head=HeadSpec(
            "deberta",
            "classifier",
            dense="pooler.dense",
            activation="gelu",
            input_dropout=("pooler_dropout",),
            dropout=("cls_dropout", "hidden_dropout_prob"),
        ),
        lm=_TRANSFORM,
        refuses=_EAGER,
        read_aside=("encoder.rel_embeddings.weight",),
    ),
    "gpt2": Layout(
        "gpt2",
        blocks="h",
        embeddings="wte",
        query="attn.c_attn",
        key="attn.c_attn",
        value="attn.c_attn",
        attention_out="attn.c_proj",
        attention_output="attn.resid_dropout",
        ffn_in="mlp.c_fc",
        ffn_out="mlp.c_proj",
        ffn_output="mlp.dropout",
        kind="decoder",
        output=OutputSpec(),
        **word_heads("transformer", ("classifier_dropout", "hidden_dropout")),
        head=HeadSpec("transformer", "score", pool="last", bias=False, dropout=()),
    ),
    **{name: Layout(name, **_LLAMA) for name in ("llama", "qwen2", "qwen3", "mistral")},
    "t5": Layout("t5", **_T5),
    "mt5": Layout("mt5", **(_T5 | {"output": OutputSpec(says_tied=True)})),
    "bart": Layout(
        "bart",
        **_BART,
        head=HeadSpec(
            "model",
            "classification_head.out_proj",
            pool="last",
            dense="classification_head.dense",
            input_dropout=("classifier_dropout",),
            dropout=("classifier_dropout",),
        ),
    ),
}


def layout_of(config: Any) -> Layout:
    """The row of ``config.model_type`` as that model has it; an empty one (which refuses what needs a place) where the table has none."""
    return (LAYOUTS.get(config.model_type) or Layout(config.model_type)).of(config)
