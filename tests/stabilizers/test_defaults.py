"""Every stabilizer has a source, the defaults of that source, and a recipe of its own that carries them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tempering.recipe import Recipe, available
from tempering.registry import find, name_of, names
from tests.laws.settings import live

# What the papers or their code set; what they search or leave open is our choice, and said to be one in the docstring or the recipe.
DEFAULTS: dict[str, tuple[str, dict[str, Any]]] = {
    "layer_decay": ("Sun et al. 2019", {"decay": 0.95}),
    "discriminative": ("Howard and Ruder 2018", {"ratio": 2.6}),
    "gradual_unfreezing": ("Howard and Ruder 2018", {"share": None}),
    "re_init": ("Zhang et al. 2021", {"k": 2}),  # of 1 to 6
    "l2_sp": ("Li et al. 2018", {"alpha": 0.01, "beta": 0.01, "decoupled": False}),  # of 1e-1 to 1e-4
    "child_tuning_f": ("Xu et al. 2021", {"p": 0.3}),
    "child_tuning_d": ("Xu et al. 2021", {"p": 0.3, "batch_size": 16, "clip": 1.0}),
    "self_ensemble": ("Xu et al. 2020", {"k": 5}),  # of 1 to 5, or all steps
    "ema": ("Polyak and Juditsky 1992", {"decay": 0.999}),
    "swa": ("Lu et al. 2022", {"every": 1}),
    "r_drop": ("Liang et al. 2021", {"alpha": 1.0}),
    "mixout": ("Lee et al. 2020", {"p": 0.1, "official_grad": False}),  # 0.1 is Zhang et al.'s
    "self_distillation": ("Xu et al. 2020", {"weight": 1.0, "k": 1, "teacher": "mean"}),
    "r3f": ("Aghajanyan et al. 2020", {"weight": 1.0, "eps": 1e-5, "noise": "uniform"}),
    "r4f": ("Aghajanyan et al. 2020", {"weight": 1.0, "eps": 1e-5, "noise": "uniform"}),
    "smart": (
        "Jiang et al. 2020",
        {"alpha": 1.0, "k": 1, "eta": 1e-3, "sigma": 1e-5, "radius": 1e-5, "mu": 0.0, "beta": 0.99, "late_beta": 0.999},  # mu: its recipe
    ),
    "freelb": ("Zhu et al. 2020", {"k": 2, "adv_lr": 0.1, "init_mag": 0.6, "max_norm": None}),  # its SST-2 script
    "lnsr": ("Hua et al. 2021", {"weight": 1.0, "sigma": 0.01}),  # Fu et al.'s baseline
    "supcon": ("Gunel et al. 2021", {"weight": 0.9, "temperature": 0.3}),
    "mmr": ("Fu et al. 2023", {"alpha": 1.0, "normalize": False}),
    "neftune": ("Jain et al. 2024", {"alpha": 5.0}),
}
SETTINGS = {  # of the loop and of heads: what the issue lists beside the stabilizers
    "multi-head": {"framing.heads": 10},
    "label-smoothing": {"label_smoothing_factor": 0.1},
    "slanted-triangular": {"lr_scheduler_type": "slanted_triangular", "warmup_steps": 0.1},
    "no-bias-correction": {"adam_bias_correction": False},
    "no-warm-up": {"warmup_steps": 0, "adam_bias_correction": True, "lr_scheduler_type": "linear"},
    "full": {"warmup_steps": 0.1, "adam_bias_correction": True, "lr_scheduler_type": "linear"},
    "smart": {"stabilizers.0.mu": 1.0, "stabilizers.0.alpha": 1.0},  # the proximal term of the paper; its released code has none
    "early-stopping": {"early_stopping_patience": 3},
    "long": {"num_train_epochs": 20, "learning_rate": 2e-5, "weight_decay": 0.01, "adam_epsilon": 1e-6, "adam_bias_correction": True},
    # the published 4e-5 is in its search: at 2e-4 a small model learns
    "child-tuning-d": {"learning_rate": 2e-4, "weight_decay": 0.01, "num_train_epochs": 3, "per_device_train_batch_size": 16},
    "child-tuning-f": {"learning_rate": 4e-5, "weight_decay": 0.01, "num_train_epochs": 3, "per_device_train_batch_size": 16},
    "pretrained-decay": {"stabilizers.0.alpha": 1e-3, "stabilizers.0.decoupled": True},
    "self-distillation-vote": {"stabilizers.0.teacher": "vote", "stabilizers.0.k": 2},
    "swa": {"lr_scheduler_type": "constant_with_warmup"},
    "gradual-unfreezing": {"lr_scheduler_type": "slanted_triangular"},
}


SEARCHED = {  # what the papers set and the recipe does not: tried by its search
    "freelb": {"learning_rate": {1e-5}},
    "r-drop": {"learning_rate": {1e-5}},
    "r3f": {"learning_rate": {1e-5}},
    "r4f": {"learning_rate": {1e-5}},
    "child-tuning-d": {"learning_rate": {4e-5}},
    "mixout": {"stabilizers.mixout.p": {0.7, 0.9}},
}


def test_every_stabilizer_stands_here() -> None:
    assert set(DEFAULTS) == set(names("stabilizer")) == set(live("stabilizer"))


@pytest.mark.parametrize("name", DEFAULTS)
def test_it_names_its_source_and_has_its_defaults(name: str) -> None:
    source, wanted = DEFAULTS[name]
    method = find("stabilizer", name)
    words = re.sub(r"\s+", " ", method.__doc__ or "")
    assert source in words and all(f"*{part}*" in words for part in ("Paper", "Formula", "Needs", "Costs", "Differs"))
    value = method()
    assert {field: getattr(value, field) for field in wanted} == wanted and not value.neutral


@pytest.mark.parametrize("name", DEFAULTS)
def test_a_recipe_of_its_own_carries_it(name: str) -> None:
    """One of that name, where it is the only stabilizer (unfreezing goes with the rates that it was published with)."""
    recipe = Recipe.load(name.replace("_", "-"))
    (stage,) = recipe.stages
    assert [name_of(s)[1] for s in stage.stabilizers] == [name, *(["discriminative"] if name == "gradual_unfreezing" else [])]
    assert "learning_rate" in dict(recipe.search) and not stage.stabilizers[0].neutral
    recipe.check()


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_of_the_loop_have_recipes_too(name: str) -> None:
    assert name in available()
    stage: Any = Recipe.load(name).stages[-1]
    for path, wanted in SETTINGS[name].items():
        found = stage
        for part in path.split("."):
            found = found[int(part)] if part.isdigit() else getattr(found, part)
        assert found == wanted, path


@pytest.mark.parametrize("name", SEARCHED)
def test_what_the_paper_sets_is_tried(name: str) -> None:
    recipe = Recipe.load(name)
    for path, wanted in SEARCHED[name].items():
        tried = dict(recipe.search)[path]
        assert wanted <= set(tried)
        for value in tried:
            recipe.override({path: value}).check()


def test_the_page_says_whose_the_rates_are_and_that_a_study_stops_no_seeds() -> None:
    docs = Path(__file__).parents[2] / "docs"
    page = " ".join((docs / "studies.md").read_text(encoding="utf-8").split())
    assert "the paper's settings of the method; rates and numbers of steps are mostly ours" in page and "paper's defaults" not in page
    assert "A study stops no seeds" in page and "`temper compare` has no such option" in page
    options = dict(part.split("\n", 1) for part in (docs / "commands.md").read_text(encoding="utf-8").split("\n## ")[1:])
    assert [name for name, text in options.items() if "--stop-worst" in text] == ["temper fit"]
