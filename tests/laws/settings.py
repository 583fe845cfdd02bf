"""One row for every registered method: what the laws run it with. A new method is one line here, and every law tests it."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from tempering.framings.causal_lm import CausalLM
from tempering.framings.cloze import Cloze
from tempering.framings.cloze_ner import ClozeNER
from tempering.framings.contrastive import Contrastive
from tempering.framings.demonstrations import Demonstrations
from tempering.framings.head import Head
from tempering.framings.in_context import InContext
from tempering.framings.knn_prompting import KNNPrompting
from tempering.framings.masked_lm import MaskedLM
from tempering.framings.next_sentence import NextSentence
from tempering.framings.pairs import Pairs
from tempering.framings.prototypes import Prototypes
from tempering.framings.salient_spans import SalientSpans
from tempering.framings.sentence_order import SentenceOrder
from tempering.framings.span_head import SpanHead
from tempering.framings.text_to_text import TextToText
from tempering.framings.token_head import TokenHead
from tempering.framings.verbalizers.auto_words import AutoWords
from tempering.framings.verbalizers.calibrated import Calibrated
from tempering.framings.verbalizers.composed import Composed
from tempering.framings.verbalizers.kpt import Knowledgeable
from tempering.framings.verbalizers.manual import Manual
from tempering.framings.verbalizers.multi_mask import MultiMask
from tempering.framings.verbalizers.proto_verb import ProtoVerb
from tempering.framings.verbalizers.soft import Soft
from tempering.framings.verbalizers.warp import WARP
from tempering.stabilizers.child_tuning_d import ChildTuningD
from tempering.stabilizers.child_tuning_f import ChildTuningF
from tempering.stabilizers.discriminative import Discriminative
from tempering.stabilizers.ema import EMA
from tempering.stabilizers.freelb import FreeLB
from tempering.stabilizers.gradual_unfreezing import GradualUnfreezing
from tempering.stabilizers.l2_sp import L2SP
from tempering.stabilizers.layer_decay import LayerDecay
from tempering.stabilizers.lnsr import LNSR
from tempering.stabilizers.mixout import Mixout
from tempering.stabilizers.mmr import MMR
from tempering.stabilizers.neftune import NEFTune
from tempering.stabilizers.r3f import R3F
from tempering.stabilizers.r4f import R4F
from tempering.stabilizers.r_drop import RDrop
from tempering.stabilizers.re_init import ReInit
from tempering.stabilizers.self_distillation import SelfDistillation
from tempering.stabilizers.self_ensemble import SelfEnsemble
from tempering.stabilizers.smart import SMART
from tempering.stabilizers.supcon import SupCon
from tempering.stabilizers.swa import SWA
from tempering.stages.closed_form import ClosedForm
from tempering.stages.multi_task import MultiTask, TaskSource
from tempering.stages.pet import PET
from tempering.stages.prime import Prime
from tempering.stages.train import Train
from tempering.stages.use import Use
from tempering.tunings.adalora import AdaLoRA
from tempering.tunings.bitfit import BitFit
from tempering.tunings.compacter import Compacter
from tempering.tunings.diff_pruning import DiffPruning
from tempering.tunings.dora import DoRA
from tempering.tunings.fish import FISH
from tempering.tunings.frozen import Frozen
from tempering.tunings.full import Full
from tempering.tunings.fusion import Fusion
from tempering.tunings.gated import Gated
from tempering.tunings.grft import GRFT
from tempering.tunings.houlsby import Houlsby
from tempering.tunings.ia3 import IA3
from tempering.tunings.layer_norm import LayerNormOnly
from tempering.tunings.lora import LoRA
from tempering.tunings.lt_sft import LTSFT
from tempering.tunings.madx import MADX
from tempering.tunings.magnitude import MagnitudeMask
from tempering.tunings.movement import MovementMask
from tempering.tunings.p_tuning import PTuning
from tempering.tunings.parallel import Parallel
from tempering.tunings.peft_method import PEFT
from tempering.tunings.pfeiffer import Pfeiffer
from tempering.tunings.pissa import PiSSA
from tempering.tunings.prefix_tuning import PrefixTuning
from tempering.tunings.prompt_tuning import PromptTuning
from tempering.tunings.together import Together
from tempering.tunings.top_layers import TopLayers
from tempering.tunings.truncate import Truncate
from tempering.tunings.vera import VeRA


class Row(NamedTuple):
    """``live`` is tiny, differs from the defaults where the method has fields, and acts; ``neutral`` (stabilizers) changes nothing.

    ``family`` is the one that the laws run a framing on, where encoders cannot serve it.
    """

    live: Any
    neutral: Any = None
    family: str = "bert"


TABLE: dict[str, dict[str, Row]] = {
    "framing": {
        "head": Row(
            Head(heads=2, reduction="sum", pool="mean", layers=(-1, 0), combine="mean", dropout=0.2, max_length=16, truncation="tail")
        ),
        "token_head": Row(TokenHead(align="mean", heads=2, dropout=0.2, max_length=12, stride=3, decoding="repair")),
        "span_head": Row(SpanHead(heads=2, dropout=0.2, max_length=20, stride=3, max_answer_length=4, n_best=3)),
        "masked_lm": Row(MaskedLM(probability=0.3, max_length=16, masking="span", mask_share=0.7, random_share=0.2)),
        "causal_lm": Row(CausalLM(max_length=16, packed=True), family="gpt2"),
        "sentence_order": Row(SentenceOrder(max_length=24, pool="mean", dropout=0.2)),
        "next_sentence": Row(NextSentence(Head(pool="mean", max_length=24, dropout=0.2))),
        "contrastive": Row(Contrastive("supervised", temperature=0.1, pool="mean", max_length=16, positive="good", negative="bad")),
        "pairs": Row(  # it has no weights of its own, so that a pair with a frozen model is refused: not a family where all pairs must run
            Pairs("undersampling", num_iterations=3, max_pairs=100, loss="infonce", temperature=0.1, max_length=16), family="roberta"
        ),
        "salient_spans": Row(SalientSpans("recurring", probability=0.3, max_length=16)),
        "prototypes": Row(
            Prototypes(alpha=0.9, diversity=0.5, pull=0.1, slots=6, refresh_steps=2, pool="mean", proto_dim=8, soft_labels=True)
        ),
        "text_to_text": Row(
            TextToText(
                "very {text} is",
                words={"bad": "awful", "good": "great"},
                losses=("lm", "unlikelihood", "length_norm"),
                length_norm=0.5,
                max_source_length=16,
            ),
            family="bart",
        ),
        "in_context": Row(
            InContext(
                template="the {text} was {answer}",
                words={"bad": ("bad", "very bad"), "good": ("good", "great")},
                shots=1,
                per_class=True,
                contexts=2,
                scoring="length_norm",
                alpha=0.5,
                calibration="contextual",
                placeholders=("this", ""),
                separator=" and ",
            )
        ),
        "knn_prompting": Row(KNNPrompting(template="the {text} was {answer}", anchors=12, k=2, top_tokens=40, separator=" and ")),
        "cloze": Row(
            Cloze(
                "{text:keep}{soft:it was} {soft} {mask}",
                words={"bad": ("bad", "sad"), "good": "good"},
                truncation="head",
                max_length=32,
                limits=(12,),
                bounds=(-1.0, 2.0),
                reference_kl=True,
            )
        ),
        "cloze_ner": Row(
            ClozeNER(
                "{text} : {span} {soft:is} {mask}", words={"O": ("the", "a"), "good": "great"}, max_span=2, negatives=0.5, max_length=40
            )
        ),
        "demonstrations": Row(
            Demonstrations(
                Cloze("{text} it was {mask}", words=("bad", "good"), verbalizer=Soft(), max_length=16),
                per_class=2,
                contexts=2,
                filter=0.7,
                floor=2,
                max_length=48,
            )
        ),
    },
    "tuning": {
        "full": Row(Full(embeddings=False)),
        "frozen": Row(Frozen()),
        "top_layers": Row(TopLayers(layers=(-1,))),
        "bitfit": Row(BitFit(subset=True)),
        "lora": Row(LoRA(r=2, lora_alpha=3.0, lora_dropout=0.1, target_modules=("query", "ffn_in"))),
        "houlsby": Row(Houlsby(m=4, init_std=1e-2, activation="relu", layer_norm=False)),
        "prompt_tuning": Row(PromptTuning(p=4, init="text", text="good film")),
        "prefix_tuning": Row(PrefixTuning(p=3, m=8, prefix_dropout=0.1, init_std=2.0)),
        "p_tuning": Row(PTuning(p=4, encoder="mlp")),
        "pfeiffer": Row(Pfeiffer(m=4, init_std=2e-3, activation="gelu", invertible=True, robust=True)),
        "parallel": Row(Parallel(m=4, s="learned", activation="gelu")),
        "compacter": Row(Compacter(n=2, m=4, plus=True, init_std=0.05, activation="relu", layer_norm=False)),
        "fusion": Row(Fusion(new=2, m=4, dropout=0.1, value_penalty=0.1)),
        "madx": Row(MADX(m=4, language_m=8, init_std=2e-3, drop_layers=1)),
        "truncate": Row(Truncate(k=1, tuning=LoRA(r=2))),
        "layer_norm": Row(LayerNormOnly()),
        "diff_pruning": Row(DiffPruning(density=0.01, epochs=1.0, l0=1e-4, gate_init=1.0, gate_rate=3.0, gated_rate=0.5)),
        "lt_sft": Row(LTSFT(density=0.02, layer_norm=True, epochs=1.0, l1=0.1)),
        "fish": Row(FISH(density=0.01, layer_norm=False, rows=6, labels="true")),
        "magnitude": Row(MagnitudeMask(density=0.02, keep="smallest")),
        "movement": Row(MovementMask(density=0.01, epochs=None, dense_rate=0.5)),
        "grft": Row(GRFT(r=2, axis="columns", decay=0.1, rows=6, batch_size=2)),
        "dora": Row(DoRA(r=2, lora_alpha=3.0, lora_dropout=0.1, target_modules=("query", "ffn_in"))),
        "pissa": Row(PiSSA(r=2, lora_alpha=3.0, target_modules=("value", "ffn_out"), niter=2)),
        "adalora": Row(AdaLoRA(target_r=1, init_r=3, lora_alpha=6.0, lora_dropout=0.1, tinit=0.25, tfinal=0.25, orth_reg_weight=0.3)),
        "vera": Row(VeRA(r=6, d_initial=0.5, vera_dropout=0.1, target_modules=("query", "ffn_in"), projection_prng_key=3)),
        "ia3": Row(IA3(before_activation=True)),
        "peft": Row(PEFT("vblora", {"r": 2, "num_vectors": 8, "vector_length": 4, "target_modules": ["query", "ffn_in"]})),
        "gated": Row(Gated(LoRA(r=2, lora_alpha=3.0))),
        "together": Row(Together((LoRA(r=2, lora_alpha=3.0), Houlsby(m=4, init_std=1e-2)))),
    },
    "stabilizer": {
        "layer_decay": Row(LayerDecay(0.5), LayerDecay(1.0)),
        "r_drop": Row(RDrop(0.7), RDrop(0.0)),
        "mixout": Row(Mixout(0.4, official_grad=True), Mixout(0.0)),
        "self_distillation": Row(SelfDistillation(2.0, k=3, teacher="vote"), SelfDistillation(0.0, k=2)),
        "discriminative": Row(Discriminative(1.7), Discriminative(1.0)),
        "gradual_unfreezing": Row(GradualUnfreezing(0.3), GradualUnfreezing(0.0)),
        "re_init": Row(ReInit(1), ReInit(0)),
        "l2_sp": Row(L2SP(0.3, 0.2, decoupled=True), L2SP(0.0, 0.0)),
        "child_tuning_f": Row(ChildTuningF(0.4), ChildTuningF(1.0)),
        "child_tuning_d": Row(ChildTuningD(0.2, batch_size=4, clip=0.5), ChildTuningD(1.0)),
        "self_ensemble": Row(SelfEnsemble(3), SelfEnsemble(1)),
        "ema": Row(EMA(0.6), EMA(0.0)),
        "swa": Row(SWA(0.25, every=2), SWA(1.0)),
        "r3f": Row(R3F(0.7, eps=0.3, noise="normal", shared_dropout=True), R3F(0.0)),
        "r4f": Row(R4F(0.5, eps=0.2), R4F(0.0)),
        "smart": Row(SMART(2.0, k=2, eta=0.1, sigma=0.1, radius=0.3, mu=0.5, beta=0.5, late_beta=0.9), SMART(0.0)),
        "freelb": Row(FreeLB(k=3, adv_lr=0.5, init_mag=0.3, max_norm=1.0), FreeLB(k=1, init_mag=0.0)),
        "lnsr": Row(LNSR(3.0, sigma=0.2), LNSR(0.0)),
        "supcon": Row(SupCon(0.5, temperature=0.5), SupCon(0.0)),
        "mmr": Row(MMR(2.0, normalize=True), MMR(0.0)),
        "neftune": Row(NEFTune(2.0), NEFTune(0.0)),
    },
    "verbalizer": {
        "manual": Row(Manual(aggregation="weighted", pieces="mean")),
        "multi_mask": Row(MultiMask(order="ltr", loss="hinge", average=True)),
        "composed": Row(Composed()),
        "calibrated": Row(Calibrated(Manual("sum_prob"), inputs=("", "the"), when="before")),
        "soft": Row(Soft(words="mean", bias=True)),
        "warp": Row(WARP(init="random")),
        "knowledgeable": Row(Knowledgeable(frequency=0.0, relevance="none", aggregation="weighted", temperature=2.0, rows=8)),
        "proto_verb": Row(ProtoVerb(Manual("max"), when="before", d=8, epochs=3)),
        "auto_words": Row(AutoWords(k=4, n=5, rank=1)),
    },
    "stage": {
        "train": Row(
            Train(
                learning_rate=3e-5,
                head_learning_rate=1e-3,
                max_steps=7,
                warmup_steps=0.25,
                lr_scheduler_type="cosine",
                eval_strategy="steps",
                eval_steps=3,
                early_stopping_patience=2,
                metric_for_best_model="macro_f1",
                class_weights="balanced",
                bf16=False,
                tuning=LoRA(r=2),
                stabilizers=(RDrop(0.5), LayerDecay()),
            )
        ),
        "use": Row(Use(framing=InContext(shots=2, scoring="pmi"), per_device_eval_batch_size=16)),
        "pet": Row(
            PET(
                patterns=("{text} it was {mask}", "{mask} : {text}"),
                words={"bad": "bad", "good": ("good", "great")},
                repetitions=1,
                alpha=0.9,
                pattern_steps=2,
                pattern_learning_rate=1e-3,
                pattern_batch_size=8,
                pattern_max_length=24,
                weighting="uniform",
                temperature=1.5,
                generations=1,
                others=0.5,
                scale=2.0,
                max_steps=3,
            )
        ),
        "multi_task": Row(
            MultiTask(
                tasks=(TaskSource("other.csv", Head(heads=2), 0.5, "other", "kept"), TaskSource()),
                sampling="temperature",
                temperature=3.0,
                cap=100,
                loss_scale="none",
                tuning=LoRA(r=2),
                stabilizers=(R3F(),),
                max_steps=7,
            )
        ),
        "closed_form": Row(ClosedForm(Head(pool="mean", normalize=True), "ridge", C=0.5, class_weights="balanced")),
        "prime": Row(
            Prime(
                sources=("english.jsonl", "german.jsonl"),
                tuning=Houlsby(m=4),
                outer_steps=3,
                inner_steps=2,
                second_order=True,
                outer_trains="body_and_start",
                keep_tuning="start",
                warmup_steps=0.25,
            )
        ),
    },
}


def family_of(framing: Any) -> str:
    """The family that the laws put a framing on."""
    return next((row.family for row in TABLE["framing"].values() if type(row.live) is type(framing)), "bert")


def rows(kind: str) -> list[Any]:
    """Every row of a kind as a parameter of a test, under its method's name."""
    return [pytest.param(row, id=name) for name, row in TABLE[kind].items()]


def live(kind: str) -> dict[str, Any]:
    """Every method of a kind at its live setting."""
    return {name: row.live for name, row in TABLE[kind].items()}
