"""MAD-X: the invertible adapter and its inverse, the order of the stack, languages read from folders, and their exchange."""

from __future__ import annotations

import copy
import dataclasses
import shutil
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch.nn import functional as F

import tempering
from tempering.errors import ModelError
from tempering.fitting import fit
from tempering.framings.lm_head import ensure_lm_head
from tempering.framings.masked_lm import MaskedLM
from tempering.learner import Learner
from tempering.plan import explain
from tempering.recipe import Recipe
from tempering.stages.train import Train
from tempering.tunings.invertible import Invertible
from tempering.tunings.madx import MADX, speak
from tempering.tunings.pfeiffer import Pfeiffer
from tests.laws.bench import ROWS, SEEDS, STAGE, dev, logits, stage_of
from tests.tiny import save_tiny, tiny_backbone, tiny_task
from tests.tunings.adapters import adapted, counted, loaded, outline, trained
from tests.tunings.shared import attached, disturb
from tests.tunings.shared import trained as weights

PAIR = 296_064  # F and G at width 768
LANGUAGE = 12 * (2 * 384 * 768 + 384 + 768)


def _language(base: Path, std: float) -> Learner:
    """A language adapter after a few steps of masked language modeling."""
    tuning = Pfeiffer(reduction=2, invertible=True, init_std=std)
    stage = dataclasses.replace(stage_of(tuning, framing=MaskedLM(0.5), stage=STAGE), text="unlabeled")
    return stage.run(loaded(base), tiny_task(ROWS), SEEDS)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model in ``base``, and two languages of it."""
    folder = tmp_path_factory.mktemp("madx")
    save_tiny("bert", folder / "base")
    for name, std in (("quechua", 0.05), ("swahili", 0.2)):
        _language(folder / "base", std).save_pretrained(folder / name)
    return folder


def _madx(home: Path, language: str = "quechua", **fields: Any) -> MADX:
    return MADX(language=str(home / language), m=4, **fields)


def test_counts_are_the_published_ones() -> None:
    assert counted(MADX(language="x")) == 894_528  # folders are read when training begins
    assert counted(MADX()) == 894_528 + LANGUAGE + PAIR
    assert MADX(invertible=False).count(outline()) == 894_528 + LANGUAGE


def test_the_invertible_adapter_and_its_inverse() -> None:
    """o1 = e1 + F(e2), o2 = e2 + G(o1), and back."""
    pair, e = Invertible(16, 0.5), torch.randn(3, 5, 16)
    a, b = e[..., :8], e[..., 8:]
    first = a + pair.F(b)
    torch.testing.assert_close(pair(e), torch.cat([first, b + pair.G(first)], -1))
    assert float((pair(e) - e).detach().abs().max()) > 0.1
    assert float((pair.inverse(pair(e)) - e).detach().abs().max()) <= 1e-5
    assert float((pair(pair.inverse(e)) - e).detach().abs().max()) <= 1e-5


@pytest.mark.parametrize("family", ["bert", "electra", "albert", "modernbert", "t5"])
def test_it_acts_on_the_token_embeddings(family: str) -> None:
    backbone = attached(Pfeiffer(m=4, invertible=True), family)
    disturb(backbone)
    table, ids = backbone.embeddings, torch.tensor([[5, 7]])
    plain = tiny_backbone(family).embeddings(ids)
    torch.testing.assert_close(table(ids), cast(Any, table).invertible(plain))
    assert float((table(ids) - plain).detach().abs().max()) > 1e-3


def test_the_tied_head_reads_through_the_inverse_also_of_a_copy() -> None:
    backbone = attached(Pfeiffer(m=4, invertible=True))
    disturb(backbone)
    hidden = torch.randn(4, 32)
    for body in (backbone, copy.deepcopy(backbone)):
        head, table = ensure_lm_head(body), cast(Any, body.embeddings)
        plain = head.norm(head.activation(head.dense(hidden)))
        logits, features = head(hidden, table.weight)
        torch.testing.assert_close(features, table.invertible.inverse(plain))
        torch.testing.assert_close(logits, F.linear(table.invertible.inverse(plain), table.weight, head.bias))
        assert float((features - plain).detach().abs().max()) > 0.05
    bare = tiny_backbone()
    head = ensure_lm_head(bare)
    assert torch.equal(head(hidden, cast(Any, bare.embeddings).weight)[1], head.norm(head.activation(head.dense(hidden))))


def _bottleneck(adapter: Any, h: torch.Tensor) -> torch.Tensor:
    return F.relu(h @ adapter.down.weight.T + adapter.down.bias) @ adapter.up.weight.T + adapter.up.bias


def test_the_stack_puts_the_task_on_the_language() -> None:
    """LN(x + h + U_t relu(D_t l)) with l = h + U_l relu(D_l n), n = LN(x + h). The other order is another function."""
    backbone = attached(MADX(m=4, language_m=4))
    disturb(backbone)
    output = backbone.model.encoder.layer[0].output.eval()
    inner, x = torch.randn(2, 3, 64), torch.randn(2, 3, 32)
    h, norm = output.dense(inner), output.LayerNorm
    n = norm.forward(x + h)

    def stacked(lower: Any, upper: Any) -> torch.Tensor:
        return norm.forward(x + h + _bottleneck(upper, h + _bottleneck(lower, n)))

    stack = norm.madx
    torch.testing.assert_close(output(inner, x), stacked(stack.language, stack.task))
    assert float((output(inner, x) - stacked(stack.task, stack.language)).detach().abs().max()) > 0.05


def test_where_norms_come_first_both_read_the_sub_layers_result() -> None:
    backbone = attached(MADX(m=4, language_m=4), "llama")
    mlp, x = backbone.model.layers[0].mlp, torch.randn(2, 3, 32)
    plain = tiny_backbone("llama").model.layers[0].mlp(x)
    disturb(backbone)
    stack = mlp.down_proj.madx
    torch.testing.assert_close(mlp(x), plain + _bottleneck(stack.task, plain + _bottleneck(stack.language, plain)))


def test_the_language_is_frozen_and_the_task_learns(home: Path) -> None:
    learner = trained(_madx(home), home / "base")
    assert all(".madx.task." in name for name in weights(learner.backbone))
    saved = tempering.load(home / "quechua").backbone
    for mine, theirs in zip(adapted(learner.backbone, "madx"), adapted(saved, "pfeiffer"), strict=True):
        language = mine.language.state_dict()
        assert all(torch.equal(language[n], t) for n, t in theirs.state_dict().items())
    pair = cast(Any, learner.backbone.embeddings).invertible
    assert all(torch.equal(pair.state_dict()[n], t) for n, t in cast(Any, saved.embeddings).invertible.state_dict().items())
    assert not list(pair.parameters()) and len(pair.state_dict()) == 8


def test_without_a_folder_both_learn() -> None:
    backbone = attached(MADX(m=4, language_m=8))
    kinds = {part for name in weights(backbone) for part in ("task", "language", "invertible") if f".{part}." in name}
    assert kinds == {"task", "language", "invertible"}
    assert MADX().identity == "near" and MADX(language="x").identity == "no"


def test_a_missing_language_is_told_before_anything_is_trained() -> None:
    told = "madx: stages.0: no language adapter is given to madx: one is drawn at random and trained along"
    recipe = Recipe.load("madx")
    (note,) = recipe.check()
    assert note.startswith(told) and "set tuning.language=FOLDER" in note
    assert recipe.override({"tuning.language": "x"}).check() == [] == Recipe.load("pfeiffer").check()
    assert any(note.startswith(told) for note in explain(recipe, tiny_backbone()).notes)
    events: list[dict[str, Any]] = []
    learner = fit(recipe.override({"max_steps": 1, "min_steps": 0}), tiny_task(ROWS), tiny_backbone(), listener=events.append)
    assert [e for e in events if e["event"] == "note" and e["text"].startswith(told)]
    assert any(note.startswith(told) for note in learner.record["notes"])
    kept = {"framing": "head", "tuning": MADX(m=4)}
    assert Train(**kept, reuse_tuning="a").check("r: stages.1", last=True) == []
    assert any("no language adapter" in note for note in Train(**kept | {"tuning": [MADX(m=4), "bitfit"]}).check("r: stages.0", last=True))


def test_a_dropped_layer_keeps_its_language() -> None:
    backbone = attached(MADX(m=4, language_m=8, drop_layers=1))
    assert [stack.task is None for stack in adapted(backbone, "madx")] == [True, False]
    disturb(backbone)
    output = backbone.model.encoder.layer[0].output.eval()
    inner, x, norm = torch.randn(2, 3, 64), torch.randn(2, 3, 32), output.LayerNorm
    s = output.dense(inner) + x
    torch.testing.assert_close(output(inner, x), norm.forward(s + _bottleneck(norm.madx.language, norm.forward(s))))


def test_another_language_takes_the_place_of_the_first(home: Path, tmp_path: Path) -> None:
    learner = trained(_madx(home), home / "base")
    first = logits(learner, dev())
    task = {n: t.clone() for n, t in learner.trained().items()}
    speak(learner, str(home / "swahili"))
    assert not torch.equal(logits(learner, dev()), first) and learner.tuning.language == str(home / "swahili")
    assert all(torch.equal(t, task[n]) for n, t in learner.trained().items())
    speak(learner, str(home / "quechua"))
    assert torch.equal(logits(learner, dev()), first)
    with pytest.raises(ModelError, match="no language of a folder to exchange"):
        speak(trained(Pfeiffer(m=4), home / "base"), str(home / "quechua"))


def test_a_saved_model_needs_its_language_folder_no_more(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "quechua", tmp_path / "language")
    learner = trained(_madx(tmp_path, "language"), home / "base")
    learner.save_pretrained(tmp_path / "model")
    shutil.rmtree(tmp_path / "language")
    assert torch.equal(logits(tempering.load(tmp_path / "model"), dev()), logits(learner, dev()))


def test_refusals(home: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nowhere: no tempering.json"):
        trained(_madx(tmp_path, "nowhere"), home / "base")
    with pytest.raises(ModelError, match=r"madx.language: .*, invertible, expected \(8, 'relu'\), invertible; give the fields of madx"):
        trained(_madx(home, language_m=8), home / "base")
    trained(Pfeiffer(reduction=2), home / "base").save_pretrained(tmp_path / "plain")
    with pytest.raises(ModelError, match=r"expected \(16, 'relu'\), invertible"):
        trained(_madx(tmp_path, "plain"), home / "base")
    assert trained(_madx(tmp_path, "plain", invertible=False), home / "base").tuning.count(loaded(home / "base")) == 2 * 292
    save_tiny("bert", tmp_path / "other", seed=1)
    with pytest.raises(ModelError, match="trained on another backbone"):
        trained(_madx(home), tmp_path / "other")
    with pytest.raises(ModelError, match="madx and pfeiffer both put an adapter at"):
        _madx(home, invertible=False).attach(attached(Pfeiffer(m=4)))
