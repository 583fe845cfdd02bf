"""The table of LM-BFF's tasks."""

from __future__ import annotations

import pytest

from tempering.errors import RecipeError
from tempering.framings.templates.checking import check_masks
from tempering.framings.templates.lm_bff import SETTINGS, setting, words_for
from tempering.framings.templates.reading import parse

PAIRS = {"mnli", "snli", "qnli", "rte", "mrpc", "qqp", "stsb"}


@pytest.mark.parametrize("name", SETTINGS)
def test_every_template_is_read(name: str) -> None:
    found = parse(f"lm-bff/{name}")
    assert check_masks(found, 1) == 1 and str(found) == setting(name).template
    assert found.fields() == (("text", "text_pair") if name in PAIRS else ("text",))
    assert len(set(setting(name).words)) == len(setting(name).words)
    assert setting(name).max_length in (128, 256) and setting(name).contexts in (4, 16)


def test_settings_of_the_paper() -> None:
    assert len(SETTINGS) == 15
    assert setting("lm-bff/sst5").words == ("terrible", "bad", "okay", "good", "great")
    assert (setting("sst5").first, setting("sst5").other) == (110, 20)
    assert setting("snli").contexts == 4 and setting("snli").max_length == 256
    assert setting("stsb").bounds == (0.0, 5.0) and setting("stsb").words == ("No", "Yes")
    assert setting("TREC6") is setting("trec") and setting("rte").first == 240


@pytest.mark.parametrize(
    ("name", "labels", "words"),
    [
        ("sst2", ("negative", "positive"), ("terrible", "great")),
        ("sst2", (0, 1), ("terrible", "great")),
        ("trec", ("ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM"), ("Expression", "Description", "Entity", "Human", "Location", "Number")),
        ("snli", ("contradiction", "entailment", "neutral"), ("No", "Yes", "Maybe")),
        ("cola", ("acceptable", "unacceptable"), ("correct", "incorrect")),
        ("mrpc", ("not_paraphrase", "paraphrase"), ("No", "Yes")),
    ],
)
def test_words_go_by_the_name_of_the_class(name: str, labels: tuple[object, ...], words: tuple[str, ...]) -> None:
    found = words_for(f"lm-bff/{name}", labels)
    assert list(found) == list(labels) and tuple(w for (w,) in found.values()) == words


def test_labels_that_are_not_its_own() -> None:
    with pytest.raises(RecipeError, match=r"its label words are for the classes 0/negative.*found bad, fine; give words"):
        words_for("lm-bff/sst2", ("bad", "fine"))
    with pytest.raises(RecipeError, match="give words"):
        words_for("lm-bff/sst2", ("negative",))
