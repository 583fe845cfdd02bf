"""Bytes to text: UTF-8, or what a byte order mark announces; anything else is refused with the likely encoding named."""

from __future__ import annotations

import codecs
import difflib
from pathlib import Path

from tempering.errors import DataError
from tempering.tasks.table import data_error

# UTF-32 first: its little-endian mark begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_FOREIGN = (
    (b"%PDF-", "a PDF file; extract its text first"),
    (b"{\\rtf", "a Rich Text file; extract its text first"),
    (b"PK\3\4", "a zip archive, as .docx, .xlsx and .epub are; extract its text first (save a sheet as CSV)"),
    (b"\xd0\xcf\x11\xe0", "an Office file, as .doc and .xls are; extract its text first (save a sheet as CSV)"),
)


def read_text(path: Path) -> str:
    """The whole file as text. An unreadable, empty, binary or wrongly encoded file is a `DataError`."""
    return decode(read_bytes(path), str(path))


def read_bytes(path: Path) -> bytes:
    """The bytes of a file that exists and is not empty."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise missing_file(path) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise data_error(str(path), f"cannot be read ({reason}); expected a readable data file") from None
    if not data.strip():
        raise data_error(str(path), "the file is empty; expected a table with at least a text column")
    return data


def missing_file(path: Path) -> DataError:
    """The error for a path that is not there, with the nearest names in the same folder."""
    try:
        around = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    except OSError:
        around = []
    near = difflib.get_close_matches(path.name, around, n=2, cutoff=0.6)
    folder = "" if path.parent.is_dir() else f"; the folder {path.parent} does not exist either"
    hint = f"; did you mean {' or '.join(near)}?" if near else f"{folder}; check the path"
    return data_error(str(path), f"no such file{hint}")


def refuse_foreign(data: bytes, source: str) -> None:
    """Refuse a file whose first bytes, ``data``, are those of a format that holds text and is none: much of it would decode."""
    if found := next((words for start, words in _FOREIGN if data.startswith(start)), None):
        raise data_error(source, f"expected text, found {found}")


def decode(data: bytes, source: str) -> str:
    """``data`` as text, without its byte order mark; where "\\r" alone ends lines, "\\n" stands in its place."""
    refuse_foreign(data, source)
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise _undecodable(data, source, encoding, error) from None
    if "\n" not in text:
        text = text.replace("\r", "\n")
    if "\0" in text:
        row = text.count("\n", 0, text.index("\0")) + 1
        why = "UTF-16 without a byte order mark" if _looks_wide(data) else "a damaged or binary file"
        raise data_error(source, f"expected text, found a NUL byte, which looks like {why}; save the file again as UTF-8", row=row)
    return text


def _undecodable(data: bytes, source: str, encoding: str, error: UnicodeDecodeError) -> DataError:
    row = data.count(b"\n", 0, error.start) + 1
    found = f"found byte 0x{data[error.start]:02x}" if error.start < len(data) else "found its end in the middle of a character"
    expected = "UTF-8" if encoding.startswith("utf-8") else f"{encoding.upper()}, as its first bytes announce"
    guess = likely_encoding(data)
    advice = f"looks like {guess}: convert it with `iconv -f {guess} -t UTF-8`" if guess else "save the file again as UTF-8"
    return data_error(source, f"expected {expected}, {found}; {advice}", row=row)


def likely_encoding(data: bytes) -> str:
    """The most plausible legacy encoding of text that is not UTF-8, by iconv's name; empty when it looks binary.

    A rule of thumb: in Western text few bytes are above 127; in Cyrillic and East Asian text most letters are.
    """
    if sum(byte < 9 for byte in data[:4096]) > len(data[:4096]) // 50:
        return ""
    letters = [byte for byte in data if byte > 64]
    high = sum(byte > 127 for byte in letters)
    dense = high > 0.4 * len(letters)
    for name in ("SHIFT_JIS", "GB18030", "CP1251") if dense else ("CP1252", "ISO-8859-1"):
        try:
            data.decode(name)
        except UnicodeDecodeError:
            continue
        return name
    return ""


def _looks_wide(data: bytes) -> bool:
    return min(len(data), 2) == 2 and max(data[0::2].count(0), data[1::2].count(0)) > len(data) // 4
