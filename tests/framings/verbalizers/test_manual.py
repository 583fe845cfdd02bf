"""Label words, their aggregation and their refusals."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from tempering.errors import RecipeError
from tempering.framings.verbalizers.aggregate import PLAIN, Aggregation, label_nll, of_pieces, weighted
from tempering.framings.verbalizers.manual import Manual, owner_of
from tempering.framings.verbalizers.words import WordCoder
from tests.framings.verbalizers.shared import LONGER, learner_of, scores_of
from tests.tiny import tiny_backbone, tiny_task

TASK = SimpleNamespace(kind="classification", labels=("bad", "good"))
G12 = torch.tensor([[1.0, 3.0, 2.0]])
OWNER = owner_of([2, 1])


def test_g11_label_nll() -> None:
    assert float(label_nll(torch.tensor([[1.0, 2.0, 3.0, 0.5]]), torch.tensor([1, 2]))) == pytest.approx(0.147512, abs=5e-7)


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("mean_logit", (2.0, 2.0)),
        ("mean_logprob_over_words", (-1.40761, -1.40761)),
        ("mean_prob", (-0.97383, -1.40761)),
        ("sum_prob", (math.log(0.75527), math.log(0.24473))),
        ("max", (math.log(math.exp(3) / 30.19288), math.log(0.24473))),
    ],
)
def test_g12_aggregations(how: Aggregation, expected: tuple[float, float]) -> None:
    assert PLAIN[how](G12, OWNER)[0].tolist() == pytest.approx(expected, abs=2e-5)


def test_equal_weights_are_the_mean_of_log_probabilities_and_large_ones_choose() -> None:
    words, owner = torch.randn(5, 7), owner_of([3, 4])
    torch.testing.assert_close(weighted(words, owner, torch.zeros(7)), PLAIN["mean_logprob_over_words"](words, owner))
    chosen = weighted(words, owner, torch.tensor([0.0, 50, 0, 0, 0, 0, 50]))
    torch.testing.assert_close(chosen, words.log_softmax(-1)[:, [1, 6]], atol=1e-5, rtol=1e-5)


def test_mean_logit_and_mean_log_probability_give_the_same_class_probabilities() -> None:
    words, owner = torch.randn(5, 7), owner_of([3, 4])
    a, b = (PLAIN[how](words, owner).softmax(-1) for how in ("mean_logit", "mean_logprob_over_words"))
    torch.testing.assert_close(a, b)


@pytest.mark.parametrize(("how", "expected"), [("first", (1.0, 4.0)), ("max", (2.0, 4.0)), ("mean", (1.5, 4.0))])
def test_pieces_of_a_word(how: Any, expected: tuple[float, float]) -> None:
    logits, pick = torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[0, 1], [2, 0]])
    real = torch.tensor([[True, True], [True, False]])
    assert of_pieces(logits, pick, real, how)[0].tolist() == list(expected)


def test_token_0_is_a_label_word_as_any_other() -> None:
    backbone = tiny_backbone("roberta")
    first = backbone.tokenizer.convert_ids_to_tokens(6)
    module = Manual().build(TASK, backbone, {"bad": ("[CLS]",), "good": (first,)})  # [CLS] is token 0 of this vocabulary
    assert module.ids == (0, 6)
    assert module(torch.tensor([[[3.0, 1.0]]]))[0].tolist() == [3.0, 1.0]


def test_scores_are_those_of_the_whole_head() -> None:
    learner = learner_of(Manual(), LONGER)
    examples = tiny_task(6).train.examples
    tokenizer, body = learner.backbone.tokenizer, learner.backbone
    texts = [f"{e.texts[0]} was [MASK]" for e in examples]
    expected = []
    for text in texts:
        given = tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            hidden = body.encode(dict(given)).last[0, int((given["input_ids"][0] == tokenizer.mask_token_id).nonzero())]
            logits = body.lm_head(hidden.unsqueeze(0), body.embeddings.weight)[0][0]
        expected.append([logits[tokenizer.convert_tokens_to_ids(list(words))].mean() for words in LONGER.values()])
    torch.testing.assert_close(scores_of(learner, examples), torch.tensor(expected), atol=1e-5, rtol=1e-5)


def coder(core: Any, **special: str) -> WordCoder:
    import transformers

    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=core, **special)
    return WordCoder(tokenizer, "toy")


def word_piece() -> WordCoder:
    vocab = ["[UNK]", "[MASK]", "[unused1]", "good", "ter", "##rible", "bad", "Bad", ".", "story"]
    core = Tokenizer(models.WordPiece({t: i for i, t in enumerate(vocab)}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return coder(core, unk_token="[UNK]", mask_token="[MASK]")


def sentence_piece(prepend: str = "always") -> WordCoder:
    vocab = [("<unk>", 0.0), ("\u2581", -4.0), ("\u2581good", -2.0), ("good", -3.0), ("\u2581bad", -2.0), ("bad", -3.5), (".", -3.0)]
    core = Tokenizer(models.Unigram(vocab, unk_id=0))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend)
    return coder(core, unk_token="<unk>")


def test_a_word_of_several_tokens_is_told_what_the_model_can_do() -> None:
    for causal, way in ((False, r"verbalizer: multi_mask"), (True, r"framing: in_context")):
        with pytest.raises(RecipeError, match=rf"is 2 tokens to toy \(ter, ##rible\).*or [a-z ]+\({way}\)$"):
            replace(word_piece(), causal=causal).table(tiny_task(), {"bad": ("terrible",), "good": ("good",)})
    assert WordCoder.of(tiny_backbone("gpt2")).causal and not WordCoder.of(tiny_backbone("bert")).causal


def test_each_scheme_encodes_a_word_as_it_stands_inside_a_sentence() -> None:
    assert WordCoder.of(tiny_backbone("qwen2")).scheme == "bytes"
    assert word_piece().scheme == "continuations"
    assert WordCoder.of(tiny_backbone("bert")).scheme == "words"
    bytes_ = WordCoder.of(tiny_backbone("qwen2"))
    assert bytes_.pieces(bytes_.encode("good")) == "\u0120good" == bytes_.pieces(bytes_.encode(" good"))
    assert bytes_.pieces(bytes_.encode(".")) == "."
    assert bytes_.word(bytes_.encode("good")[0]) == "good"
    for prepend in ("always", "never"):
        pieces = sentence_piece(prepend)
        assert pieces.scheme == "pieces"
        assert pieces.pieces(pieces.encode("good")) == "\u2581good"
        assert pieces.pieces(pieces.encode(".")) == "."
        assert pieces.word(pieces.encode("bad")[0]) == "bad"


def test_only_tokens_that_begin_a_word_are_candidates() -> None:
    assert [word_piece().tokens[i] for i in word_piece().initial] == ["good", "ter", "bad", "Bad", "story"]  # and "." is no word
    assert [sentence_piece().tokens[i] for i in sentence_piece().initial] == ["\u2581good", "\u2581bad"]
    bytes_ = WordCoder.of(tiny_backbone("qwen2"))
    assert all(bytes_.tokens[i].startswith("\u0120") and len(bytes_.tokens[i]) > 1 for i in bytes_.initial)
    known = SimpleNamespace(get_vocab=lambda: {"\u0120good": 0, "\u0120.": 1, "\u0120": 2, "good": 3, "\u01207": 4}, all_special_ids=[])
    assert WordCoder(known, "m").initial == (0, 4)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (
            {"bad": ("terrible",), "good": ("good",)},
            r"'terrible' of class 'bad' is 2 tokens to toy \(ter, ##rible\).*pieces: mean.*multi_mask",
        ),
        ({"bad": ("snow",), "good": ("good",)}, r"'snow' of class 'bad' is unknown to the tokenizer of toy"),
        ({"bad": ("good",), "good": ("good",)}, r"'good' of class 'bad' and 'good' of class 'good' are the same"),
        ({"bad": ("bad",)}, r"class 'good' has no label word"),
        ({"bad": ("bad",), "good": ()}, r"class 'good' has no label word"),
        ({"bad": ("bad",), "good": ("good",), "so": ("ter",)}, r"'so', which is no class of this task; its classes are 'bad', 'good'"),
        ({"bad": (" ",), "good": ("good",)}, r"label word ' ' of class 'bad' is empty"),
    ],
)
def test_what_cannot_serve_is_refused_by_name(words: Any, complaint: str) -> None:
    with pytest.raises(RecipeError, match=complaint):
        word_piece().table(TASK, words)


def test_a_spelling_that_is_one_token_is_suggested() -> None:
    with pytest.raises(RecipeError, match=r"'BAD' of class 'bad' is unknown|'Bad' is one token|'bad' is one token"):
        word_piece().table(TASK, {"bad": ("BAD",), "good": ("good",)})
    core = Tokenizer(models.WordPiece({t: i for i, t in enumerate(["[UNK]", "Te", "##r", "ter", "good"])}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    with pytest.raises(RecipeError, match=r"'Ter' of class 'bad' is 2 tokens to toy \(Te, ##r\).*'ter' is one token: case counts here"):
        coder(core, unk_token="[UNK]").table(TASK, {"bad": ("Ter",), "good": ("good",)})


def test_case_counts_unless_the_tokenizer_lowers_it() -> None:
    assert word_piece().table(TASK, {"bad": ("Bad",), "good": ("bad",)}) == (((7,),), ((6,),))
    lowering = tiny_backbone("bert")
    with pytest.raises(RecipeError, match="does not tell the two spellings apart"):
        Manual().build(TASK, lowering, {"bad": ("Great",), "good": ("great",)})
    assert Manual().build(TASK, lowering, {"bad": ("awful", "Awful"), "good": ("great",)}).owner.shape == (2, 2)


def test_first_pieces_that_two_classes_share_are_warned_of() -> None:
    backbone: Any = SimpleNamespace(tokenizer=word_piece().tokenizer, source="toy", layout=SimpleNamespace(kind="encoder"))
    words = {"bad": ("terrible",), "good": ("ter",)}
    with pytest.warns(UserWarning, match="'bad' and 'good' begin with the same piece 'ter'"):
        Manual(pieces="first").build(TASK, backbone, words)
    assert Manual(pieces="mean").build(TASK, backbone, words).ids == (4, 5)


def test_a_task_of_values_has_its_poles_in_the_order_of_the_words() -> None:
    value = SimpleNamespace(kind="regression", labels=())
    module = Manual().build(value, tiny_backbone(), {"low": ("awful",), "high": ("great",)})
    assert module.labels == ("low", "high")
    assert module(torch.tensor([[[0.2, 1.0]]]))[0].tolist() == pytest.approx([0.2, 1.0])


def test_numbers_as_classes_find_their_words_under_text_keys() -> None:
    stars = SimpleNamespace(kind="classification", labels=(1, 2))
    module = Manual().build(stars, tiny_backbone(), {"2": ("great",), "1": ("awful",)})
    assert module.labels == (1, 2) and module.table == (((tiny_backbone().tokenizer.vocab["awful"],),), ((7,),))


def test_normalizers_do_not_confuse_the_scheme() -> None:
    core = Tokenizer(models.WordLevel({"[UNK]": 0, "\u2581": 1, "##": 2, "good": 3}, unk_token="[UNK]"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    assert coder(core, unk_token="[UNK]").scheme == "words"  # a lone mark is a character, not a scheme
