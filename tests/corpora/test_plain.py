"""Text files as documents, and what is not text refused by file and byte."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tempering.corpora import plain
from tempering.corpora.plain import blocks, documents_of
from tempering.errors import DataError

TEXT = "one line\r\n\n  two\nlines \n\n \nlast\u2028one"


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("documents", "expected"),
    [
        ("line", ["one line", "two", "lines", "last\u2028one"]),
        ("paragraph", ["one line", "two\nlines", "last\u2028one"]),
        ("file", [TEXT.strip()]),
    ],
)
@pytest.mark.parametrize("form", ["plain", "gzip", "utf-8-sig", "utf-16", "utf-16-be"])
def test_documents(documents: plain.Documents, expected: list[str], form: str, tmp_path: Path) -> None:
    mark = b"\xfe\xff" if form == "utf-16-be" else b""
    data = mark + TEXT.encode("utf-8" if form in ("plain", "gzip") else form)
    path = write(tmp_path / ("a.txt.gz" if form == "gzip" else "a.txt"), gzip.compress(data) if form == "gzip" else data)
    assert list(documents_of(path, documents)) == expected


@given(text=st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=60), block=st.integers(3, 7))
def test_the_size_of_blocks_does_not_matter(text: str, block: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = write(tmp_path_factory.mktemp("text") / "a.txt", text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plain, "BLOCK", block)
        found = "".join(blocks(path))
        assert found == text.removeprefix("\ufeff")
        assert list(documents_of(path, "line")) == [line for part in found.split("\n") if (line := part.strip())]


def test_a_text_without_end_is_cut_between_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain, "LONGEST", 20)
    path = write(tmp_path / "a.txt", b"word " * 30 + b"x" * 50)
    found = list(documents_of(path, "line"))
    assert max(len(text) for text in found) <= 20 and "".join(found).replace(" ", "") == "word" * 30 + "x" * 50
    assert all(set(text.split()) <= {"word"} for text in found[:8])


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"fine text\nand \xff\xfe more", "UTF-8 text, found 0xff at byte 14"),
        (b"a" * 70 + b"\0binary", "NUL at byte 70: a binary or damaged file"),
        (b"caf\xe9 au lait, tr\xe8s bien", "found 0xe9 at byte 3; looks like CP1252: convert it with `iconv -f CP1252 -t UTF-8`"),
        (b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n1 0 obj", "expected text, found a PDF file; extract its text first"),
        (b"%PDF-1.4\n1 0 obj<< /Length 44 >>endobj", "expected text, found a PDF file"),
        (b"{\\rtf1\\ansi\\deff0 Caf\\'e9", "expected text, found a Rich Text file"),
        (b"PK\3\4\x14\0\6\0", "expected text, found a zip archive, as .docx, .xlsx and .epub are; extract its text first"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "expected text, found an Office file"),
        (b"the end is cut \xc3", "found the end in the middle of a character at byte 15"),
        (b"\xff\xfea\0b\0c", "UTF-16-LE text, found the end in the middle of a character"),
    ],
)
@pytest.mark.parametrize("block", [1 << 20, 8])
def test_what_is_not_text_is_refused(data: bytes, said: str, block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain, "BLOCK", block)
    path = write(tmp_path / "a.txt", data)
    with pytest.raises(DataError) as error:
        list(documents_of(path, "line"))
    known = said if block > 8 else said.partition(";")[0]  # the guess of an encoding needs more than eight bytes
    assert str(path) in str(error.value) and known in str(error.value)


CONTROLLED = "".join(f"{chr(1 + i % 8)}\u00e4b c\n" for i in range(40))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_what_is_full_of_control_characters_is_no_text(encoding: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", CONTROLLED.encode(encoding))
    with pytest.raises(DataError, match="a.txt: expected text, found 17% control characters from byte [02] on.*extract its text first"):
        list(documents_of(path, "line"))


@pytest.mark.parametrize(
    "text",
    [
        "an old file of DOS\x1a",
        "\x85".join(["lines\tof old\vmainframes\f"] * 40),
        "page\f" * 40 + "\x1a" * 40,
        "one \b stray " * 2,
        ("a \x1b[1mbold\x1b[0m word in " + "many plain ones " * 20) * 30,
    ],
)
def test_stray_control_characters_are_let_pass(text: str, tmp_path: Path) -> None:
    assert list(documents_of(write(tmp_path / "a.txt", text.encode()), "file")) == [text.strip()]


def test_damaged_and_missing_files(tmp_path: Path) -> None:
    whole = gzip.compress(b"some text\n" * 500)
    for name, data in (("a.txt.gz", whole[:-20]), ("b.txt.gz", b"no gzip at all"), ("c.txt.gz", whole[:20] + b"\xff" * 8 + whole[28:])):
        with pytest.raises(DataError, match=rf"{name}: expected a gzip file, found a damaged one"):
            list(documents_of(write(tmp_path / name, data), "line"))
    with pytest.raises(DataError, match=r"no such file; did you mean a.txt.gz"):
        list(documents_of(tmp_path / "a.txt.g", "line"))
    assert list(documents_of(write(tmp_path / "empty.txt", b""), "line")) == []
