"""KPT: candidates, refinements, priors, shares."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tempering.errors import DataError, RecipeError
from tempering.framings.verbalizers.base import token_logits, unlabeled
from tempering.framings.verbalizers.kpt import Knowledgeable
from tempering.framings.verbalizers.manual import Manual, owner_of
from tempering.framings.verbalizers.related import read_words, relevance
from tempering.streams import numpy_stream
from tests.framings.verbalizers.shared import learner_of, ready, scores_of
from tests.tiny import NEGATIVE, POSITIVE, tiny_backbone, tiny_task

MANY = {"bad": ("awful", *NEGATIVE), "good": ("great", *POSITIVE)}
PLAIN = {"frequency": 0.0, "relevance": "none", "calibrate": False}
LABELS = ("bad", "good")


def names(learner: Any) -> dict[str, list[str]]:
    return learner.framing.verbalizer.staying()  # type: ignore[no-any-return]


def test_unrefined_it_is_the_manual_verbalizer_and_equal_shares_are_the_mean_of_log_probabilities() -> None:
    for mine, theirs in (("mean_prob", "mean_prob"), ("weighted", "mean_logprob_over_words")):
        learner, examples = ready(Knowledgeable(aggregation=mine, **PLAIN), MANY)
        expected = scores_of(learner_of(Manual(theirs), MANY), examples)  # type: ignore[arg-type]
        torch.testing.assert_close(scores_of(learner, examples), expected, atol=1e-5, rtol=1e-5)


def test_calibration_divides_each_word_by_its_mean_probability_over_the_texts() -> None:
    value = Knowledgeable(frequency=0.0, relevance="none", rows=12)
    learner, examples = ready(value, MANY)
    module = learner.framing.verbalizer
    chances = token_logits(learner, unlabeled(examples), numpy_stream(0)).softmax(-1)[:, list(module.ids)]
    ratio = chances / chances.mean(0)
    ratio = ratio / ratio.sum(-1, keepdim=True)
    count = len(set(MANY["bad"]))
    expected = torch.stack([ratio[:, :count].mean(-1), ratio[:, count:].mean(-1)], -1).log()
    torch.testing.assert_close(scores_of(learner, examples), expected, atol=1e-5, rtol=1e-4)


def test_frequency_drops_words_of_the_lowest_share_of_the_vocabulary() -> None:
    value = Knowledgeable(frequency=0.4, relevance="none", rows=12)
    learner, examples = ready(value, MANY)
    mean = token_logits(learner, unlabeled(examples), numpy_stream(0)).mean(0)
    rank = mean.argsort().argsort().float() / len(mean)
    vocab = learner.backbone.tokenizer.vocab
    expected = {c: [w for w in dict.fromkeys(words) if rank[vocab[w]] >= 0.4 - 1 / len(mean)] for c, words in MANY.items()}
    assert names(learner) == expected
    assert 0 < sum(map(len, expected.values())) < len({*POSITIVE, *NEGATIVE})


def test_relevance_by_hand() -> None:
    owner = owner_of([2, 1, 1])
    shown = torch.tensor([[1.0, 0.9, 0.0, 0.1], [0.1, 0.3, 1.0, 0.0], [0.0, 0.2, 0.2, 1.0]])
    unit = shown / shown.norm(dim=0)
    near = unit.T @ unit[:, [0, 2, 3]]
    log = relevance(shown, owner, "log")
    assert float(log[1]) == pytest.approx(float(near[1, 0] * math.log(2 / (near[1, 1] + near[1, 2]))), rel=1e-5)
    p = 1 + 10 / (3 - 2 + 0.01)
    ratio = relevance(shown, owner, "ratio")
    others = near[1, 1:]
    assert float(ratio[1]) == pytest.approx(float(near[1, 0] / ((others**p).mean() ** (1 / p))), rel=1e-4)


@pytest.mark.parametrize("classes", [2, 3, 6])
def test_under_ratio_first_words_stay_and_words_of_another_class_go(classes: int) -> None:
    torch.manual_seed(0)
    centers = torch.randn(40, classes)
    mine = torch.cat([torch.stack([centers[:, c], centers[:, (c + 1) % classes]], -1) for c in range(classes)], -1)
    found = relevance(mine + 0.01 * torch.randn_like(mine), owner_of([2] * classes), "ratio")
    assert (found[::2] >= 1).all() and (found[1::2] < 1).all()


def test_a_class_without_words_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"relevance=log leave none of the 8 words of class '(bad|good)'; lower frequency or least"):
        ready(Knowledgeable(relevance="log", least=50.0), MANY)
    learner = learner_of(Knowledgeable(), MANY)
    with pytest.raises(DataError, match="at least 2, found 0"):
        learner.framing.verbalizer.prepare(learner, [], numpy_stream(0))


def test_temperature_acts_in_use_only() -> None:
    learner, _ = ready(Knowledgeable(aggregation="weighted", temperature=3.0, **PLAIN), MANY)
    module = learner.framing.verbalizer
    module.weights.data = torch.randn(module.owner.shape[1])
    words = torch.randn(4, module.owner.shape[1])
    used = module.eval().aggregated(words)
    trained = module.train().aggregated(words)
    module.weights.data *= 3.0
    torch.testing.assert_close(module.aggregated(words), used)
    assert not torch.allclose(trained, used)


def table_of(value: Knowledgeable, words: Any, labels: tuple[Any, ...] = LABELS) -> list[list[str]]:
    task = SimpleNamespace(kind="classification", labels=labels, train=[1])
    module = value.build(task, tiny_backbone(), words)
    return [[module.coder.pieces(word) for word in row] for row in module.table]


def test_candidates() -> None:
    words = {"bad": ("awful", "dull", "snowy", "good"), "good": ("great", "dull", "very fine", "Great", "good")}
    assert table_of(Knowledgeable(), words) == [["awful"], ["great"]]  # shared, unknown, repeated and long words are dropped
    assert table_of(Knowledgeable(max_pieces=None), words) == [["awful"], ["great", "very, fine"]]
    shared = {"bad": ("awful", "great"), "good": ("great", "fine")}
    assert table_of(Knowledgeable(), shared) == [["awful"], ["great", "fine"]]  # first words stay where they are first
    with pytest.raises(RecipeError, match="two classes have the same first word"):
        table_of(Knowledgeable(), {"bad": ("great",), "good": ("great",)})
    with pytest.raises(RecipeError, match="none of the words of class 'bad' has at most 1 pieces"):
        table_of(Knowledgeable(), {"bad": ("very dull",), "good": ("great",)})


def test_words_from_files(tmp_path: Path) -> None:
    given = {"bad": ["awful", "dull"], "good": ["great"]}
    (tmp_path / "a.json").write_text(json.dumps(given))
    (tmp_path / "b.yaml").write_text("bad: awful, dull\ngood: [great]\n")
    (tmp_path / "c.txt").write_text("awful, dull\n\ngreat\n")
    for name in ("a.json", "b.yaml", "c.txt"):
        assert read_words(str(tmp_path / name), LABELS) == {"bad": ("awful", "dull"), "good": ("great",)}
    (tmp_path / "keys.yaml").write_text("true: great\nfalse: [awful, dull]\n")
    assert read_words(str(tmp_path / "keys.yaml"), ("false", "true")) == {"false": ("awful", "dull"), "true": ("great",)}
    found = table_of(Knowledgeable(file=str(tmp_path / "a.json")), {"bad": ("poor",), "good": ("fine",)})
    assert found == [["poor", "awful", "dull"], ["fine", "great"]]


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("a.json", '{"bad": ["awful"]}', "has no words for class 'good'"),
        ("a.json", '{"bad": ["awful"], "good": ["great"], "so": ["so"]}', "has words for 'so'"),
        ("a.json", "[1]", "found list"),
        ("a.yaml", "bad: [", "not readable"),
        ("a.txt", "awful\n", "expected 2 lines of words, one a class in the order bad, good, found 1"),
        ("none.json", None, "cannot be read"),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path: Path, name: str, text: str | None, complaint: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=complaint):
        read_words(str(tmp_path / name), LABELS)


def test_a_saved_verbalizer_needs_the_file_no_more(tmp_path: Path) -> None:
    file = tmp_path / "words.txt"
    file.write_text(", ".join(NEGATIVE) + "\n" + ", ".join(POSITIVE) + "\n")
    value = Knowledgeable(str(file), frequency=0.1, relevance="none", aggregation="weighted", rows=12)
    learner, examples = ready(value, {"bad": ("poor",), "good": ("fine",)})
    before, module = scores_of(learner, examples), learner.framing.verbalizer
    kept, state = json.loads(json.dumps(module.keep())), module.state_dict()
    file.unlink()
    stub = SimpleNamespace(kind="classification", labels=LABELS, train=())
    again = value.build(stub, learner.backbone, {"bad": ("poor",), "good": ("fine",)})
    again.recall(kept)
    again.load_state_dict(state)
    learner.framing.verbalizer = again
    torch.testing.assert_close(scores_of(learner, examples), before, atol=0, rtol=0)
    assert set(kept["words"]) == {"bad", "good"} and kept["words"] == names(learner)


def test_support_rows_are_drawn_by_the_stream_given() -> None:
    value = Knowledgeable(frequency=0.0, relevance="none", rows=4)
    priors = []
    for seed in (0, 0, 1):
        learner = learner_of(value, MANY)
        learner.framing.verbalizer.prepare(learner, tiny_task(24).train.examples, numpy_stream(seed))
        priors.append(learner.framing.verbalizer.log_prior)
    assert torch.equal(priors[0], priors[1]) and not torch.equal(priors[0], priors[2])
