"""Calibration inside a verbalizer."""

from __future__ import annotations

import pytest
import torch

from tempering.contracts import Example
from tempering.errors import DataError, RecipeError
from tempering.framings.asked.calibration import additive, content_free, diagonal
from tempering.framings.verbalizers.calibrated import Calibrated
from tempering.framings.verbalizers.manual import Manual
from tempering.framings.verbalizers.multi_mask import MultiMask
from tempering.streams import numpy_stream
from tests.framings.verbalizers.shared import LONGER, learner_of, ready, scores_of
from tests.tiny import tiny_task

P = torch.tensor([[0.6, 0.3, 0.1]]).log()
PLACEHOLDERS = torch.tensor([[0.5, 0.3, 0.2], [0.7, 0.2, 0.1], [0.6, 0.25, 0.15]]).log()


def module_with(prior: torch.Tensor) -> torch.nn.Module:
    """A calibrated verbalizer over three classes, one word each, with this log p_cf."""
    from types import SimpleNamespace

    from tests.tiny import tiny_backbone

    task = SimpleNamespace(kind="classification", labels=("a", "b", "c"))
    module = Calibrated().build(task, tiny_backbone(), {"a": ("good",), "b": ("bad",), "c": ("dull",)})
    module.log_prior.copy_(prior)
    return module


def test_g1() -> None:
    prior = content_free(PLACEHOLDERS)
    assert prior.exp().tolist() == pytest.approx([0.6, 0.25, 0.15], abs=1e-6)
    found = module_with(prior)(P.unsqueeze(1))
    assert found.softmax(-1)[0].tolist() == pytest.approx([0.3488, 0.4186, 0.2326], abs=5e-5)
    assert (int(P.argmax()), int(found.argmax())) == (0, 1)
    ratio = (P - prior).exp()[0].tolist()
    assert ratio == pytest.approx([1.0, 1.2, 0.6667], abs=5e-5)
    assert additive(P, prior)[0].tolist() == pytest.approx([0.0, 0.05, -0.05], abs=1e-6)


def test_an_even_prior_changes_nothing_and_a_content_free_input_comes_out_even() -> None:
    scores = torch.randn(4, 1, 3)
    torch.testing.assert_close(module_with(torch.zeros(3))(scores), scores[:, 0].log_softmax(-1))
    torch.testing.assert_close(module_with(P[0])(P.unsqueeze(1)).softmax(-1), torch.full((1, 3), 1 / 3))


def test_calibrating_by_what_is_calibrated_already_is_the_identity() -> None:
    chances, prior = torch.randn(6, 3).log_softmax(-1), torch.randn(3).log_softmax(-1)
    once = diagonal(chances, prior)
    torch.testing.assert_close(diagonal(once, content_free(diagonal(prior.unsqueeze(0), prior))), once)


def test_a_prior_of_1e_30_divides_as_any_other() -> None:
    tiny = torch.tensor([1.0, 1e-30]).log()
    assert diagonal(torch.tensor([[0.5, 0.5]]).log(), tiny)[0, 0] == pytest.approx(torch.tensor(1e-30).log().item(), rel=1e-5)
    assert diagonal(tiny.unsqueeze(0), tiny).exp()[0].tolist() == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize("inner", [Manual("mean_prob"), MultiMask("parallel")])
def test_the_asked_input_is_even_on_a_model(inner: object) -> None:
    learner, _ = ready(Calibrated(inner, inputs=("N/A",)), LONGER)
    asked = scores_of(learner, [Example(("N/A",))]).softmax(-1)
    torch.testing.assert_close(asked, torch.full((1, 2), 0.5), atol=1e-5, rtol=1e-5)


def test_of_several_inputs_the_prior_is_their_mean() -> None:
    inputs = ("N/A", "", "the film")
    learner, examples = ready(Calibrated(Manual(), inputs=inputs))
    plain = scores_of(learner_of(Manual()), [Example((text,)) for text in inputs]).softmax(-1).mean(0)
    torch.testing.assert_close(learner.framing.verbalizer.log_prior.exp(), plain, atol=1e-6, rtol=1e-5)
    expected = diagonal(scores_of(learner_of(Manual()), examples).log_softmax(-1), plain.log())
    torch.testing.assert_close(scores_of(learner, examples), expected, atol=1e-5, rtol=1e-5)


def test_support_takes_training_texts_and_no_labels() -> None:
    learner, examples = ready(Calibrated(Manual(), by="support"))
    plain = scores_of(learner_of(Manual()), examples).softmax(-1).mean(0)
    torch.testing.assert_close(learner.framing.verbalizer.log_prior.exp(), plain, atol=1e-6, rtol=1e-5)
    few, _ = ready(Calibrated(Manual(), by="support", rows=3))
    assert not torch.allclose(few.framing.verbalizer.log_prior, learner.framing.verbalizer.log_prior)


def test_when_says_which_model_is_asked() -> None:
    examples = tiny_task(12).train.examples
    for when, moved in (("before", (True, True)), ("after", (False, True))):
        module = learner_of(Calibrated(Manual(), when=when)).framing.verbalizer  # type: ignore[arg-type]
        learner = learner_of(Manual())
        learner.framing.verbalizer = module
        module.prepare(learner, examples, numpy_stream(0))
        assert bool(module.log_prior.any()) is moved[0]
        module.finish(learner, examples, numpy_stream(0))
        assert bool(module.log_prior.any()) is moved[1]


def test_an_input_in_every_slot_of_a_pair() -> None:
    module = learner_of(Calibrated()).framing.verbalizer
    asked = module._asked([Example(("a", "b"), "good")], numpy_stream(0))
    assert [e.texts for e in asked] == [("N/A", "N/A"), ("", ""), ("[MASK]", "[MASK]")]


def test_what_cannot_be_asked_is_refused() -> None:
    with pytest.raises(RecipeError, match="by=content_free needs inputs"):
        learner_of(Calibrated(inputs=()))
    learner = learner_of(Calibrated())
    with pytest.raises(DataError, match="found none"):
        learner.framing.verbalizer.finish(learner, [], numpy_stream(0))
    with pytest.raises(ValueError, match="expected a verbalizer"):
        Calibrated(Manual)
