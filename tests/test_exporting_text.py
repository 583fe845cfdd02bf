"""Adapters of framings that read the language-model head: PEFT puts them on transformers' class with that head and says what we say."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file

import tempering
from tempering import exporting_text
from tempering.backbone import Backbone
from tempering.exporting import PROBES, write_adapter
from tempering.framings.causal_lm import CausalLM
from tempering.framings.cloze import Cloze
from tempering.framings.masked_lm import MaskedLM
from tempering.framings.text_to_text import TextToText
from tempering.framings.token_head import TokenHead
from tempering.learner import Learner
from tempering.pretrained import quiet
from tempering.readme import NAME
from tempering.restoring import META
from tempering.saving import form_of, loads_with
from tempering.stages.setup import assemble
from tempering.tunings.dora import DoRA
from tempering.tunings.ia3 import IA3
from tempering.tunings.lora import LoRA
from tests.laws.bench import SEEDS, dev, logits, stage_of
from tests.tiny import save_tiny, tiny_model, tiny_task, tiny_tokenizer
from tests.tunings.oracle import stir

CLOZE = Cloze("{text} it was {mask}", words=("bad", "good"))
KINDS = {CausalLM: "text"}
slow = pytest.mark.slow
AUTO = {"CAUSAL_LM": "AutoModelForCausalLM", "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM", None: "AutoModelForMaskedLM"}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bases")
    for family in ("bert", "roberta", "albert", "gpt2", "llama", "t5", "bart"):
        save_tiny(family, folder / family)
    tiny_model("bert", loader="AutoModelForMaskedLM").save_pretrained(folder / "filling")  # its checkpoint holds the head
    tiny_tokenizer("bert").save_pretrained(folder / "filling")
    return folder


def tuned(where: Path, framing: Any, tuning: Any) -> Learner:
    """A learner all of whose trained weights were moved, as it stands at the end of a run."""
    backbone = Backbone.load(str(where))
    if hasattr(framing, "opens"):
        framing.opens(backbone)
    backbone.base_fingerprint = backbone.fingerprint()
    learner = assemble(stage_of(tuning, framing=framing), backbone, tiny_task(16, KINDS.get(type(framing), "classification")), SEEDS)
    stir(learner.backbone)
    return learner.eval()


@torch.no_grad()
def says(learner: Learner, model: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of the vocabulary by another library's ``model``, and those that our body and head make."""
    backbone, head = learner.backbone, learner.backbone.lm_head
    inputs: Any = dict(backbone.tokenizer(list(PROBES), padding=True, return_tensors="pt"))
    ids = inputs["input_ids"]
    assert head is not None
    if backbone.opened:
        states = backbone.decoded(ids, backbone.memory(inputs), inputs["attention_mask"])
        return model.eval()(**inputs, decoder_input_ids=ids).logits, head(states, backbone.embeddings.weight)[0]
    return model.eval()(**inputs).logits, head(backbone.encode(inputs).last, backbone.embeddings.weight)[0]


def by_readme(folder: Path) -> Any:
    """The model that the README's lines for PEFT give, none of its adapter's names unknown to it."""
    text = (folder / NAME).read_text(encoding="utf-8").replace("path/to/this/folder", str(folder))
    code = re.search(r"With peft:\n\n```python\n(.*?)```", text, flags=re.S)
    assert code is not None
    made: dict[str, Any] = {}
    with quiet(), warnings.catch_warnings():
        warnings.filterwarnings("error", message="Found missing adapter keys")
        exec(code.group(1), made)
    return made["model"]


@pytest.mark.parametrize(
    ("family", "framing", "tuning", "kind"),
    [
        ("gpt2", CausalLM(), LoRA(r=2), "CAUSAL_LM"),
        ("llama", CausalLM(), LoRA(r=2), "CAUSAL_LM"),  # its output matrix is its own, and trained
        pytest.param("gpt2", TextToText(), IA3(), "CAUSAL_LM", marks=slow),
        pytest.param("llama", TextToText(), LoRA(r=2), "CAUSAL_LM", marks=slow),
        ("llama", TextToText(), DoRA(r=2), "CAUSAL_LM"),
        ("t5", TextToText(), LoRA(r=2), "SEQ_2_SEQ_LM"),
        ("t5", TextToText(), IA3(), "SEQ_2_SEQ_LM"),
        ("bart", TextToText(), LoRA(r=2), "SEQ_2_SEQ_LM"),
        pytest.param("bart", TextToText(answers="trie"), DoRA(r=2), "SEQ_2_SEQ_LM", marks=slow),
        ("bert", CLOZE, LoRA(r=2), None),
        pytest.param("filling", CLOZE, IA3(), None, marks=slow),
        ("bert", MaskedLM(), LoRA(r=2), None),
        ("filling", MaskedLM(), DoRA(r=2), None),
        pytest.param("roberta", MaskedLM(), IA3(), None, marks=slow),
        ("albert", CLOZE, LoRA(r=2, target_modules=("attention_out",)), None),  # a map of its head has the target's name
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_peft_says_what_we_say(family: str, framing: Any, tuning: Any, kind: str | None, bases: Path, tmp_path: Path) -> None:
    learner = tuned(bases / family, framing, tuning)
    learner.save_pretrained(tmp_path)
    assert form_of(learner) == "peft" and loads_with(learner) == ["peft", "tempering"]
    assert json.loads((tmp_path / "adapter_config.json").read_text())["task_type"] == kind
    assert f"{AUTO[kind]}.from_pretrained(" in (tmp_path / NAME).read_text()
    model = by_readme(tmp_path)
    theirs, mine = says(learner, model)
    torch.testing.assert_close(theirs, mine, rtol=1e-4, atol=1e-4)
    with model.disable_adapter():
        assert (says(learner, model)[0] - mine).abs().max() > 1e-2  # so an adapter that is not read would be seen
    back = tempering.load(tmp_path)
    rows = dev(KINDS.get(type(framing), "classification"))
    assert torch.equal(logits(back, rows), logits(learner, rows)) and form_of(back) == "peft"


@torch.no_grad()
def test_a_cloze_is_scored_by_the_words_that_peft_puts_at_the_mask(bases: Path, tmp_path: Path) -> None:
    learner = tuned(bases / "bert", CLOZE, LoRA(r=2))
    learner.save_pretrained(tmp_path)
    batch = learner.framing.collate([p[0] for p in learner.framing.render(dev(), (), np.random.default_rng(0))], np.random.default_rng(0))
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    at_mask = by_readme(tmp_path).eval()(**batch.inputs).logits[batch.inputs["input_ids"] == tokenizer.mask_token_id]
    words = at_mask[:, tokenizer.convert_tokens_to_ids(["bad", "good"])]
    torch.testing.assert_close(words, logits(learner, dev())[0], rtol=1e-4, atol=1e-4)
    assert "only `tempering.load` restores" in (tmp_path / NAME).read_text()


def test_of_the_head_only_what_moved_is_stored_and_never_the_vocabulary(bases: Path, tmp_path: Path) -> None:
    """A cloze leaves the head of its checkpoint alone; masked_lm trains it; what is tied to the embeddings stays with them."""
    for name, framing in (("still", CLOZE), ("moved", MaskedLM())):
        tuned(bases / "filling", framing, LoRA(r=2)).save_pretrained(tmp_path / name)
    still, moved = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("still", "moved"))
    assert all(".lora_" in name for name in still)
    head = "base_model.model.cls.predictions."
    more = {f"transform.{part}.{kind}" for part in ("dense", "LayerNorm") for kind in ("weight", "bias")} | {"bias"}
    assert {n.removeprefix(head) for n in moved.keys() - still.keys()} == more
    saved = json.loads((tmp_path / "moved" / "adapter_config.json").read_text())["modules_to_save"]
    assert saved == ["cls.predictions.transform.LayerNorm", "cls.predictions.transform.dense"]


def test_a_base_that_an_earlier_stage_changed_is_saved_along(bases: Path, tmp_path: Path) -> None:
    learner = tuned(bases / "llama", TextToText(), LoRA(r=2))
    assert learner.backbone.lm_head is not None
    with torch.no_grad():
        for weight in (learner.backbone.embeddings.get_parameter("weight"), *learner.backbone.lm_head.parameters()):
            weight.mul_(1.5)
    learner.backbone.changed = True
    learner.save_pretrained(tmp_path / "a")
    shutil.move(tmp_path / "a", tmp_path / "b")
    theirs, mine = says(learner, by_readme(tmp_path / "b"))
    torch.testing.assert_close(theirs, mine, rtol=1e-4, atol=1e-4)
    assert torch.equal(says(tempering.load(tmp_path / "b"), by_readme(tmp_path / "b"))[1], mine)


def test_what_peft_could_not_read_is_a_delta(bases: Path, tmp_path: Path) -> None:
    """Embeddings trained whole would not reach the output matrix that is tied to them; and a base in memory has no place."""
    learner = tuned(bases / "bert", CLOZE, LoRA(r=2, modules_to_save=("word_embeddings",)))
    assert form_of(learner) == "delta" and loads_with(learner) == ["tempering"]
    learner.save_pretrained(tmp_path)
    assert torch.equal(logits(tempering.load(tmp_path), dev()), logits(learner, dev()))
    learner = tuned(bases / "bert", CLOZE, LoRA(r=2))
    learner.backbone.where = ""
    assert form_of(learner) == "delta"


def test_trained_vectors_in_a_template_are_read_by_tempering_alone(bases: Path) -> None:
    learner = tuned(bases / "bert", Cloze("{text} {soft} {mask}", words=("bad", "good")), LoRA(r=2))
    assert form_of(learner) == "peft" and loads_with(learner) == ["tempering"]


def test_an_adapter_that_peft_reads_otherwise_is_refused(bases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting_text, "stem_of", lambda model: "")  # the names of the bare body
    with pytest.raises(tempering.ModelError, match="a reload by peft scores differently"):
        tuned(bases / "bert", CLOZE, LoRA(r=2)).save_pretrained(tmp_path)


@pytest.mark.parametrize(("family", "framing"), [("bert", CLOZE), ("gpt2", CausalLM())])
def test_folders_of_earlier_releases_load(family: str, framing: Any, bases: Path, tmp_path: Path) -> None:
    """Those hold the names of the bare body and say nothing of a prefix."""
    learner = tuned(bases / family, framing, LoRA(r=2))
    learner.save_pretrained(tmp_path)
    write_adapter(learner, tmp_path, "", "FEATURE_EXTRACTION", [], {})
    meta = json.loads((tmp_path / META).read_text())
    del meta["prefix"]
    (tmp_path / META).write_text(json.dumps(meta))
    rows = dev(KINDS.get(type(framing), "classification"))
    assert torch.equal(logits(tempering.load(tmp_path), rows), logits(learner, rows))


def test_a_head_of_the_family_counts_where_the_family_has_none_for_texts(bases: Path, tmp_path: Path) -> None:
    """T5 has a class for tokens and none of ours for whole texts: what the framing has decides."""
    backbone = Backbone.load(str(bases / "t5"))
    backbone.base_fingerprint = backbone.fingerprint()
    learner = assemble(stage_of(LoRA(r=2), framing=TokenHead()), backbone, tiny_task(16, "tagging"), SEEDS)
    stir(learner.backbone)
    learner.eval().save_pretrained(tmp_path)
    assert loads_with(learner) == ["peft", "tempering"]
    assert torch.equal(logits(tempering.load(tmp_path), dev("tagging")), logits(learner, dev("tagging")))
    assert form_of(tuned(bases / "t5", stage_of().framing, LoRA(r=2))) == "delta"
