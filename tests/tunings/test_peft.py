"""PEFT's own methods under our body: names stay, all of PEFT's layers work, and PEFT reads what we save."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from pydantic import ValidationError

from tempering.backbone import Backbone
from tempering.codec import decode, encode
from tempering.errors import ModelError, RecipeError
from tempering.recipe import Recipe
from tempering.stages.train import Train
from tempering.streams import torch_stream
from tempering.tunings.houlsby import Houlsby
from tempering.tunings.peft_method import PEFT
from tests.laws.bench import stage_of
from tests.tiny import save_tiny, tiny_backbone
from tests.tunings.oracle import attached, check_count, exported, inputs, states, stir

pytestmark = [
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:peft"),
]
METHODS: dict[str, dict[str, Any]] = {
    "lora": {"r": 4, "use_dora": True},
    "oft": {"r": 4, "oft_block_size": 0},
    "boft": {"boft_block_size": 4},
    "loha": {"r": 4},
    "lokr": {"r": 4},
    "ln_tuning": {},
    "vblora": {"num_vectors": 8, "vector_length": 4, "r": 2},
    "vera": {"r": 4},
    "hra": {"r": 4},
    "road": {"group_size": 8},
    "fourierft": {"n_frequency": 20},
    "randlora": {"r": 4},
    "ia3": {"target_modules": ["key", "value", "output.dense"], "feedforward_modules": ["output.dense"]},
}


def _trained(tuning: PEFT, base: Path) -> Backbone:
    backbone = Backbone.load(str(base))
    with torch_stream("attach"):
        tuning.attach(backbone)
    stir(backbone, 0.05)
    return backbone


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("bert", tmp_path_factory.mktemp("peft") / "base")


@pytest.mark.parametrize("method", METHODS)
def test_peft_loads_what_we_save(method: str, base: Path, tmp_path: Path) -> None:
    tuning = PEFT(method, METHODS[method])
    backbone = _trained(tuning, base)
    mine = states(backbone)
    exported(tuning, backbone, tmp_path)
    loaded = peft.PeftModel.from_pretrained(Backbone.load(str(base)).model, tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(**inputs(backbone)).last_hidden_state, mine, rtol=1e-4, atol=1e-5)
    if tuning.merges:
        tuning.merge(backbone)
        torch.testing.assert_close(states(backbone), mine, rtol=1e-4, atol=2e-5)
        assert set(backbone.state_dict()) == set(Backbone.load(str(base)).state_dict())
        assert not any("forward" in vars(m) for m in backbone.modules())
    else:
        with pytest.raises(ModelError, match="cannot be merged"):
            tuning.merge(backbone)


@pytest.mark.parametrize("method", METHODS)
def test_names_stay_and_copies_are_independent(method: str) -> None:
    tuning, plain = PEFT(method, METHODS[method]), tiny_backbone()
    backbone = attached(tuning)
    assert plain.state_dict().keys() <= backbone.state_dict().keys()
    assert all(torch.equal(t, backbone.state_dict()[n]) for n, t in plain.state_dict().items())
    assert not backbone.model.training
    twin, before = copy.deepcopy(backbone), states(backbone)
    assert torch.equal(states(twin), before)
    stir(twin)
    assert torch.equal(states(backbone), before) and not torch.equal(states(twin), before)


def test_swapped_weights_are_seen() -> None:
    """``functional_call`` reaches the pretrained weight under PEFT's layer as well as PEFT's own."""
    backbone = attached(PEFT("loha", {"r": 4}))
    stir(backbone)
    for name in ("encoder.layer.0.attention.self.query.weight", "encoder.layer.0.attention.self.query.peft.inner.hada_w1_a.default"):
        swapped = {name: torch.zeros_like(backbone.model.get_parameter(name))}
        with torch.no_grad():
            found = torch.func.functional_call(backbone.model, swapped, (), inputs(backbone)).last_hidden_state
        assert not torch.allclose(found, states(backbone), atol=1e-4)


def test_the_count_is_that_of_peft() -> None:
    check_count(PEFT("loha", {"r": 8}), "bert-base", 24 * 8 * 4 * 768)
    model = peft.get_peft_model(tiny_backbone().model, peft.OFTConfig(r=4, oft_block_size=0, target_modules=["query"]))
    assert PEFT("oft", METHODS["oft"] | {"target_modules": ["query"]}).count(tiny_backbone()) == model.get_nb_trainable_parameters()[0]


def test_it_stands_beside_another_tuning() -> None:
    backbone = attached(PEFT("loha", {"r": 2}))
    Houlsby(m=4).attach(backbone)
    stir(backbone)
    names = set(backbone.state_dict())
    assert any(".peft." in n for n in names) and any(".houlsby." in n for n in names)
    states(backbone)


def test_a_learner_comes_back_and_peft_loads_it(base: Path, tmp_path: Path) -> None:
    from tests.laws.test_round_trip import check_elsewhere, check_learner, fitted

    learner = fitted(stage_of(PEFT("oft", METHODS["oft"])), base)
    check_learner(learner, tmp_path)
    check_elsewhere(learner, tmp_path, "classification")


@pytest.mark.parametrize(
    ("method", "options", "said"),
    [
        ("lorra", {}, "has no method 'lorra'; use one of .*lora"),
        ("loha", {"rank": 8}, "loha has no option 'rank'; use those of its configuration: .*, r, "),
        ("adalora", {}, "use the tuning adalora"),
        ("prefix_tuning", {"num_virtual_tokens": 4}, "use prompt_tuning, p_tuning or prefix_tuning"),
        ("xlora", {}, "in a pass of its own"),
        ("lora", {"init_lora_weights": "pissa"}, "rewrites the pretrained weights"),
        ("ia3", {"feedforward_modules": ["dense"]}, "refuses its options: `feedforward_modules` should be a subset"),
    ],
)
def test_refusals_of_settings(method: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        PEFT(method, options).attach(tiny_backbone())


def test_refusals_of_models() -> None:
    with pytest.raises(ModelError, match="target_modules names 'nowhere'"):
        PEFT("loha", {"target_modules": ["nowhere"]}).attach(tiny_backbone())
    with pytest.raises(ModelError, match="loha cannot serve tiny-gpt2: .*Conv1D.* not supported"):
        PEFT("loha").attach(tiny_backbone("gpt2"))
    with pytest.raises(ValidationError, match="trains pretrained weights beside the method"):
        PEFT("lora", {"bias": "all"})
    with pytest.raises(ValidationError, match="must map fields"):
        PEFT("lora", 8)
    with pytest.raises(ModelError, match="layers_to_transform names 7, and no target of tiny-bert is in such a block"):
        PEFT("lora", {"layers_to_transform": [7]}).attach(tiny_backbone())


def test_a_recipe_with_options_survives_yaml() -> None:
    recipe = Recipe("p", (Train(tuning=PEFT("loha", {"r": 4, "target_modules": ["query"], "rank_pattern": {}})),))
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe and hash(recipe)
    assert Recipe.load("oft").stages[0].tuning == PEFT("oft", {"oft_block_size": 32})


def test_options_stand_in_a_recipe_as_a_mapping() -> None:
    value = PEFT("vblora", {"r": 2, "target_modules": ["query", "ffn_in"]})
    plain = encode(value, "tuning")
    assert plain == {"peft": {"method": "vblora", "options": {"r": 2, "target_modules": ["query", "ffn_in"]}}}
    assert decode("tuning", plain, "here") == value
