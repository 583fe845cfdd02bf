"""Every format gives the same table; every kind of damage gives one line that says where and what to do."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from tempering.errors import DataError
from tempering.tasks.encoding import likely_encoding
from tempering.tasks.readers import open_source, read_rows, read_table, read_texts
from tempering.tasks.table import data_error, show

ROWS = [{"text": "good, really", "label": "pos"}, {"text": 'a "bad"\nday', "label": "neg"}]


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


def csv_text(delimiter: str = ",") -> str:
    lines = [["text", "label"], *([row["text"], row["label"]] for row in ROWS)]
    quoted = [[cell.replace('"', '""') for cell in line] for line in lines]
    return "\n".join(delimiter.join(f'"{cell}"' for cell in line) for line in quoted)


def test_every_format_gives_the_same_rows(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    lines = "\n".join(json.dumps(row) for row in ROWS)
    files = [
        write(tmp_path / "a.csv", csv_text()),
        write(tmp_path / "semicolon.csv", csv_text(";")),
        write(tmp_path / "a.tsv", csv_text("\t")),
        write(tmp_path / "tabs.csv", csv_text("\t")),
        write(tmp_path / "windows.csv", csv_text().replace('"pos"\n', '"pos"\r\n')),
        write(tmp_path / "a.jsonl", lines),
        write(tmp_path / "lines.json", lines),
        write(tmp_path / "a.json", json.dumps(ROWS)),
        write(tmp_path / "data.json", json.dumps({"data": ROWS})),
        write(tmp_path / "columns.json", json.dumps({name: [row[name] for row in ROWS] for name in ("text", "label")})),
        tmp_path / "a.parquet",
    ]
    pandas.DataFrame(ROWS).to_parquet(files[-1])
    for file in files:
        assert read_table(file).records() == ROWS, file.name


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_byte_order_marks_are_understood_and_dropped(tmp_path: Path, encoding: str) -> None:
    table = read_table(write(tmp_path / "a.csv", "text,label\nça va,père\nnaïve,mère\n", encoding))
    assert table.columns == {"text": ["ça va", "naïve"], "label": ["père", "mère"]}


def test_row_numbers_are_those_of_a_spreadsheet_and_of_an_editor(tmp_path: Path) -> None:
    assert read_table(write(tmp_path / "a.csv", 'text,label\n"two\nlines",1\n\nx,2\n')).rows == [2, 4]
    assert read_table(write(tmp_path / "a.jsonl", '{"text": "a"}\n\n{"text": "b"}\n')).rows == [1, 3]


def test_jsonl_lines_end_at_newlines_only(tmp_path: Path) -> None:
    text = "one\u2028two\x85three"
    path = write(tmp_path / "a.jsonl", json.dumps({"text": text}, ensure_ascii=False) + "\r\n")
    assert read_table(path).columns["text"] == [text]


def test_unquoted_tsv_keeps_its_quotation_marks(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", 'text\tlabel\n"Yes" he said\t1\n"open\t0\n')
    assert read_table(path).columns["text"] == ['"Yes" he said', '"open']


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_quotation_marks_that_would_swallow_rows_of_a_tsv_are_characters(tmp_path: Path, end: str) -> None:
    lines = ["text\tlabel", '"Hello there\t1', "foo bar\t0", "", "baz\t1", 'the end"\t1', "last\t0"]
    table = read_table(write(tmp_path / "a.tsv", end.join(lines)))
    assert table.columns["text"] == ['"Hello there', "foo bar", "baz", 'the end"', "last"]
    assert table.columns["label"] == ["1", "0", "1", "1", "0"] and table.rows == [2, 3, 5, 6, 7]


@pytest.mark.parametrize(
    ("text", "cells"),
    [
        ('text\tlabel\n"two\nlines"\t1\n', "two\nlines"),
        ('text\tlabel\n"two\rlines"\t1\n', "two\rlines"),
        ('text\tlabel\n"a\ttab"\t1\nplain\t0\n', "a\ttab"),
        ('text\n"two\nlines"\n', "two\nlines"),  # one column: every line has as many tabs, none
    ],
)
def test_quoted_cells_of_a_tsv_may_hold_tabs_and_line_ends(tmp_path: Path, text: str, cells: str) -> None:
    assert read_table(write(tmp_path / "a.tsv", text)).columns["text"][0] == cells


def test_a_field_of_a_million_characters_is_read_and_the_limit_restored(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    path = write(tmp_path / "a.csv", "text,label\n" + "x" * 1_000_000 + ",1\n")
    assert len(read_table(path).columns["text"][0]) == 1_000_000
    assert csv.field_size_limit() == before


def test_empty_spreadsheet_columns_are_dropped(tmp_path: Path) -> None:
    assert read_table(write(tmp_path / "a.csv", "text,label,,\na,1,,\nb,2,,\n")).records() == [
        {"text": "a", "label": "1"},
        {"text": "b", "label": "2"},
    ]


DAMAGED = [
    ("empty.csv", b"", "empty.csv: the file is empty"),
    ("blank.jsonl", b"  \n \n", "the file is empty"),
    ("header.csv", b"text,label\n", "found only the header ('text', 'label')"),
    ("ragged.csv", b"text,label\na,1\nb\n", "ragged.csv, row 3: expected 2 fields as in the header, found 1"),
    ("wide.csv", b"text,label\nhello, world,1\n", "row 2: expected 2 fields as in the header, found 3; put fields that hold a comma"),
    ("open.csv", b'text,label\n"a,1\nb,2\n', "row 2: expected a closing quotation mark"),
    ("quote.csv", b'text,label\n"a "b" c",1\n', "expected the field to end after its closing quotation mark"),
    ("twice.csv", b"text,text\na,1\n", "row 1: expected different column names, found 'text' more than once"),
    ("nul.csv", b"text,label\na,1\nb\0,2\n", "row 3: expected text, found a NUL byte"),
    ("sheet.csv", b"PK\3\4\x14\0\6\0\x94", "sheet.csv: expected text, found a zip archive, as .docx, .xlsx and .epub are"),
    ("sheet.jsonl", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "expected text, found an Office file, as .doc and .xls are"),
    ("paper.csv", b"%PDF-1.4\n%\xe2\xe3\n", "expected text, found a PDF file; extract its text first"),
    ("paper.tsv", b"%PDF-1.4\n1 0 obj\n", "expected text, found a PDF file"),
    ("latin.csv", "text,label\nok,1\ncafé,2\n".encode("cp1252"), "row 3: expected UTF-8, found byte 0xe9; looks like CP1252"),
    ("wide16.csv", "text,label\nok,1\n".encode("utf-16-le"), "UTF-16 without a byte order mark"),
    ("cut.csv", "text,label\nok,é".encode()[:-1], "found byte 0xc3"),
    ("bad.jsonl", b'{"text": "a"}\n{"text": }\n', "bad.jsonl, row 2: expected JSON"),
    ("list.jsonl", b'{"text": "a"}\n[1]\n', "row 2: expected an object"),
    ("deep.json", b"[" * 200_000, "expected JSON"),
    ("bad.json", b'[{"text": "a"},\n{"text" "b"}]', "bad.json, row 2: expected JSON"),
    ("scalar.json", b"3", "expected a list of objects"),
    ("none.json", b"[]", "the file holds no data"),
    ("unequal.json", b'{"text": ["a"], "label": [1, 2]}', "expected columns of equal length"),
    ("frame.json", b'{"text": {"0": "a"}}', "orient='records'"),
    ("fields.jsonl", b"{}\n", "expected objects with fields"),
    ("bad.parquet", b"PAR1 not really PAR1", "expected a Parquet file"),
    ("sheet.xlsx", b"PK", "save the sheet as CSV"),
]


@pytest.mark.parametrize(("name", "data", "said"), DAMAGED, ids=[case[0] for case in DAMAGED])
def test_damage_is_one_clear_line(tmp_path: Path, name: str, data: bytes, said: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(DataError) as caught:
        read_table(path)
    message = str(caught.value)
    assert said in message
    assert message.startswith(str(path)) and "\n" not in message


def test_a_missing_file_names_its_neighbors(tmp_path: Path) -> None:
    write(tmp_path / "reviews.csv", "text,label\na,1\n")
    with pytest.raises(DataError, match=r"no such file; did you mean reviews\.csv\?"):
        open_source(tmp_path / "review.csv")
    with pytest.raises(DataError, match=r"the folder .* does not exist either"):
        open_source(tmp_path / "nowhere" / "review.csv")
    with pytest.raises(DataError, match="found a folder"):
        read_table(tmp_path)
    with pytest.raises(DataError, match=r"the system refuses|no such file"):
        open_source("a" * 5000 + ".csv")


def test_likely_encoding_tells_western_from_dense_text() -> None:
    assert likely_encoding("la fenêtre est très étroite".encode("cp1252")) == "CP1252"
    assert likely_encoding(("привет мир " * 9).encode("cp1251")) in ("CP1251", "GB18030", "SHIFT_JIS")
    assert likely_encoding(bytes(range(9)) * 50 + b"\xff") == ""


def test_a_folder_gives_its_splits(tmp_path: Path) -> None:
    for name in ("train.csv", "validation.csv", "test.csv"):
        write(tmp_path / name, f"text,label\n{name},1\n")
    write(tmp_path / "notes.md", "no data")
    assert {split: table.columns["text"] for split, table in open_source(tmp_path).items()} == {
        "train": ["train.csv"],
        "dev": ["validation.csv"],
        "test": ["test.csv"],
    }
    write(tmp_path / "dev.jsonl", '{"text": "a", "label": "1"}')
    with pytest.raises(DataError, match=r"expected one dev file, found dev\.jsonl and validation\.csv"):
        open_source(tmp_path)


def test_a_folder_without_training_data_says_what_it_holds(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="found nothing"):
        open_source(tmp_path)
    write(tmp_path / "reviews.csv", "text\na\n")
    with pytest.raises(DataError, match=r"found reviews\.csv; name a data file instead"):
        open_source(tmp_path)


def test_arrow_folders_of_one_and_of_several_splits(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    single = datasets.Dataset.from_list(ROWS)
    single.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": single, "validation": single}).save_to_disk(str(tmp_path / "two"))
    assert open_source(tmp_path / "one")["train"].records() == ROWS
    assert sorted(open_source(tmp_path / "two")) == ["dev", "train"]
    (tmp_path / "two" / "train" / "state.json").write_text("{")
    with pytest.raises(DataError, match=r"expected a folder written by datasets\.save_to_disk"):
        open_source(tmp_path / "two")


def test_a_hub_name_that_cannot_be_loaded_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")

    def offline(name: str) -> None:
        raise ConnectionError(f"no route\nto {name}")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(DataError, match=r"^nobody/nothing: .*ConnectionError: no route to nobody/nothing"):
        open_source("nobody/nothing")


def test_a_hub_name_that_loads_gives_its_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    part = datasets.Dataset.from_list(ROWS)
    monkeypatch.setattr(datasets, "load_dataset", lambda name: datasets.DatasetDict({"train": part, "unsupervised": part}))
    tables = open_source("somebody/something")
    assert list(tables) == ["train"] and tables["train"].records() == ROWS


def test_read_texts_from_lines_and_from_columns(tmp_path: Path) -> None:
    assert read_texts(write(tmp_path / "a.txt", "one\r\n\ntwo\u2028still two\n")) == ["one", "two\u2028still two"]
    assert read_texts(write(tmp_path / "a.csv", "id,review\n1,fine\n2,poor\n")) == ["fine", "poor"]
    assert read_texts(write(tmp_path / "b.csv", "text_a,text_b\nfine,poor\n")) == ["fine poor"]
    assert read_texts(write(tmp_path / "c.csv", "x,z\nfine,poor\n"), text="z") == ["poor"]


def test_read_rows_keeps_the_input_columns_in_order(tmp_path: Path) -> None:
    path = write(tmp_path / "new.csv", ",id,stars,review\n0,7,,fine\n1,8,,poor\n")
    rows, examples = read_rows(path, columns={"text": "review", "label": "stars"})
    assert list(rows[0].items()) == [("", "0"), ("id", "7"), ("stars", ""), ("review", "fine")]
    assert [(example.texts, example.label, example.row) for example in examples] == [(("fine",), None, 2), (("poor",), None, 3)]


def test_read_rows_asks_for_as_many_texts_as_in_training(tmp_path: Path) -> None:
    pair = write(tmp_path / "pair.csv", "premise,hypothesis\na,b\n")
    single = write(tmp_path / "single.csv", "text\na\n")
    assert read_rows(pair, columns={"text": "text_a", "text_pair": "text_b"})[1][0].texts == ("a", "b")
    with pytest.raises(DataError, match="expected two texts a row"):
        read_rows(single, columns={"text": "text_a", "text_pair": "text_b"})
    with pytest.raises(DataError, match="expected one text a row"):
        read_rows(pair, columns={"text": "text"})


def test_messages_are_printable_whatever_they_quote() -> None:
    message = str(data_error("a\nb\ud800", f"found {show('x' * 99)}\r\n\x1b[31m", row=3, column="\udfff"))
    assert message.startswith("a b\\") and "row 3" in message and "\n" not in message and "\x1b" not in message
    assert message.encode("utf-8")
    assert show(10**5000) == "a value too large to print (int)"
