"""Plain text files, read in blocks: one document a line, a paragraph or a file. What is not text is refused by file and byte."""

from __future__ import annotations

import codecs
import gzip
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from tempering.tasks.encoding import likely_encoding, missing_file, refuse_foreign
from tempering.tasks.table import data_error

Documents = Literal["line", "paragraph", "file"]
BLOCK = 1 << 20  # bytes read at a time
LONGEST = 1 << 22  # characters; a longer document is cut there, so that no file has to fit into memory
_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
# White space and the mark at the end of old DOS files aside: texts hold a stray one at most.
_CONTROLS = bytes(sorted({*range(1, 32), 127} - {*b"\t\n\v\f\r\x1a"}))
STRAY = 16  # control characters in a block that are no sign of anything, however short it is
_ENDS = {"line": re.compile(r"\n"), "paragraph": re.compile(r"\n[ \t\r]*\n\s*"), "file": re.compile(r"(?!)")}


def documents_of(path: Path, documents: Documents) -> Iterator[str]:
    """The documents of a text file (``.gz``: unpacked on the way), without the white space around them; empty ones are left out."""
    end, rest = _ENDS[documents], ""
    for block in blocks(path):
        *whole, rest = end.split(rest + block)
        while len(rest) > LONGEST:
            cut = max(rest.rfind(" ", 0, LONGEST), rest.rfind("\n", 0, LONGEST)) + 1 or LONGEST
            whole.append(rest[:cut])
            rest = rest[cut:]
        yield from (text for found in whole if (text := found.strip()))
    if text := rest.strip():
        yield text


def blocks(path: Path) -> Iterator[str]:
    """The text of a file in blocks of about a megabyte. Bytes that are not text are a `DataError` that names the first of them."""
    decoder: codecs.IncrementalDecoder | None = None
    place, encoding = 0, "utf-8"
    for block in _bytes(path):
        if decoder is None:
            mark, encoding = next(((m, e) for m, e in _MARKS if block.startswith(m)), (b"", "utf-8"))
            decoder, block, place = codecs.getincrementaldecoder(encoding)(), block[len(mark) :], len(mark)
            refuse_foreign(block, str(path))
        waiting = len(decoder.getstate()[0])
        text = _decoded(decoder, block, path, place - waiting, encoding)
        if "\0" in text:
            byte = place - waiting + len(text[: text.index("\0")].encode(encoding))
            raise data_error(str(path), f"expected text, found a NUL at byte {byte}: a binary or damaged file; take it out of the corpus")
        _check_controls(text, path, place - waiting)
        yield text
        place += len(block)
    if decoder is not None:
        _decoded(decoder, b"", path, place - len(decoder.getstate()[0]), encoding, final=True)


def _check_controls(text: str, path: Path, start: int) -> None:
    """Refuse a block of which more than one character in a hundred is a control character: it is no text, though it decodes."""
    data = text.encode()
    count = len(data) - len(data.translate(None, _CONTROLS))
    if count > max(STRAY, len(text) // 100):
        raise data_error(
            str(path),
            f"expected text, found {count / len(text):.0%} control characters from byte {start} on: a file of some program;"
            " extract its text first, or take it out of the corpus",
        )


def _decoded(decoder: codecs.IncrementalDecoder, block: bytes, path: Path, start: int, encoding: str, final: bool = False) -> str:
    waiting = decoder.getstate()[0]
    try:
        return decoder.decode(block, final)
    except UnicodeDecodeError as error:
        data = waiting + block
        found, guess = f"0x{data[error.start]:02x}", likely_encoding(data)
        advice = f"looks like {guess}: convert it with `iconv -f {guess} -t UTF-8`" if guess else "a binary file; take it out of the corpus"
        if final:
            found, advice = "the end in the middle of a character", "the file was cut short: copy it again"
        where = f"expected {encoding.upper()} text, found {found} at byte {start + error.start}; {advice}"
        raise data_error(str(path), where) from None


def _bytes(path: Path) -> Iterator[bytes]:
    try:
        with gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb") as file:
            while block := file.read(BLOCK):
                yield block
    except FileNotFoundError:
        raise missing_file(path) from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise data_error(str(path), f"expected a gzip file, found a damaged one ({error}); download or pack it again") from None
    except OSError as error:
        raise data_error(str(path), f"cannot be read ({error.strerror or error}); expected a readable text file") from None
