"""Less usual forms of tagged texts: numbers for tags, lists in cells, rows without spans, odd spaces and line ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas
import pytest

from tempering.errors import DataError
from tempering.tasks import Task, examine
from tempering.tasks.readers import read_labeled, read_rows, read_table

BLOCKS = "EU B-ORG\nrejects O\nBerlin B-LOC\n\nPeter B-PER\nBlackburn I-PER\n"
FRAME = {"tokens": [["Ada", "x's"], ["b"]], "tags": [["B-LOC", "O"], ["O"]]}
SPANS = ("O", "B-PER", "I-PER")


def write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


def lines(path: Path, *rows: Any) -> Path:
    return write(path, "".join(json.dumps(row) + "\n" for row in rows))


def load(path: Path, **more: Any) -> Task:
    return Task.from_file(path, dev_fraction=0, **more)


def words(task: Task) -> list[list[str]]:
    return [[e.texts[0][a:b] for a, b in e.words] for e in task.train]


# --- numbers -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["jsonl", "parquet", "frame"])
def test_numbers_are_plain_tags_and_told(tmp_path: Path, form: str) -> None:
    frame = pandas.DataFrame({"tokens": [["Ada", "x"], ["b"]], "ner_tags": [[1, 0], [0]]})
    path = tmp_path / f"a.{form}"
    if form == "jsonl":
        frame.to_json(path, orient="records", lines=True)
    elif form == "parquet":
        frame.to_parquet(path)
    task = Task.from_frame(frame, dev_fraction=0) if form == "frame" else load(path)
    assert task.kind == "tagging" and task.labels == (0, 1) and [e.label for e in task.train] == [(1, 0), (0,)]
    assert any(note.startswith("the tags are numbers, so that entities cannot be seen in them") for note in task.notes)


def test_numbers_beside_strings_are_refused(tmp_path: Path) -> None:
    rows = [{"tokens": ["a", "b"], "tags": ["B-X", "O"]}, {"tokens": ["c"], "tags": [1]}]
    with pytest.raises(DataError, match="expected tags of one type, found str 'B-X' in row 1 and int 1 in row 2"):
        load(lines(tmp_path / "a.jsonl", *rows))


# --- lists in cells ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tags", [FRAME["tags"], [[1, 0], [0]]])
@pytest.mark.parametrize("again", [False, True])
def test_lists_as_pandas_writes_them(tmp_path: Path, tags: Any, again: bool) -> None:
    path = tmp_path / "a.csv"
    pandas.DataFrame(FRAME | {"tags": tags}).to_csv(path, index=False)
    task = Task.from_frame(pandas.read_csv(path), kind="tagging", dev_fraction=0) if again else load(path, kind="tagging")
    assert words(task) == FRAME["tokens"] and [list(e.label) for e in task.train] == tags


@pytest.mark.parametrize(
    ("tokens", "tags", "column"),
    [
        ("['a' 'b']", "['O' 'B-X']", "tokens"),  # as numpy writes arrays: Python would read one word in them
        ("['a', 'b']", "['O' 'B-X']", "tags"),
        ("a b", "['O' 'B-X']", "tags"),
        ("a b", "[0 1]", "tags"),
        ("a b", "['O', 'B-X'", "tags"),
        ("a b", "['O', nan]", "tags"),
        ("a b", r"['O', '\x']", "tags"),
    ],
)
def test_a_cell_that_begins_as_a_list_and_is_none_is_refused(tmp_path: Path, tokens: str, tags: str, column: str) -> None:
    path = tmp_path / "a.csv"
    pandas.DataFrame({"tokens": ["a", tokens], "tags": ["O", tags]}).to_csv(path, index=False)
    with pytest.raises(DataError) as error:
        load(path, kind="tagging")
    assert f"row 3, column '{column}': expected a list with commas between its" in str(error.value)


def test_texts_may_begin_with_a_bracket(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "text\n[1] Angela Merkel\n[Applause]\n\"['Ada', 'x']\"\n")
    _, found = read_rows(path, kind="tagging", columns={"text": "text", "label": "tags"})
    assert [(e.texts[0], len(e.words)) for e in found] == [("[1] Angela Merkel", 0), ("[Applause]", 0), ("Ada x", 2)]


# --- no spans ------------------------------------------------------------------------------------------------------------------------


def test_a_file_without_any_span_is_one_of_spans(tmp_path: Path) -> None:
    train = lines(
        tmp_path / "a.jsonl", {"text": "Ada is in", "spans": [{"start": 0, "end": 3, "label": "PER"}]}, {"text": "b", "spans": []}
    )
    other = lines(tmp_path / "b.jsonl", {"text": "nothing here", "spans": []}, {"text": "x", "spans": None})
    task = Task.from_file(train, dev=other, test=other)
    assert task.dev is not None and [e.label for e in task.dev] == [("O", "O"), ("O",)] and task.test is not None
    assert read_labeled(other, SPANS, "tagging", columns=task.columns) == task.dev.examples


@pytest.mark.parametrize(
    ("row", "labels"),
    [({"tokens": ["a", "b"], "tags": []}, SPANS), ({"text": "a b", "tags": []}, ("DET", "NOUN")), ({"text": "a b", "tags": ["O"]}, SPANS)],
)
def test_rows_that_lack_tags_stay_wrong(tmp_path: Path, row: dict[str, Any], labels: tuple[str, ...]) -> None:
    with pytest.raises(DataError, match="expected as many tags as words, found . tags for 2 words"):
        read_labeled(lines(tmp_path / "a.jsonl", row), labels, "tagging", columns={"text": next(iter(row)), "label": "tags"})


def test_a_task_of_tags_takes_no_empty_lists(tmp_path: Path) -> None:
    train = lines(tmp_path / "a.jsonl", {"text": "Ada is", "tags": ["B-PER", "O"]}, {"text": "b", "tags": ["O"]})
    with pytest.raises(DataError, match="expected as many tags as words, found 0 tags for 2 words"):
        Task.from_file(train, kind="tagging", text="text", label="tags", dev=lines(tmp_path / "b.jsonl", {"text": "a b", "tags": []}))


# --- texts or columns ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "labels", "texts"),
    [
        ("Angela Merkel\nBarack Obama\n", SPANS, ["Angela Merkel", "Barack Obama"]),
        ("Angela Merkel lives in Berlin\r\nBarack Obama visited Paris yesterday\r\n", SPANS, None),
        ("Angela B-ART\nMerkel I-ART\n", SPANS, ["Angela Merkel"]),  # tags of entities, although the model has others
        ("Angela O\nMerkel O\n", SPANS, ["Angela Merkel"]),
        ("a DET x\ndog NOUN y\n", ("DET", "NOUN"), ["a dog"]),
        ("a DET\ndog NOUN\n", SPANS, ["a DET", "dog NOUN"]),
    ],
)
def test_lines_with_as_many_words_are_texts_unless_they_hold_tags(
    tmp_path: Path, text: str, labels: tuple[str, ...], texts: list[str] | None
) -> None:
    said: list[str] = []
    path = write(tmp_path / "a.txt", text)
    _, found = read_rows(path, kind="tagging", columns={"text": "tokens", "label": "tags"}, labels=labels, say=said.append)
    texts = texts or [line for line in text.split("\r\n") if line]
    assert [e.texts[0] for e in found] == texts
    (note,) = said
    assert ("read as a word a line with its tag" in note) is (len(texts) == 1) and str(path) in note
    assert ("rename it to a.conll" in note) is (len(texts) > 1)


def test_lines_that_cannot_be_columns_are_read_without_a_word(tmp_path: Path) -> None:
    said: list[str] = []
    _, found = read_rows(write(tmp_path / "a.txt", "one text\nanother text here\n"), kind="tagging", say=said.append)
    assert len(found) == 2 and not said


# --- spaces and line ends ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", ["\u00a0", "\u2028", "\u3000", "\x85"])
@pytest.mark.parametrize("mark", [" ", "\t", " \t "])
@pytest.mark.parametrize("name", ["a.conll", "a.txt"])
def test_other_white_space_belongs_to_words(tmp_path: Path, space: str, mark: str, name: str) -> None:
    text = f"10{space}000 B-NUM\nrejects O\n\nPeter B-PER\nB I-PER\n"
    task = load(write(tmp_path / name, text.replace(" ", mark)))
    assert words(task) == [[f"10{space}000", "rejects"], ["Peter", "B"]] and [e.row for e in task.train] == [1, 4]


def test_a_word_may_be_a_space_of_its_own(tmp_path: Path) -> None:
    task = load(write(tmp_path / "a.conll", "EU\tB-ORG\n\u00a0\tO\n"))
    assert words(task) == [["EU", "\u00a0"]]


def test_long_texts_are_cut_between_lines(tmp_path: Path) -> None:
    text = "one O\n" * 3_333 + "a\u2028b O\nc B-X\n"  # the first characters of a text, which tell its form, end within the word a_b
    assert len(read_table(write(tmp_path / "a.txt", text)).columns["tokens"][0]) == 3_335


@pytest.mark.parametrize("end", ["\t", "\t\t", "\t \r", " ", " \t"])
def test_what_ends_every_line_is_no_column(tmp_path: Path, end: str) -> None:
    text = "# id\n" + BLOCKS.replace(" ", "\t").replace("\n", f"{end}\n").replace(f"\n{end}\n", "\n\n")
    task = load(write(tmp_path / "a.conll", text))
    assert task.labels == ("O", "B-LOC", "I-LOC", "B-ORG", "I-ORG", *SPANS[1:]) and words(task)[1] == ["Peter", "Blackburn"]


def test_a_missing_tag_is_not_taken_for_such_an_end(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected a tag for word 2, found ''"):
        load(write(tmp_path / "a.conll", "EU\tB-ORG\nrejects\t\n"))


def test_lines_that_end_in_carriage_returns_alone(tmp_path: Path) -> None:
    old, new = (load(write(tmp_path / name, text)) for name, text in (("a.conll", BLOCKS.replace("\n", "\r")), ("b.conll", BLOCKS)))
    assert old.fingerprint() == new.fingerprint() and [e.row for e in old.train] == [1, 5]
    rows = '{"text": "a", "label": 0}\r{"text": "b", "label": 1}\r'
    assert len(load(write(tmp_path / "a.jsonl", rows)).train) == 2


# --- CoNLL as TSV, and BMES ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [BLOCKS, BLOCKS.replace("B-", "").replace("I-", ""), BLOCKS.replace("\n", "\r\n")])
def test_a_table_that_is_conll_is_told_its_ending(tmp_path: Path, text: str) -> None:
    with pytest.raises(DataError, match=r"a.tsv: expected a header row .* rename it to a.conll"):
        load(write(tmp_path / "a.tsv", text.replace(" ", "\t").replace("EU\tORG", "EU\tO")))


@pytest.mark.parametrize(
    "text",
    [
        "text\tlabel\ngood\tpos\n\nbad\tneg\nfine\tpos\n",
        "good film\tpos\nbad film\tneg\n\nfine film\tpos\nno film\tneg\n",
        "text\tO\ngood\tO\nbad\tpos\n",
    ],
)
def test_a_table_with_an_empty_line_stays_one(tmp_path: Path, text: str) -> None:
    assert len(read_table(write(tmp_path / "a.tsv", text))) == text.replace("\n\n", "\n").count("\n") - 1


@pytest.mark.parametrize("single", ["S", "W"])
def test_bmes_is_read_as_bioes(tmp_path: Path, single: str) -> None:
    text = f"EU {single}-ORG\nx O\nA B-PER\nB M-PER\nC E-PER\n\nD B-PER\nE O\n"
    task = load(write(tmp_path / "a.conll", text))
    assert [e.label for e in task.train] == [("S-ORG", "O", "B-PER", "I-PER", "E-PER"), ("S-PER", "O")]
    assert task.labels == ("O", *(f"{letter}-{type_}" for type_ in ("ORG", "PER") for letter in "BIES"))
    assert any(note.startswith("the tags follow BMES") for note in task.notes)
    (finding,) = [f for f in examine(task) if f.code == "broken-tags"]
    assert finding.rows == (7,) and finding.detail["words"] == 1
    found = read_labeled(tmp_path / "a.conll", task.labels, "tagging", columns=task.columns)
    assert found == task.train.examples
