from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tempering.errors import RecipeError
from tempering.report import model_card
from tempering.report.card import is_hub_id

FACTS: dict[str, Any] = {
    "name": "reviews-lora",
    "model": "sentence-transformers/all-MiniLM-L6-v2",
    "kind": "classification",
    "labels": ["negative", "positive", "no"],
    "recipe_yaml": "name: lora\nstages:\n  - train: {learning_rate: 5e-5}\n",
    "metrics": {"dev": {"accuracy": 0.91, "f1": float("nan")}, "test": {"accuracy": 0.9012, "f1": 0.88}},
    "main_metric": "f1",
    "rows": {"train": 6920, "dev": 872, "test": 1821},
    "data": "/home/someone/reviews.csv",
    "language": "en",
    "seconds": 75.2,
    "trained_parameters": 147_456,
    "total_parameters": 22_861_058,
    "seeds": {"sampling": 0, "init": 1},
    "versions": {"torch": "2.13.0"},
    "loads_with": ["tempering", "peft"],
    "notes": ["Texts were cut at 128 tokens."],
}


def front(card: str) -> dict[str, Any]:
    found = re.match(r"---\n(.*?)\n---\n", card, flags=re.DOTALL)
    assert found
    matter = yaml.safe_load(found[1])
    assert isinstance(matter, dict)
    return matter


def test_front_matter_has_what_the_hub_reads() -> None:
    matter = front(model_card(FACTS))
    assert matter["library_name"] == "tempering"
    assert matter["base_model"] == FACTS["model"]
    assert matter["metrics"] == ["accuracy", "f1"]
    assert matter["language"] == "en"
    assert "license" not in matter
    (index,) = matter["model-index"]
    by_split = {r["dataset"]["split"]: {m["type"]: m["value"] for m in r["metrics"]} for r in index["results"]}
    assert by_split == {"dev": {"accuracy": 0.91}, "test": {"accuracy": 0.9012, "f1": 0.88}}


def test_the_hubs_own_reader_accepts_it() -> None:
    from huggingface_hub import ModelCard

    data = ModelCard(model_card(FACTS)).data
    assert data.model_name == "reviews-lora"
    assert {(e.metric_type, e.dataset_split, e.metric_value) for e in data.eval_results or []} >= {("f1", "test", 0.88)}


def test_the_text_says_what_how_well_and_how_to_load() -> None:
    card = model_card(FACTS)
    assert "| **f1** | n/a | 88.0 % |" in card
    assert card.index("| **f1**") < card.index("| accuracy")
    assert "train 6,920 rows, dev 872 rows, test 1,821 rows" in card
    assert "147 k of 22.9 M (0.6 %)" in card
    assert 'base = AutoModelForSequenceClassification.from_pretrained("sentence-transformers/all-MiniLM-L6-v2", num_labels=3)' in card
    assert "learning_rate: 5e-5" in card
    assert "Texts were cut at 128 tokens." in card


def test_folders_of_the_machine_are_not_told() -> None:
    assert "someone" not in model_card(FACTS)


def test_a_local_base_model_is_no_hub_id(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert is_hub_id("bert-base-uncased")
    assert is_hub_id("owner/name")
    assert not is_hub_id("models/mine")
    assert not is_hub_id(str(tmp_path))
    assert "base_model" not in front(model_card(FACTS | {"model": str(tmp_path)}))


def test_errors_are_no_percentages_and_missing_tests_are_said() -> None:
    card = model_card(
        FACTS | {"kind": "regression", "labels": [], "metrics": {"dev": {"mse": 0.25, "spearman": 0.81}}, "main_metric": "mse"}
    )
    assert "| **mse** | 0.250 |" in card
    assert "| spearman | 81.0 % |" in card
    assert "There was no test split" in card
    assert "## Labels" not in card


def test_only_tempering_loads_what_only_it_can() -> None:
    card = model_card(FACTS | {"loads_with": ["tempering"]})
    assert "only `tempering.load` restores" in card
    assert "AutoModel" not in card


def test_many_labels_are_cut_short() -> None:
    assert "and 110 more" in model_card(FACTS | {"labels": [f"intent {i}" for i in range(150)]})


def test_a_fence_in_the_recipe_does_not_end_the_code() -> None:
    card = model_card(FACTS | {"recipe_yaml": "name: |\n  ```\n  # not a heading\n"})
    assert "````yaml\n" in card


def test_a_missing_fact_is_named() -> None:
    with pytest.raises(RecipeError, match="kind is missing"):
        model_card({key: value for key, value in FACTS.items() if key != "kind"})


@given(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12), st.sampled_from(["no", "1e-5", "---\n", "a: b", "*x", "\u2028", "'\""])
)
def test_front_matter_parses_whatever_the_texts_are(text: str, odd: str) -> None:
    word = text + odd
    card = model_card(
        FACTS | {"name": word, "labels": [word, True, 3], "metrics": {"test": {word: 0.5}}, "data": "x" + word, "language": odd}
    )
    matter = front(card)
    assert matter["model-index"][0]["name"] == word
    assert matter["metrics"] == [word]
    assert matter["language"] == odd


@pytest.mark.parametrize(
    ("kind", "task", "auto"),
    [
        ("tagging", "token-classification", "AutoModelForTokenClassification"),
        ("question_answering", "question-answering", "AutoModelForQuestionAnswering"),
        ("regression", "text-classification", "AutoModelForSequenceClassification"),
    ],
)
def test_a_card_names_the_class_of_its_kind(kind: str, task: str, auto: str) -> None:
    facts = {"name": "n", "model": "m", "kind": kind, "metrics": {"dev": {"f1": 0.5}}, "loads_with": ["transformers", "peft", "tempering"]}
    card = model_card(facts)
    assert f'pipeline_tag: "{task}"\n' in card and card.count(f"{auto}.from_pretrained") == 2


def test_a_folder_that_holds_a_change_says_what_it_needs() -> None:
    base = {"fingerprint": "0123456789abcdef", "inside": False}
    card = model_card(FACTS | {"loads_with": ["tempering"], "base": base})
    assert 'tempering.load("path/to/this/folder")' in card
    assert "needs its base model: sentence-transformers/all-MiniLM-L6-v2" in card and "fingerprint 01234567" in card
    assert "packed" not in card
    assert "packed in 4bit again" in model_card(FACTS | {"base": base | {"quantize": "4bit"}})
    assert "lies in the folder `base`" in model_card(FACTS | {"base": base | {"inside": True}})
    assert "base model, which" not in model_card(FACTS) and "needs its base" not in model_card(FACTS)
