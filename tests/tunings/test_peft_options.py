"""PEFT's configurations as values, every method of the installed PEFT by its own, and settings that cannot serve."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.tuners.lora.config import LoraRuntimeConfig
from pydantic import ValidationError

from tempering.backbone import Backbone
from tempering.errors import ModelError, RecipeError
from tempering.recipe import Recipe
from tempering.stages.train import Train
from tempering.streams import torch_stream
from tempering.tunings.peft_method import PEFT
from tempering.tunings.peft_options import REFUSED
from tests.tiny import save_tiny, tiny_backbone
from tests.tunings.oracle import attached, exported, inputs, states, stir
from tests.tunings.test_peft import METHODS

pytestmark = [
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:peft"),
]
PROMPTS = {"prompt_tuning", "multitask_prompt_tuning", "p_tuning", "prefix_tuning"}
KINDS = {kind.value.lower(): cls for kind, cls in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
INSTALLED = sorted(set(KINDS) - set(REFUSED) - PROMPTS)
# What the defaults of these ask of a model is more than a tiny one has: a width of 32.
SMALL: dict[str, dict[str, Any]] = {
    "c3a": {"block_size": 4},
    "miss": {"r": 4},
    "oft": {"oft_block_size": 8},
    "pvera": {"r": 4},
    "waveft": {"n_frequency": 20},
    **{name: METHODS[name] for name in ("fourierft", "ia3", "randlora", "road", "vblora", "vera")},
}
RUNTIME = LoraRuntimeConfig(ephemeral_gpu_offload=True)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("bert", tmp_path_factory.mktemp("peft") / "base")


@torch.no_grad()
def check_read_by_peft(tuning: PEFT, backbone: Backbone, base: Path, folder: Path) -> torch.Tensor:
    """PEFT loads what we save; returns our states."""
    mine = states(backbone)
    exported(tuning, backbone, folder)
    loaded = peft.PeftModel.from_pretrained(Backbone.load(str(base)).model, folder).eval()
    torch.testing.assert_close(loaded(**inputs(backbone)).last_hidden_state, mine, rtol=1e-4, atol=1e-5)
    return mine


@pytest.mark.slow
@pytest.mark.parametrize("method", INSTALLED)
def test_every_method_of_the_installed_peft(method: str, base: Path, tmp_path: Path) -> None:
    """Given by its configuration: attached, read by PEFT, merged where it says so, and as close to the backbone as it says."""
    tuning = PEFT(KINDS[method](**SMALL.get(method, {})))
    recipe = Recipe("p", (Train(tuning=tuning),))
    assert tuning.method == method and Recipe.from_yaml(recipe.to_yaml()) == recipe and hash(recipe)
    backbone = Backbone.load(str(base))
    plain = states(backbone)
    with torch_stream("attach"):
        tuning.attach(backbone)
    gap = float((states(backbone) - plain).abs().max())
    assert gap == 0 if tuning.identity == "exact" else gap < 0.1 or tuning.identity == "no"
    assert tuning.count(tiny_backbone()) == sum(w.numel() for w in backbone.parameters() if w.requires_grad) > 0
    stir(backbone, 0.05)
    mine = check_read_by_peft(tuning, backbone, base, tmp_path)
    assert not torch.allclose(mine, plain, atol=1e-3)
    if tuning.merges:
        tuning.merge(backbone)
        torch.testing.assert_close(states(backbone), mine, rtol=1e-4, atol=2e-5)


def test_the_methods_that_are_named_are_those_that_are_taken() -> None:
    with pytest.raises(RecipeError) as caught:
        PEFT("lorra").attach(tiny_backbone())
    assert str(caught.value).partition("use one of ")[2].split(", ") == INSTALLED


@pytest.mark.parametrize(
    ("method", "options", "r"),
    [
        ("lora", {"r": 64}, 64),
        ("loha", {"r": 33}, 33),
        ("miss", {}, 64),  # its default
        ("hira", {"r": 64, "target_modules": ["ffn_in"]}, 64),
        ("lora", {"rank_pattern": {"layer.1.attention.self.value": 48}}, 48),
    ],
)
def test_a_rank_larger_than_the_matrix_is_refused(method: str, options: dict[str, Any], r: int) -> None:
    for work in (PEFT(method, options).attach, PEFT(method, options).count):
        with pytest.raises(ModelError, match=f"peft: r = {r} is more than the 32 inputs or outputs of .*; give r of at most 32"):
            work(tiny_backbone())


@pytest.mark.parametrize(("method", "options"), [("vera", {"r": 64}), ("lokr", {"r": 64}), ("lora", {"r": 32})])
def test_a_rank_that_a_matrix_has_or_that_is_none(method: str, options: dict[str, Any]) -> None:
    """The matrices of vera are drawn and stay, and lokr takes whole ones where r is large."""
    tuning = PEFT(method, options)
    assert tuning.count(tiny_backbone()) == sum(w.numel() for w in attached(tuning).parameters() if w.requires_grad)


@pytest.mark.parametrize("method", sorted(PROMPTS))
def test_what_wraps_the_whole_model_is_refused(method: str) -> None:
    with pytest.raises(RecipeError, match=f"peft: {method} changes what the whole model is given; use prompt_tuning"):
        PEFT(method, {"num_virtual_tokens": 4}).attach(tiny_backbone())


def test_a_configuration_is_its_method_and_what_it_sets() -> None:
    given = peft.LoraConfig(r=4, target_modules=["value", "query"], rank_pattern={"value": 2}, task_type="SEQ_CLS", inference_mode=True)
    value = PEFT(given)
    assert value == PEFT("lora", {"r": 4, "target_modules": ["query", "value"], "rank_pattern": {"value": 2}}) == PEFT(method=given)
    recipe = Recipe("p", (Train(tuning=value),))
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe and hash(recipe) == hash(Recipe.from_yaml(recipe.to_yaml()))
    backbone = attached(value)
    assert {tuple(w.shape) for n, w in backbone.named_parameters() if w.requires_grad} == {(4, 32), (32, 4), (2, 32), (32, 2)}
    assert PEFT(peft.LoHaConfig()) == PEFT("loha")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: PEFT(peft.LoraConfig(modules_to_save=["pooler"])), "modules_to_save trains pretrained weights"),
        (lambda: PEFT(peft.LoraConfig(), {"r": 4}), "a configuration holds its method and its options; give it alone"),
        (lambda: PEFT(peft.LoraConfig(runtime_config=RUNTIME)), "LoraRuntimeConfig is no plain value"),
        (lambda: PEFT(8), "must be the name of one of PEFT's methods"),
        (lambda: PEFT(peft.LoraConfig), "must be the name of one of PEFT's methods"),
    ],
)
def test_configurations_that_are_refused(make: Any, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        make()


@pytest.mark.parametrize("layers", [1, [1]])
def test_only_the_blocks_that_are_named_are_changed(layers: Any, base: Path, tmp_path: Path) -> None:
    tuning = PEFT(peft.LoraConfig(r=2, target_modules=["query"], layers_to_transform=layers))
    backbone = Backbone.load(str(base))
    tuning.attach(backbone)
    stir(backbone, 0.05)
    trained = {n.partition(".peft.")[0] for n, w in backbone.named_parameters() if w.requires_grad}
    assert trained == {"model.encoder.layer.1.attention.self.query"}
    check_read_by_peft(tuning, backbone, base, tmp_path)
