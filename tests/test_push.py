"""Uploading: the hub gets the very folder that `save_pretrained` writes, and a refusal of the hub is one sentence."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch

from tempering.errors import ModelError
from tempering.fitting import fit
from tempering.learner import Learner
from tempering.recipe import Recipe
from tempering.saving import load
from tempering.tunings.lora import LoRA
from tests.laws.bench import dev, logits, stage_of
from tests.tiny import save_tiny, tiny_task


@pytest.fixture
def learner(tmp_path: Path) -> Learner:
    return fit(Recipe("small", (stage_of(LoRA(r=2)),)), tiny_task(24), str(save_tiny("bert", tmp_path / "base")), seed=0)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """A hub that keeps what it is given under ``tmp_path`` and notes how the repository was asked for."""
    seen: dict[str, Any] = {"folder": tmp_path / "hub"}

    class Api:
        def create_repo(self, repo_id: str, private: bool | None, exist_ok: bool) -> str:
            seen["repo"] = (repo_id, private, exist_ok)
            return f"https://hub.example/{repo_id}"

        def upload_folder(self, repo_id: str, folder_path: str) -> None:
            assert seen["repo"][0] == repo_id
            shutil.copytree(folder_path, seen["folder"])

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    return seen


def test_the_hub_gets_the_folder_that_is_saved(learner: Learner, hub: dict[str, Any], tmp_path: Path) -> None:
    assert learner.push_to_hub("me/topics", private=True) == "https://hub.example/me/topics"
    assert hub["repo"] == ("me/topics", True, True)
    learner.save_pretrained(tmp_path / "saved")
    names = {p.name: p.read_bytes() for p in (tmp_path / "saved").iterdir() if p.is_file()}
    assert {p.name: p.read_bytes() for p in hub["folder"].iterdir() if p.is_file()} == names
    assert torch.equal(logits(load(hub["folder"]), dev()), logits(learner, dev()))


def test_merged_it_is_a_model_without_an_adapter(learner: Learner, hub: dict[str, Any]) -> None:
    before = logits(learner, dev())
    learner.push_to_hub("me/topics", merge=True)
    assert not (hub["folder"] / "adapter_config.json").exists() and (hub["folder"] / "model.safetensors").exists()
    torch.testing.assert_close(logits(load(hub["folder"]), dev()), before, rtol=1e-5, atol=1e-5)


def test_a_refusal_of_the_hub_says_what_to_do(learner: Learner, monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed:
        def create_repo(self, repo_id: str, private: bool | None, exist_ok: bool) -> str:
            raise OSError("401 Client Error: Unauthorized\nand more")

    monkeypatch.setattr(huggingface_hub, "HfApi", Closed)
    with pytest.raises(ModelError, match=r"push_to_hub me/topics: 401 Client Error: Unauthorized; log in with  hf auth login"):
        learner.push_to_hub("me/topics")


def test_a_name_that_cannot_be_one_is_refused_before_anything_is_sent(learner: Learner) -> None:
    with pytest.raises(ModelError, match=r"push_to_hub my topics: .* check the name"):
        learner.push_to_hub("my topics")
