"""The catalogue: kind -> name in recipes -> where the class is. A new method is one line here."""

from __future__ import annotations

METHODS: dict[str, dict[str, str]] = {
    "framing": {
        "head": "tempering.framings.head:Head",
        "masked_lm": "tempering.framings.masked_lm:MaskedLM",
    },
    "tuning": {
        "full": "tempering.tunings.full:Full",
        "frozen": "tempering.tunings.frozen:Frozen",
        "top_layers": "tempering.tunings.top_layers:TopLayers",
        "bitfit": "tempering.tunings.bitfit:BitFit",
        "lora": "tempering.tunings.lora:LoRA",
        "houlsby": "tempering.tunings.houlsby:Houlsby",
        "prompt_tuning": "tempering.tunings.prompt_tuning:PromptTuning",
        "prefix_tuning": "tempering.tunings.prefix_tuning:PrefixTuning",
        "p_tuning": "tempering.tunings.p_tuning:PTuning",
        "pfeiffer": "tempering.tunings.pfeiffer:Pfeiffer",
        "parallel": "tempering.tunings.parallel:Parallel",
        "compacter": "tempering.tunings.compacter:Compacter",
        "fusion": "tempering.tunings.fusion:Fusion",
        "madx": "tempering.tunings.madx:MADX",
        "dora": "tempering.tunings.dora:DoRA",
        "pissa": "tempering.tunings.pissa:PiSSA",
        "adalora": "tempering.tunings.adalora:AdaLoRA",
        "vera": "tempering.tunings.vera:VeRA",
        "ia3": "tempering.tunings.ia3:IA3",
        "peft": "tempering.tunings.peft_method:PEFT",
        "together": "tempering.tunings.together:Together",
        "truncate": "tempering.tunings.truncate:Truncate",
        "layer_norm": "tempering.tunings.layer_norm:LayerNormOnly",
        "diff_pruning": "tempering.tunings.diff_pruning:DiffPruning",
        "lt_sft": "tempering.tunings.lt_sft:LTSFT",
        "fish": "tempering.tunings.fish:FISH",
        "magnitude": "tempering.tunings.magnitude:MagnitudeMask",
        "movement": "tempering.tunings.movement:MovementMask",
        "grft": "tempering.tunings.grft:GRFT",
    },
    "stabilizer": {
        "layer_decay": "tempering.stabilizers.layer_decay:LayerDecay",
        "r_drop": "tempering.stabilizers.r_drop:RDrop",
        "mixout": "tempering.stabilizers.mixout:Mixout",
        "self_distillation": "tempering.stabilizers.self_distillation:SelfDistillation",
    },
    "stage": {
        "train": "tempering.stages.train:Train",
    },
}
