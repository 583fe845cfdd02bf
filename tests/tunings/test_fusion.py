"""AdapterFusion: counts, attention over adapters, what is read from folders, and a saved model that needs them no more."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import tempering
from tempering.errors import ModelError
from tempering.stages.setup import Surroundings
from tempering.tunings.fusion import Fusion
from tempering.tunings.houlsby import Houlsby
from tempering.tunings.pfeiffer import Pfeiffer
from tests.laws.bench import bits, dev, differing, logits
from tests.laws.test_same_bytes import LOOP, KilledError, _killer
from tests.tiny import save_tiny, tiny_backbone
from tests.tunings.adapters import adapted, counted, loaded, outline, trained
from tests.tunings.shared import attached, disturb, states
from tests.tunings.shared import trained as weights


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model in ``base`` and two adapters, trained on it and saved, in ``a`` and ``b``."""
    folder = tmp_path_factory.mktemp("fusion")
    save_tiny("bert", folder / "base")
    for name, std in (("a", 0.1), ("b", 0.2)):
        trained(Pfeiffer(m=4, init_std=std), folder / "base").save_pretrained(folder / name)
    return folder


def _fusion(home: Path, **fields: Any) -> Fusion:
    return Fusion(**{"adapters": (str(home / "a"), str(home / "b")), "m": 4} | fields)


def test_counts_are_the_published_ones_whatever_is_fused() -> None:
    assert counted(Fusion(adapters=("a", "b", "c"))) == 21_252_096  # folders are read when training begins
    assert Fusion(adapters=("a", "b")).count(outline(large=True)) == 75_546_624
    assert Fusion(adapters=("a",), new=1).count(outline()) == 21_252_096 + 894_528


def test_the_formula() -> None:
    """a = softmax over k of (Q h) . (K v_k); sum over k of a_k V v_k, a token at a time."""
    (fused, *_), h = adapted(attached(Fusion(new=3, m=4)), "fusion"), torch.randn(2, 3, 32)
    for weight in fused.parameters():
        weight.data = 0.3 * torch.randn_like(weight)
    for row in range(2):
        for token in range(3):
            x = h[row, token]
            v = torch.stack([a.change(x) for a in fused.adapters])
            a = torch.softmax(fused.key(v) @ fused.query(x), 0)
            expected = sum(a[k] * (fused.value.weight @ v[k]) for k in range(3))
            torch.testing.assert_close(fused(h)[row, token], expected, rtol=1e-4, atol=1e-5)


def test_the_start() -> None:
    """V is the identity with 1e-6 beside it, without a bias; Q and K are normal with 0.02; so that the model starts near the backbone."""
    before, backbone = states(tiny_backbone()), attached(Fusion(new=2))
    for fused in adapted(backbone, "fusion"):
        assert torch.equal(fused.value.weight, torch.full((32, 32), 1e-6).fill_diagonal_(1.0)) and fused.value.bias is None
        for layer in (fused.query, fused.key):
            assert float(layer.weight.std().detach()) == pytest.approx(0.02, rel=0.1) and not bool(layer.bias.any())
    assert 0 < float((states(backbone) - before).abs().max()) < 1e-3


def test_with_a_flat_attention_it_is_the_mean_of_the_saved_adapters(home: Path) -> None:
    backbone = loaded(home / "base")
    fusion = _fusion(home)
    fusion.attach(backbone)
    fusion.read(backbone)
    stored = [load_file(home / name / "delta.safetensors") for name in "ab"]
    for i, fused in enumerate(adapted(backbone, "fusion")):
        h = torch.randn(2, 32)
        torch.nn.init.zeros_(fused.query.weight)
        fused.value.weight.data = torch.eye(32)
        adapter = Pfeiffer(m=4).make(backbone)
        changes = []
        for tensors in stored:
            prefix = f"encoder.layer.{i}.output.LayerNorm.pfeiffer."
            adapter.load_state_dict({n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)})
            changes.append(adapter.change(h))
        torch.testing.assert_close(fused(h), (changes[0] + changes[1]) / 2, rtol=1e-5, atol=1e-6)
        assert float((changes[0] - changes[1]).detach().abs().max()) > 1e-3


def test_only_the_fusion_is_trained(home: Path) -> None:
    learner = trained(_fusion(home), home / "base")
    untouched = loaded(home / "base")
    _fusion(home).attach(untouched)
    _fusion(home).read(untouched)
    assert {n.split(".fusion.")[1].split(".")[0] for n in weights(learner.backbone)} == {"query", "key", "value"}
    moved = {n for n, t in learner.backbone.state_dict().items() if not torch.equal(t, untouched.state_dict()[n])}
    assert moved and all(".fusion." in n and ".adapters." not in n for n in moved)


def test_the_penalty_is_the_squared_distance_of_every_v_from_the_identity(home: Path) -> None:
    learner = trained(_fusion(home, value_penalty=0.5), home / "base")
    disturb(learner.backbone)
    values = [place.value.weight.detach() for place in adapted(learner.backbone, "fusion")]
    term = learner.tuning.start(learner, learner.trained(), 0).term
    expected = 0.5 * sum(float((v - torch.eye(32)).square().sum()) for v in values)
    assert expected > 10 and float(term(None).detach()) == pytest.approx(expected, rel=1e-4)
    assert _fusion(home, value_penalty=0.0).neutral and not learner.tuning.neutral


def test_the_penalty_holds_v(home: Path) -> None:
    gaps = []
    for penalty in (0.0, 10.0):
        learner = trained(_fusion(home, value_penalty=penalty), home / "base")
        gaps.append(sum(float((p.value.weight - torch.eye(32)).detach().norm()) for p in adapted(learner.backbone, "fusion")))
    assert gaps[1] < 0.8 * gaps[0]


def test_a_saved_model_needs_its_sources_no_more(home: Path, tmp_path: Path) -> None:
    for name in "ab":
        shutil.copytree(home / name, tmp_path / name)
    learner = trained(_fusion(tmp_path, new=1), home / "base")
    learner.save_pretrained(tmp_path / "model")
    shutil.rmtree(tmp_path / "a")
    shutil.rmtree(tmp_path / "b")
    back = tempering.load(tmp_path / "model")
    assert torch.equal(logits(back, dev()), logits(learner, dev())) and back.tuning == learner.tuning


def test_a_killed_run_goes_on_bit_for_bit(home: Path, tmp_path: Path) -> None:
    loop = dataclasses.replace(LOOP, max_steps=3)
    whole = trained(_fusion(home), home / "base", stage=loop)
    with pytest.raises(KilledError):
        trained(_fusion(home), home / "base", Surroundings(tmp_path, listener=_killer(2, "step")), stage=loop)
    resumed = trained(_fusion(home), home / "base", Surroundings(tmp_path, resume=True), stage=loop)
    assert differing(bits(whole), bits(resumed)) == []


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"m": 5}, r"fusion.adapters.0: .*a holds adapters of width and activation \(4, 'relu'\), expected \(5, 'relu'\)"),
        ({"activation": "gelu"}, r"expected \(4, 'gelu'\); give the fields of fusion"),
    ],
)
def test_other_adapters_than_said_are_refused(home: Path, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ModelError, match=said):
        trained(_fusion(home, **fields), home / "base")


def test_folders_that_hold_no_such_adapter_are_refused(home: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nowhere: no tempering.json there; expected a folder that temper fit"):
        trained(Fusion(adapters=(str(home / "a"), str(tmp_path / "nowhere")), m=4), home / "base")
    trained(Houlsby(m=4, layer_norm=False), home / "base").save_pretrained(tmp_path / "houlsby")
    with pytest.raises(ModelError, match=r"holds a Houlsby; expected .* tuning pfeiffer alone"):
        trained(Fusion(adapters=(str(home / "a"), str(tmp_path / "houlsby")), m=4), home / "base")
    save_tiny("bert", tmp_path / "other", seed=1)
    with pytest.raises(ModelError, match=r"trained on another backbone than .* \(fingerprint .*fit the adapter on this model"):
        trained(_fusion(home), tmp_path / "other")


@pytest.mark.parametrize("fusion", [Fusion(), Fusion(new=1), Fusion(adapters=("a",))])
def test_fewer_than_two_are_refused(fusion: Fusion) -> None:
    backbone = tiny_backbone()
    for act in (fusion.attach, fusion.count):
        with pytest.raises(ModelError, match=r"nothing to choose from; give at least two folders"):
            act(backbone)
    assert all(w.requires_grad for w in backbone.parameters())


def test_what_is_disturbed_shows() -> None:
    backbone = attached(Fusion(new=2, m=4))
    before = states(backbone)
    disturb(backbone)
    assert float((states(backbone) - before).abs().max()) > 0.05
