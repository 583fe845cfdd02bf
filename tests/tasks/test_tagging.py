"""Tagged texts from every form they come in: examples, labels, repairs, splits, subsets, findings, and errors that name the row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from tempering.contracts import Example
from tempering.errors import DataError, RecipeError
from tempering.tags import joined
from tempering.tasks import Task, check_metrics, compute, default_metric, examine, few_shot, nested_subsets, per_item, summary
from tempering.tasks.readers import read_labeled, read_rows, read_table

CONLL = """-DOCSTART- -X- O O

# sent 1 of 3
EU NNP B-NP B-ORG
rejects VBZ B-VP O
# VBZ B-VP O

Peter NNP B-NP B-PER
Blackburn NNP I-NP I-PER
"""
ROWS = (
    {"tokens": ["EU", "rejects", "Berlin"], "tags": ["B-ORG", "O", "B-LOC"]},
    {"tokens": ["Ada", "Lovelace"], "tags": ["B-PER", "I-PER"]},
    {"tokens": ["nothing", "here"], "tags": ["O", "O"]},
    {"tokens": ["Paris"], "tags": ["B-LOC"]},
)


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def lines(path: Path, *rows: Any) -> Path:
    return write(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def load(path: Path, **more: Any) -> Task:
    return Task.from_file(path, dev_fraction=0, **more)


def words(example: Example) -> list[str]:
    return [example.texts[0][a:b] for a, b in example.words]


# --- forms ---------------------------------------------------------------------------------------------------------------------------


def test_conll(tmp_path: Path) -> None:
    task = load(write(tmp_path / "a.conll", CONLL))
    assert task.kind == "tagging" and task.labels == ("O", "B-ORG", "I-ORG", "B-PER", "I-PER")
    assert [words(e) for e in task.train] == [["EU", "rejects", "#"], ["Peter", "Blackburn"]]
    assert [e.label for e in task.train] == [("B-ORG", "O", "O"), ("B-PER", "I-PER")]
    assert [e.row for e in task.train] == [4, 8] and task.train[0].texts == ("EU rejects #",)


def test_conll_by_another_column(tmp_path: Path) -> None:
    task = load(write(tmp_path / "a.txt", CONLL), label="column_2")
    assert task.labels == ("NNP", "VBZ") and task.columns == {"text": "tokens", "label": "column_2"}


def test_conll_u_leaves_out_what_is_no_word(tmp_path: Path) -> None:
    def row(number: str, form: str, tag: str) -> str:
        return "\t".join([number, form, "_", tag, "_", "_", "0", "_", "_", "_"])

    text = "\n".join(["# text = du pain", row("1-2", "du", "_"), row("1", "de", "ADP"), row("2", "le", "DET"), row("2.1", "x", "X")])
    task = load(write(tmp_path / "a.conllu", text + "\n" + row("3", "pain", "NOUN") + "\n"))
    assert words(task.train[0]) == ["de", "le", "pain"] and task.train[0].label == ("ADP", "DET", "NOUN")
    assert any("multi-word tokens" in note for note in task.notes)
    assert default_metric("tagging", task.labels) == "accuracy"


@pytest.mark.parametrize("mark", [" ", "\t"])
def test_a_comment_with_as_many_columns_is_no_word(tmp_path: Path, mark: str) -> None:
    head = "# id 4cbbd84e-1\tdomain=train" if mark == " " else "# id 4cbbd84e-1\tlang\ten\tdomain=train"
    block = f"{head}\n# a b c\n" + "".join(f"{word} _ _ {tag}\n" for word, tag in (("the", "O"), ("EU", "B-ORG"))).replace(" ", mark)
    task = load(write(tmp_path / "a.conll", f"{block}\n{block}"))
    assert [words(e) for e in task.train] == [["the", "EU"]] * 2 and task.labels == ("O", "B-ORG", "I-ORG")
    assert [e.row for e in task.train] == [3, 8]


@pytest.mark.parametrize(
    "first",
    [
        ("# O", "a B-X", "b O"),  # its tag is one of the others'
        ("# SYM", "a B-X", "# SYM"),  # its tag is that of the same sign within a sentence
        ("#\tSYM", "a\tB-X", "b\tO"),
        ("#love HT", "a B-X", "b O"),
    ],
)
def test_a_word_with_a_hash_that_begins_a_sentence_stays_one(tmp_path: Path, first: tuple[str, ...]) -> None:
    (example,) = load(write(tmp_path / "a.conll", "\n".join(first))).train
    assert words(example) == [line.split()[0] for line in first]


def test_words_alone_may_be_a_hash(tmp_path: Path) -> None:
    assert read_table(write(tmp_path / "a.conll", "#\n1\n\n# not a word\n#2\n")).columns["tokens"] == [["#", "1"], ["#2"]]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("EU B-ORG\nrejects\n", "row 2: expected 2 columns between spaces, found 1 in 'rejects'"),
        ("EU\tB-ORG\n\tO\n", "row 2: expected 2 columns between tabs, found no word in the first"),
        ("# only this\n", "expected lines with a word and its tags, found none"),
    ],
)
def test_a_broken_conll_file_names_the_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(DataError, match="a.conll") as error:
        read_table(write(tmp_path / "a.conll", text))
    assert said in str(error.value)


def test_plain_text_is_no_conll(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected words and tags in columns, since the file ends in .txt, found plain text"):
        read_table(write(tmp_path / "a.txt", "one line\nand another one\n"))


def test_json_lines(tmp_path: Path) -> None:
    task = load(lines(tmp_path / "a.jsonl", *ROWS))
    assert task.kind == "tagging" and task.train[0] == Example(
        ("EU rejects Berlin",), ("B-ORG", "O", "B-LOC"), 1, ((0, 2), (3, 10), (11, 17))
    )
    assert "the tags follow IOB2" in task.notes
    assert task.target(("B-LOC", "O")) == (1, 0) and task.id2label()[1] == "B-LOC"


def test_csv_with_words_between_spaces_or_as_json(tmp_path: Path) -> None:
    text = 'sentence,ner\nEU rejects Berlin,B-ORG O B-LOC\n"[""New York"", ""is""]","[""B-LOC"", ""O""]"\n'
    task = load(write(tmp_path / "a.csv", text), text="sentence", label="ner", kind="tagging")
    assert [words(e) for e in task.train] == [["EU", "rejects", "Berlin"], ["New York", "is"]]


@pytest.mark.parametrize("form", ["dict", "list", "doccano"])
def test_spans_of_characters(tmp_path: Path, form: str) -> None:
    text = "In New York-based Acme, Ada"
    marks = [(3, 11, "LOC"), (18, 22, "ORG"), (24, 27, "PER"), (7, 11, "LOC")]
    key = {"dict": "spans", "list": "entities", "doccano": "label"}[form]
    given = [list(m) for m in marks] if form != "dict" else [dict(zip(("start", "end", "label"), m, strict=True)) for m in marks]
    task = load(lines(tmp_path / "a.jsonl", {"text": text, key: given}, {"text": "none", key: []}))
    assert words(task.train[0]) == ["In", "New", "York", "-", "based", "Acme", ",", "Ada"]
    assert task.train[0].label == ("O", "B-LOC", "I-LOC", "O", "O", "B-ORG", "O", "B-PER")
    assert any("1 rows have spans that overlap (rows 1)" in note for note in task.notes)


def test_a_span_cuts_a_word_in_two(tmp_path: Path) -> None:
    task = load(lines(tmp_path / "a.jsonl", {"text": "Berliners", "spans": [{"start": 0, "end": 6, "label": "LOC"}]}))
    assert words(task.train[0]) == ["Berlin", "ers"] and task.train[0].label == ("B-LOC", "O")


@pytest.mark.parametrize(
    ("span", "said"),
    [
        ({"start": 0, "end": 99, "label": "PER"}, "expected a span inside the text of 4 characters, found 0 to 99 (PER)"),
        ({"start": 2, "end": 2, "label": "PER"}, "expected a span inside the text"),
        ({"start": 1, "label": "PER"}, "expected spans such as"),
        ({"start": 1, "end": 2, "label": "PER"}, "expected words in the span 1 to 2 (PER), found none"),
    ],
)
def test_a_bad_span_names_its_row(tmp_path: Path, span: dict[str, Any], said: str) -> None:
    path = lines(
        tmp_path / "a.jsonl", {"text": "good", "spans": [{"start": 0, "end": 4, "label": "PER"}]}, {"text": "a bc", "spans": [span]}
    )
    with pytest.raises(DataError) as error:
        load(path)
    assert "a.jsonl, row 2, column 'spans'" in str(error.value) and said in str(error.value)


def test_arrow_with_integers_for_tags() -> None:
    names = datasets.ClassLabel(names=["O", "B-PER", "I-PER"])
    features = datasets.Features({"tokens": datasets.Sequence(datasets.Value("string")), "ner_tags": datasets.Sequence(names)})
    frame = datasets.Dataset.from_dict({"tokens": [["Ada", "L"], ["a"]], "ner_tags": [[1, 2], [0]]}, features=features)
    task = Task.from_frame(frame, dev_fraction=0)
    assert [e.label for e in task.train] == [("B-PER", "I-PER"), ("O",)]


def test_parquet(tmp_path: Path) -> None:
    datasets.Dataset.from_list(list(ROWS)).to_parquet(tmp_path / "a.parquet")
    assert load(tmp_path / "a.parquet").fingerprint() == load(lines(tmp_path / "a.jsonl", *ROWS)).fingerprint()


def test_examples_in_memory() -> None:
    text, places = joined(["Ada", "met", "Bo"])
    task = Task.from_examples([Example((text,), ("B-PER", "O", "B-PER"), words=places), Example(("no",), ("O",), words=((0, 2),))])
    assert task.kind == "tagging" and task.train[0].words == places and task.labels == ("O", "B-PER", "I-PER")


def test_the_words_count_in_the_fingerprint() -> None:
    def task(*places: tuple[int, int]) -> Task:
        return Task.from_examples([Example(("ab cd",), ("X", "Y"), words=places)], kind="tagging")

    assert task((0, 2), (3, 5)).fingerprint() != task((0, 1), (1, 5)).fingerprint()


def test_lists_of_labels_beside_a_text_stay_multi_label(tmp_path: Path) -> None:
    assert load(lines(tmp_path / "a.jsonl", {"text": "a b", "labels": ["x", "y"]}, {"text": "c", "labels": ["x"]})).kind == "multilabel"


# --- broken tags and rows ------------------------------------------------------------------------------------------------------------


def test_broken_tags_are_repaired_and_told(tmp_path: Path) -> None:
    rows = [*ROWS, {"tokens": ["of", "New", "York"], "tags": ["O", "I-LOC", "I-LOC"]}, {"tokens": ["a", "b"], "tags": ["B-PER", "I-LOC"]}]
    task = load(lines(tmp_path / "a.jsonl", *rows))
    assert task.train[4].label == ("O", "B-LOC", "I-LOC") and task.train[5].label == ("B-PER", "B-LOC")
    told = "train: 2 tags in 2 rows (rows 5, 6) break the scheme IOB2"
    assert any(note.startswith(told) and "row 5, word 2 'New': I-LOC after O, now B-LOC" in note for note in task.notes)
    (finding,) = [f for f in examine(task) if f.code == "broken-tags"]
    assert finding.rows == (5, 6) and finding.severity == "warning" and finding.split == "train"


def test_iob1_becomes_iob2_without_a_complaint(tmp_path: Path) -> None:
    rows = [{"tokens": ["a", "b", "c"], "tags": ["I-PER", "B-PER", "I-PER"]}, {"tokens": ["d"], "tags": ["I-LOC"]}]
    task = load(lines(tmp_path / "a.jsonl", *rows))
    assert [e.label for e in task.train] == [("B-PER", "B-PER", "I-PER"), ("B-LOC",)]
    assert any("IOB1" in note for note in task.notes) and not [f for f in examine(task) if f.code == "broken-tags"]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"tokens": ["a", "b"], "tags": ["O"]}, "row 2, column 'tags': expected as many tags as words, found 1 tags for 2 words"),
        ({"tokens": ["a", ""], "tags": ["O", "O"]}, "row 2, column 'tokens': expected a string as word 2, found ''"),
        ({"tokens": None, "tags": ["O"]}, "row 2, column 'tokens': expected a list of words, found None"),
        ({"tokens": ["a"], "tags": [None]}, "row 2, column 'tags': expected a tag for word 1, found None"),
        ({"tokens": ["a"], "tags": None}, "row 2, column 'tags': expected a list of tags, found None"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError) as error:
        load(lines(tmp_path / "a.jsonl", ROWS[0], row), kind="tagging")
    assert said in str(error.value)


def test_one_tag_alone_teaches_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least two different tags, found only 'X'"):
        load(lines(tmp_path / "a.jsonl", {"tokens": ["a"], "tags": ["X"]}))


def test_tags_that_training_lacks_are_refused_in_dev(tmp_path: Path) -> None:
    train = lines(tmp_path / "train.jsonl", *ROWS)
    other = lines(tmp_path / "dev.jsonl", {"tokens": ["x", "y"], "tags": ["O", "B-MISC"]})
    with pytest.raises(DataError, match=r"dev.jsonl, row 1, column 'tags': .* found 'B-MISC' at word 2, which the training data lacks"):
        Task.from_file(train, dev=other)
    seen = lines(tmp_path / "dev.jsonl", {"tokens": ["x", "y"], "tags": ["B-ORG", "I-ORG"]})
    assert Task.from_file(train, dev=seen).dev[0].label == ("B-ORG", "I-ORG")  # the scheme knows I-ORG although no training row has it


# --- what is made of the rows --------------------------------------------------------------------------------------------------------


@pytest.fixture
def task(tmp_path: Path) -> Task:
    rows = [{"tokens": [*row["tokens"], f"n{i}"], "tags": [*row["tags"], "O"]} for i in range(10) for row in ROWS]
    return load(lines(tmp_path / "a.jsonl", *rows, rows[0]))


def test_dev_is_taken_off_stratified_by_the_rarest_type(task: Task, tmp_path: Path) -> None:
    split = Task.from_file(tmp_path / "a.jsonl")
    assert split.dev is not None and len(split.dev) + len(split.train) == 41
    for part, least in ((split.train, 6), (split.dev, 1)):
        assert all(sum(f"B-{name}" in e.label for e in part) >= least for name in ("ORG", "LOC", "PER"))


def test_subsets_hold_every_type_first(task: Task) -> None:
    chosen = nested_subsets(task, [3, 20, None], 0)
    types = {tag[2:] for i in chosen[3] for tag in task.train[i].label if tag != "O"}
    assert types == {"ORG", "LOC", "PER"} and set(chosen[3]) < set(chosen[20])
    shots = [task.train[i].label for i in few_shot(task, 2, 0)]
    assert all(sum(any(tag.endswith(name) for tag in tags) for tags in shots) >= 2 for name in ("ORG", "LOC", "PER"))


def test_the_baseline_says_the_commonest_tag_of_every_word(task: Task) -> None:
    assert task.majority(2) == [("O",) * 4, ("O",) * 3]


def test_metrics_per_row_and_by_type(task: Task) -> None:
    gold, said = [("B-PER", "I-PER", "O"), ("O",)], [("B-PER", "O", "B-LOC"), ("O",)]
    assert per_item("tagging", gold, said) == [0.0, 1.0]
    found = compute("tagging", task.labels, [("B-PER", "O")], [("B-PER", "B-LOC")], names=["f1:PER", "precision:LOC"])
    assert found["f1:PER"] == 1.0 and found["precision:LOC"] == 0.0 and found["f1"] == pytest.approx(2 / 3)
    with pytest.raises(RecipeError, match="names no label of the task; labels: LOC, ORG, PER"):
        check_metrics(["f1:XYZ"], "tagging", task.labels)


def test_plain_tags_score_by_words() -> None:
    found = compute("tagging", ("ADJ", "NOUN"), [("ADJ", "NOUN"), ("ADJ",)], [("ADJ", "ADJ"), ("ADJ",)])
    assert found["accuracy"] == found["f1"] == pytest.approx(2 / 3)


def test_the_doctor_counts_entities(task: Task) -> None:
    assert summary(task)["splits"]["train"]["classes"] == {"LOC": 21, "ORG": 11, "PER": 10}
    assert summary(task)["splits"]["train"]["words"]["max"] == 4
    codes = {f.code: f for f in examine(task, lambda rows: [90] * len(rows), 50)}
    assert codes["windows"].severity == "note" and "nothing is lost" in codes["windows"].message and "truncation" not in codes
    assert "duplicate-rows" in codes


def test_texts_tagged_in_two_ways_conflict(tmp_path: Path) -> None:
    rows = [{"tokens": ["a", "b"], "tags": ["B-X", "O"]}, {"tokens": ["a", "b"], "tags": ["O", "B-X"]}]
    codes = [f.code for f in examine(load(lines(tmp_path / "a.jsonl", *rows)))]
    assert "conflicting-labels" in codes and "duplicate-rows" not in codes


def test_rows_to_predict_and_to_evaluate(tmp_path: Path) -> None:
    columns = {"text": "tokens", "label": "tags"}
    rows, examples = read_rows(lines(tmp_path / "a.jsonl", {"id": 7, "text": "Ada L."}), columns=columns, kind="tagging")
    assert rows == [{"id": 7, "text": "Ada L."}] and examples == (Example(("Ada L.",), None, 1),)
    _, (example,) = read_rows(write(tmp_path / "a.conll", "Ada\nLovelace\n"), columns=columns, kind="tagging")
    assert example == Example(("Ada Lovelace",), None, 1, ((0, 3), (4, 12)))
    _, texts = read_rows(write(tmp_path / "a.txt", "One text.\n\nAnother, longer text.\n"), columns=columns, kind="tagging")
    assert [(e.texts[0], e.row) for e in texts] == [("One text.", 1), ("Another, longer text.", 3)]
    labels = ("O", "B-PER", "I-PER")
    (gold,) = read_labeled(write(tmp_path / "b.conll", "Ada I-PER\n"), labels, "tagging", columns=columns)
    assert gold.label == ("B-PER",)
    with pytest.raises(DataError, match="found 'B-LOC' at word 1, which the training data lacks"):
        read_labeled(write(tmp_path / "b.conll", "Ada B-LOC\n"), labels, "tagging", columns=columns)


@pytest.mark.parametrize("begin", ["#begin document (nw/wsj); part 000", "#begin document (a b)", ""])
@pytest.mark.parametrize("gap", ["", "\n"])
@pytest.mark.parametrize("columns", [2, 5])
def test_the_borders_of_a_document_are_no_words_whatever_their_columns(tmp_path: Path, begin: str, gap: str, columns: int) -> None:
    """CoNLL-2012: of 5 and 2 columns, as the words of these files; also without an empty line beside them."""

    def line(word: str, tag: str) -> str:
        return " ".join([word, *["-"] * (columns - 2), tag])

    document = "\n".join([begin, line("EU", "B-ORG"), line("rejects", "O"), gap + "#end document"])
    found = read_table(write(tmp_path / "a.conll", f"{document}\n{document}\n")).columns
    assert found["tokens"] == [["EU", "rejects"]] * 2 and found["tags"] == [["B-ORG", "O"]] * 2


def test_a_hashtag_before_a_tag_is_a_word(tmp_path: Path) -> None:
    found = read_table(write(tmp_path / "a.conll", "paper document\n\n#end document\nof O\n")).columns
    assert found["tokens"] == [["paper"], ["#end", "of"]]
