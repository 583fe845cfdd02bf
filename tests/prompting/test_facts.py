"""Fact probes: ranks equal to those of the whole model's logits at the mask, objects of several tokens left out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tempering.backbone import Backbone
from tempering.errors import ModelError, RecipeError
from tempering.prompting.facts import Fact, lama, probe_facts
from tests.framings.test_masked_lm import save_masked_lm
from tests.tiny import tiny_model, tiny_tokenizer


@torch.no_grad()
def test_ranks_are_those_of_the_model(tmp_path: Path) -> None:
    theirs = save_masked_lm("bert", tmp_path).eval()
    backbone = Backbone.load(str(tmp_path))
    facts = [Fact("the film", "good"), Fact("room", "dark"), Fact("a very long story", "sad"), Fact("it", "very good"), Fact("it", "zzz")]
    found = probe_facts(backbone, "[X] was [Y] .", facts)
    encode = backbone.tokenizer.convert_tokens_to_ids
    expected = []
    for subject, answer in facts[:3]:
        ids = encode(["[CLS]", *subject.split(), "was", "[MASK]", "[UNK]", "[SEP]"])
        row = theirs(input_ids=torch.tensor([ids])).logits[0, -3]
        expected.append(1 + int((row > row[encode(answer)]).sum()))
    assert list(found.ranks) == expected and (found.facts, found.left_out) == (3, 2)
    assert found.p_at_1 == pytest.approx(sum(r == 1 for r in expected) / 3) and found.mrr == pytest.approx(sum(1 / r for r in expected) / 3)
    few = probe_facts(backbone, "[X] was [Y] .", facts[:3], allowed=("good", "dark", "sad"))
    assert max(few.ranks) <= 3 and few.p_at_10 == 1


def test_probes_need_a_subject_and_an_object(tmp_path: Path) -> None:
    save_masked_lm("bert", tmp_path)
    backbone = Backbone.load(str(tmp_path))
    assert lama("[X] is in [Y].") == "{text} is in {mask}."
    for wrong in ("[X] is here", "it is [Y]"):
        with pytest.raises(RecipeError, match="one subject and one object"):
            probe_facts(backbone, wrong, [Fact("a", "good")])
    with pytest.raises(RecipeError, match="none of the 1 objects"):
        probe_facts(backbone, "[X] is [Y]", [Fact("a", "very good")])


@torch.no_grad()
def test_a_model_that_reads_from_left_to_right_names_what_comes_next(tmp_path: Path) -> None:
    theirs = tiny_model("gpt2", loader="AutoModelForCausalLM").eval()
    theirs.save_pretrained(tmp_path)
    tiny_tokenizer("gpt2").save_pretrained(tmp_path)
    backbone = Backbone.load(str(tmp_path))
    (rank,) = probe_facts(backbone, "[X] was [Y]", [Fact("the film", "good")]).ranks
    row = theirs(**backbone.tokenizer("the film was", return_tensors="pt", return_token_type_ids=False)).logits[0, -1]
    assert rank == 1 + int((row > row[backbone.tokenizer.convert_tokens_to_ids("good")]).sum())
    with pytest.raises(ModelError, match="reads from left to right"):
        probe_facts(backbone, "[X] was [Y] .", [Fact("the film", "good")])
