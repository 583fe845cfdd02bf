"""`MaskedLM`: equality with transformers in every encoder family, streams, refusals, and the head's way from stage to stage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional as F

from tempering.backbone import Backbone
from tempering.contracts import Batch, Example, Seeds
from tempering.errors import ModelError, RecipeError
from tempering.framings.lm_head import LMHead, ensure_lm_head, lm_state
from tempering.framings.masked_lm import MaskedLM
from tempering.layouts import Layout
from tempering.pretrained import quiet
from tempering.saving import loads_with
from tempering.stages.train import Train
from tests.tiny import FAMILIES, tiny_backbone, tiny_model, tiny_task, tiny_tokenizer

BatchOf = Callable[[Any, list[Example]], Batch]
REFUSED = ("gpt2", "llama", "qwen2", "t5", "bart")
ENCODERS = [f for f in FAMILIES if f not in REFUSED]


def save_masked_lm(family: str, folder: Path, **options: Any) -> Any:
    """A ForMaskedLM model of the family, saved as transformers saves it."""
    model = tiny_model(family, loader="AutoModelForMaskedLM")
    model.save_pretrained(folder, **options)
    tiny_tokenizer(family).save_pretrained(folder)
    return model


@pytest.mark.parametrize("family", ENCODERS)
@torch.no_grad()
def test_logits_equal_those_of_the_transformers_class(family: str, tmp_path: Path, batch_of: BatchOf, examples: list[Example]) -> None:
    theirs = save_masked_lm(family, tmp_path)
    backbone = Backbone.load(str(tmp_path)).eval()
    module = MaskedLM(0.4).build(None, backbone)
    assert isinstance(backbone.lm_head, LMHead) and not backbone.lm_head.fresh
    batch = batch_of(module, examples)
    positions = batch.extra["positions"]
    expected = theirs(**batch.inputs).logits.flatten(0, 1)[positions]
    scores = module.scores(backbone, batch)
    slab = scores.only
    assert slab.logits.shape == (1, len(positions), len(theirs.get_input_embeddings().weight))
    assert (slab.logits[0] - expected).abs().max() < 1e-5 and expected.std(0).max() > 1e-3
    assert torch.allclose(module.loss(scores, batch), F.cross_entropy(expected, slab.targets), atol=1e-5)
    assert slab.features is not None and slab.features.shape == (len(positions), backbone.embeddings.weight.shape[1])
    assert module.trunk(backbone, batch).shape == (len(positions), 32)
    state, known = lm_state(backbone), theirs.state_dict()
    assert state and all(torch.equal(known[name], weight) for name, weight in state.items())
    body = {name for name in known if name.startswith(f"{theirs.base_model_prefix}.")}
    tied = {name for name in known if name.endswith(("decoder.weight", "decoder.bias", "projector.weight", "generator_lm_head.weight"))}
    assert set(known) - body - tied <= set(state)


def test_a_checkpoint_in_shards(tmp_path: Path) -> None:
    theirs = save_masked_lm("roberta", tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    backbone = Backbone.load(str(tmp_path))
    MaskedLM().build(None, backbone)
    assert torch.equal(lm_state(backbone)["lm_head.dense.weight"], theirs.lm_head.dense.weight)


def test_a_checkpoint_in_the_hubs_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "models--someone--something"
    theirs = save_masked_lm("bert", cache / "snapshots" / "abc")
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    backbone = tiny_backbone("bert")
    backbone.where = "someone/something"
    MaskedLM().build(None, backbone)
    assert torch.equal(lm_state(backbone)["cls.predictions.bias"], theirs.cls.predictions.bias)


def test_names_from_before_2019_are_read(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    theirs = save_masked_lm("bert", tmp_path)
    old = {".weight": ".gamma", ".bias": ".beta"}
    state = load_file(tmp_path / "model.safetensors")
    for name in [n for n in state if n.startswith("cls.predictions.transform.LayerNorm")]:
        stem, leaf = name.rsplit(".", 1)
        state[stem + old[f".{leaf}"]] = state.pop(name)
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    backbone = tiny_backbone("bert")
    backbone.where = str(tmp_path)
    MaskedLM().build(None, backbone)
    assert torch.equal(lm_state(backbone)["cls.predictions.transform.LayerNorm.weight"], theirs.cls.predictions.transform.LayerNorm.weight)


def test_a_head_of_another_vocabulary_is_refused(tmp_path: Path) -> None:
    save_masked_lm("bert", tmp_path)
    backbone = Backbone.load(str(tmp_path))
    backbone.model.resize_token_embeddings(200)
    with pytest.raises(ModelError, match=r"has bias of shape \(192,\), expected \(200,\)"):
        MaskedLM().build(None, backbone)


def test_a_fresh_head_is_tied_learns_and_stays_with_the_backbone(batch_of: BatchOf, examples: list[Example]) -> None:
    backbone = tiny_backbone("bert")
    module = MaskedLM().build(None, backbone)
    head = backbone.lm_head
    assert isinstance(head, LMHead) and head.fresh and head.bias is not None
    assert head.bias.abs().max() == 0 and head.dense.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert sum(p.numel() for p in module.parameters()) == 0
    assert sum(p.numel() for p in head.parameters()) == 32 * 32 + 32 + 2 * 32 + 192
    batch = batch_of(module, examples)
    optimizer = torch.optim.Adam(backbone.parameters(), 1e-2)
    losses = []
    for _ in range(20):
        loss = module.loss(module.scores(backbone, batch), batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0] and losses[0] == pytest.approx(np.log(192), rel=0.1)
    assert MaskedLM().build(None, backbone).trunk_key() == module.trunk_key()
    assert backbone.lm_head is head


def test_a_family_without_a_row_gets_a_generic_head(tmp_path: Path, batch_of: BatchOf, examples: list[Example]) -> None:
    backbone = tiny_backbone("bert")
    backbone.layout = Layout("novel")
    module = MaskedLM().build(None, backbone)
    assert module.scores(backbone, batch_of(module, examples)).only.logits.shape[-1] == 192
    names = {"lm_head.dense.weight", "lm_head.dense.bias", "lm_head.layer_norm.weight", "lm_head.layer_norm.bias", "lm_head.bias"}
    assert set(lm_state(backbone)) == names
    assert lm_state(tiny_backbone("bert")) == {}


def test_masks_differ_between_streams_and_repeat_in_one(examples: list[Example], rng: np.random.Generator) -> None:
    module = MaskedLM().build(None, tiny_backbone("bert"))
    assert not module.deterministic and not MaskedLM().supervised
    prompts = [p[0] for p in module.render(examples * 5, (), rng)]
    first, again, other = (module.collate(prompts, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.inputs["input_ids"], again.inputs["input_ids"])
    assert not torch.equal(first.inputs["input_ids"], other.inputs["input_ids"])
    assert first.targets is not None and again.targets is not None and torch.equal(first.targets, again.targets)
    flat = torch.tensor([i for p in prompts for i in [*p.input_ids, *[0] * (first.inputs["input_ids"].shape[1] - len(p.input_ids))]])
    assert torch.equal(flat[first.extra["positions"]], first.targets)


def test_whole_words(rng: np.random.Generator) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    backbone = tiny_backbone("bert")
    vocab = {t: i for i, t in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "ab", "##cd", "##ef", "x"])}
    core = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    roles = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    backbone.tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, model_max_length=64, **roles)
    module = MaskedLM(0.3, masking="whole_word").build(None, backbone)
    (prompt,), (short,) = module.render([Example(("abcdef x abcd",)), Example(("x",))], (), rng)
    assert list(prompt.input_ids) == [2, 5, 6, 7, 8, 5, 6, 3] and prompt.target == [-1, 0, 0, 0, 1, 2, 2, -1]
    chosen = [set(module.collate([short, prompt], np.random.default_rng(s)).extra["positions"].tolist()) for s in range(60)]
    words = ({1}, {9, 10, 11}, {12}, {13, 14})
    assert all(c == set().union(*(w for w in words if w & c)) for c in chosen)
    assert len({frozenset(c) for c in chosen}) > 6


def test_decode_names_the_likeliest_tokens(batch_of: BatchOf, examples: list[Example]) -> None:
    backbone = tiny_backbone("bert").eval()
    module = MaskedLM().build(None, backbone)
    scores = module.scores(backbone, batch_of(module, examples))
    predictions = module.decode(scores)
    best = backbone.tokenizer.convert_ids_to_tokens(scores.only.logits[0].argmax(-1).tolist())
    assert [p.label for p in predictions] == best
    assert all(len(p.probabilities) == 5 and next(iter(p.probabilities)) == p.label for p in predictions)


@pytest.mark.parametrize("family", REFUSED)
def test_models_that_cannot_fill_masks_are_refused(family: str) -> None:
    with pytest.raises(ModelError, match=f"masked_lm cannot serve tiny-{family}.*choose an encoder"):
        MaskedLM().build(None, tiny_backbone(family))


def test_other_refusals() -> None:
    backbone = tiny_backbone("bert")
    backbone.tokenizer.mask_token = None
    with pytest.raises(ModelError, match="no mask token"):
        MaskedLM().build(None, backbone)
    with pytest.raises(RecipeError, match="add up to more than 1"):
        MaskedLM(mask_share=0.9, random_share=0.2).build(None, tiny_backbone("bert"))
    with pytest.raises(ValidationError, match="greater than 0"):
        MaskedLM(0.0)
    assert backbone.lm_head is None


@pytest.mark.slow
@torch.no_grad()
def test_real_weights_fill_masks_better_than_chance(batch_of: BatchOf) -> None:
    folder = Path(__file__).parents[3] / "shared" / "models" / "minilm-mlm"
    if not folder.exists():
        pytest.skip(f"no real weights at {folder}")
    backbone = Backbone.load(str(folder)).eval()
    module = MaskedLM().build(None, backbone)
    assert isinstance(backbone.lm_head, LMHead) and not backbone.lm_head.fresh
    texts = (
        "The capital of France is a large city with many people and a long history.",
        "He went to the shop to buy some bread and milk.",
    )
    batch = batch_of(module, [Example((t,)) for t in texts * 8])
    assert module.loss(module.scores(backbone, batch), batch).item() < 0.7 * np.log(len(backbone.tokenizer))


@pytest.mark.parametrize("family", ENCODERS)
def test_a_saved_folder_is_one_of_transformers_and_a_model_to_start_from(family: str, tmp_path: Path, examples: list[Example]) -> None:
    from transformers import AutoModelForMaskedLM

    save_masked_lm(family, tmp_path / "base")
    stage = Train(framing=MaskedLM(0.3), text="unlabeled", max_steps=2, learning_rate=1e-2)
    learner = stage.run(Backbone.load(str(tmp_path / "base")), tiny_task(24), Seeds.of(0)).eval()
    learner.save_pretrained(tmp_path / "saved")
    assert loads_with(learner) == ["transformers", "tempering"]
    with quiet():
        theirs = AutoModelForMaskedLM.from_pretrained(tmp_path / "saved").eval()
    inputs = learner.backbone.tokenizer(examples[0].texts[0], return_tensors="pt")
    ids = {"input_ids": inputs["input_ids"]}
    head = ensure_lm_head(learner.backbone)
    with torch.no_grad():
        mine, _ = head(learner.backbone.encode(ids).last, learner.backbone.embeddings.weight)
        assert (theirs(**ids).logits - mine).abs().max() < 1e-4
    again = Backbone.load(str(tmp_path / "saved"))
    MaskedLM().build(None, again)
    assert isinstance(again.lm_head, LMHead) and not again.lm_head.fresh
    assert all(torch.equal(a, b) for a, b in zip(again.lm_head.state_dict().values(), head.state_dict().values(), strict=True))
    assert all(torch.equal(again.model.state_dict()[n], t) for n, t in learner.backbone.model.state_dict().items())


def test_the_head_of_a_classifier_is_no_head_for_words(tmp_path: Path) -> None:
    """ModernBERT calls the dense map of both by one name, and the bias over the vocabulary alone tells them apart."""
    train = Train(max_steps=1, learning_rate=1e-3, eval_strategy="no")
    learner = train.run(tiny_backbone("modernbert"), tiny_task(8), Seeds.of(0))
    learner.save_pretrained(tmp_path)
    assert ensure_lm_head(Backbone.load(str(tmp_path))).fresh
    save_masked_lm("modernbert", tmp_path / "words")
    assert not ensure_lm_head(Backbone.load(str(tmp_path / "words"))).fresh


def test_a_head_that_lacks_its_bias_alone_is_the_pretrained_one(tmp_path: Path) -> None:
    """As transformers reads it: the bias is zero, all else from the checkpoint. One that lacks more is drawn."""
    from safetensors.torch import load_file, save_file

    theirs = save_masked_lm("bert", tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    for gone in ("cls.predictions.bias", "cls.predictions.transform.dense.weight"):
        save_file({n: t for n, t in state.items() if n not in (gone, "cls.predictions.decoder.bias")}, tmp_path / "model.safetensors")
        backbone = Backbone.load(str(tmp_path))
        head = ensure_lm_head(backbone)
        assert head.bias is not None and not head.bias.any() and head.fresh == gone.endswith("dense.weight")
        assert torch.equal(head.dense.weight, theirs.cls.predictions.transform.dense.weight) != head.fresh
