"""Files, folders, tables and data sets as one stream of documents, with a key of their content."""

from __future__ import annotations

import csv
import gzip
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tempering.corpora import plain
from tempering.corpora.sources import Source
from tempering.errors import DataError
from tempering.tasks.readers import read_texts

TEXTS = ["one, with a comma", 'two "quoted"\nlines', "drei \u00e4\u00f6", "  four "]
STRIPPED = [text.strip() for text in TEXTS]


def jsonl(path: Path) -> None:
    path.write_text("\n".join(json.dumps({"id": i, "text": t}) for i, t in enumerate(TEXTS)) + "\n\n")


def delimited(path: Path, mark: str = ",") -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=mark).writerows([["id", "text"], *enumerate(TEXTS)])


def parquet(path: Path) -> None:
    import pyarrow
    from pyarrow.parquet import write_table

    write_table(pyarrow.table({"id": list(range(4)), "text": TEXTS}), path)


def packed(path: Path) -> None:
    path.write_bytes(gzip.compress("\n".join(json.dumps({"text": t}) for t in TEXTS).encode()))


def dataset(path: Path) -> None:
    import datasets

    datasets.disable_progress_bars()
    datasets.Dataset.from_dict({"id": list(range(4)), "text": TEXTS}).save_to_disk(path)


FORMS: dict[str, Callable[[Path], None]] = {
    "a.jsonl": jsonl,
    "a.csv": delimited,
    "a.tsv": lambda path: delimited(path, "\t"),
    "b.csv": lambda path: delimited(path, ";"),
    "a.parquet": parquet,
    "a.jsonl.gz": packed,
    "saved": dataset,
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_of_table(name: str, tmp_path: Path) -> None:
    FORMS[name](tmp_path / name)
    found = Source(str(tmp_path / name))
    assert list(found) == STRIPPED == list(found)  # as often as it is asked
    assert found.size > 0 and len(found.key) == 24 and not found.plain
    if not name.endswith(".gz"):
        assert list(Source(str(tmp_path / name), column="text")) == STRIPPED
        with pytest.raises(DataError, match="expected a column 'body', found 'id', 'text'"):
            list(Source(str(tmp_path / name), column="body"))


STRAY = {
    "swallow.tsv": 'text\tid\n"never again\t1\ngood film\t2\nwhat a film"\t3\n',
    "broken.tsv": 'id\ttext\n1\t"never again\n2\tgood film\n3\twhat a "film"\n',
    "quoted.tsv": 'text\tid\n"a ""tab""\there"\t1\nb\t2\n',
    "empty.csv": "text,id,,\nnever again,1,,\ngood film,2\n",
    "old.csv": "text,id\rnever again,1\rgood film,2\r",
    "one.tsv": 'text\n"never again\ngood film\n',
    "several.tsv": 'text\tid\n"a\nb"\t1\nc\t2\n',
    "end.tsv": '\ntext\tid\r\n"never again\t1\r\n\r\ngood film"\t2\r\n',
}


@pytest.mark.parametrize("block", [1, 2, 7, 1 << 20])
@pytest.mark.parametrize("name", STRAY)
def test_tables_are_read_as_those_of_tasks(name: str, block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain, "BLOCK", block)
    (tmp_path / name).write_text(STRAY[name], newline="")
    assert list(Source(str(tmp_path / name))) == read_texts(tmp_path / name)


def test_a_long_table_of_stray_quotes_is_never_whole_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain, "BLOCK", 1 << 12)
    with (tmp_path / "a.tsv").open("w") as file:
        file.write("text\tid\n")
        file.write('"never again 0\t0\n')
        file.writelines(f"never again {i}\t{i}\n" for i in range(1, 20_000))
    tracemalloc.start()
    assert sum(1 for _ in Source(str(tmp_path / "a.tsv"))) == 20_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < (tmp_path / "a.tsv").stat().st_size / 2


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet", "saved"])
def test_a_column_of_numbers_is_no_text(name: str, tmp_path: Path) -> None:
    FORMS[name](tmp_path / name)
    with pytest.raises(DataError, match=r"row 1, column 'id': expected text, found 0 \(int\)"):
        list(Source(str(tmp_path / name), column="id"))


def test_a_folder_of_everything_in_the_order_of_paths(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "b.txt").write_text("b1\nb2")
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"a1"))
    (tmp_path / "sub" / "c.jsonl").write_text('{"text": "c1"}\n{"text": null}\n{"text": ""}\n')
    (tmp_path / ".hidden" / "d.txt").write_text("never")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    assert list(Source(str(tmp_path))) == ["a1", "b1", "b2", "c1"]


def test_what_a_folder_holds_beside_its_texts_is_counted(tmp_path: Path) -> None:
    names = ("a.txt", "b.txt.gz", *(f"page{i}.html" for i in range(5)), "sub/B.PDF", "README", "t.parquet.gz", ".DS_Store", ".git/config")
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(gzip.compress(b"text") if name.endswith(".gz") else b"text")
    found = Source(str(tmp_path))
    assert [path.name for path in found.files] == ["a.txt", "b.txt.gz"]
    told = found.left_out
    assert told.startswith(f"left out of {tmp_path}: 5 .html, ") and "; read are files ending in .txt, " in told
    assert sorted(told.partition(": ")[2].partition(";")[0].split(", ")) == ["1 .gz", "1 .pdf", "1 without ending", "5 .html"]
    assert Source(str(tmp_path / "a.txt")).left_out == ""
    dataset(tmp_path / "saved")
    assert Source(str(tmp_path / "saved")).left_out == ""
    for name in ("a.txt", "b.txt.gz"):
        (tmp_path / name).unlink()
    (tmp_path / "saved").rename(tmp_path / ".saved")
    with pytest.raises(DataError, match=r"expected files ending in .* in the folder, found README, .*; convert them to .txt"):
        found = Source(str(tmp_path)).files


def test_the_key_is_of_the_content_and_of_how_it_is_read(tmp_path: Path) -> None:
    for name, text in (("a.txt", "one\n\ntwo"), ("b.txt", "one\n\ntwo"), ("c.txt", "one\n\ntwe")):
        (tmp_path / name).write_text(text)
    a, b, c = (Source(str(tmp_path / f"{name}.txt")) for name in "abc")
    assert a.key == b.key != c.key
    assert len({a.key, Source(a.path, "paragraph").key, Source(a.path, column="x").key}) == 3
    assert a.plain and a.size == 8


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", '{"text": "x"}\n{"text": }\n', "row 2: expected a JSON object a line"),
        ("a.jsonl", '{"text": "x"}\n["x"]\n', "row 2: expected an object such as"),
        ("a.jsonl", '{"text": "\\ud800"}\n', "row 1, column 'text': expected Unicode text"),
        ("a.jsonl", '{"text": "x"}\n{"text": 5}\n', "row 2, column 'text': expected text, found 5 (int)"),
        ("a.jsonl", "\n\n", "expected rows with a text, found none"),
        ("a.csv", "text,label\nx,1\ny\n", "row 3: expected 2 fields as in the header, found 1"),
        ("a.csv", 'text,label\n"x,1\n', "row 2: expected a closing quotation mark"),
        ("a.csv", "", "the file is empty"),
        ("a.csv", "text,text\nx,y\n", "row 1: expected different column names"),
        ("a.parquet", "no table", "expected a Parquet file, found a damaged one"),
        ("a.txt", "\n \n", "expected texts, found none; the corpus is empty"),
        ("a.pdf", "x", "expected a file ending in .txt, .text, "),
        ("b.docx", "x", "found '.docx'; convert it to .txt"),
        ("c.HTML", "x", "found '.HTML'; convert it to .txt"),
        ("d.xlsx", "x", "found '.xlsx'; save the sheet as CSV"),
        ("e.zip", "x", "found '.zip'; unpack it"),
        ("nothing", "x", "found none; rename it if the ending alone is wrong"),
        ("sheet.csv", "PK\3\4 and more", "expected text, found a zip archive"),
    ],
)
def test_bad_files_name_the_place(name: str, content: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(DataError) as error:
        list(Source(str(path)))
    assert str(path) in str(error.value) and said in str(error.value)


def test_paths_that_hold_nothing(tmp_path: Path) -> None:
    cases: list[Any] = [
        (tmp_path / "none.txt", "no such file"),
        (tmp_path, "expected files ending in"),
        (tmp_path / "x" / "y", "no such file"),
    ]
    for path, said in cases:
        with pytest.raises(DataError, match=said):
            list(Source(str(path)))
