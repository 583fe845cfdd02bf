"""CoNLL files: a word a line with its tags in columns, an empty line between sentences.

Columns stand between tabs where the first word's line has one, else between spaces; other white space, such as no-break spaces, belongs
to words. Tabs that end every line make no column. Lines that begin with "#" and do not have the
columns of the others are comments, and so are those with as many columns that stand before the first word of a sentence, begin with "# "
and end in what is no tag elsewhere (MultiCoNER's "# id 4cbbd84e domain=train"). A line whose first column is -DOCSTART- only parts
documents, and so do CoNLL-2012's "#begin document (nw/wsj_0001); part 000" and "#end document", with as many columns as a word or not,
unless they end in a tag. CoNLL-U (ten columns, the first a number) is known by its columns: lines of multi-word tokens (3-4) and of empty
nodes (5.1) are left out.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from itertools import groupby

from tempering.tags import detect
from tempering.tasks.table import Table, data_error, show

ENDINGS = (".conll", ".conllu", ".conll03", ".iob", ".iob2", ".bio", ".bioes", ".txt")
_UNIVERSAL = ("id", "tokens", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")
_DOCUMENT = "-DOCSTART-"
_BORDER = re.compile(r"#(begin document \(.+|end document)\s*")
_SPACE = " \t\r"
_SAMPLE = 20_000  # characters that are looked at
_NUMBER = re.compile(r"\d+([-.]\d+)?")


def parse_conll(text: str, source: str) -> Table:
    """One row a sentence, numbered by the line of its first word; every column holds a list of strings a row.

    The first column is called ``tokens`` and the last ``tags``, those in between ``column_2`` and so on; CoNLL-U has the names of its
    standard. A line with more or fewer columns than the others is a `DataError`.
    """
    lines = list(enumerate(_trimmed(text.split("\n")), start=1))
    tab = "\t" in next((line for _, line in lines if _tells(line)), "")
    width = _width(lines, tab)
    if width == 0:
        raise data_error(source, "expected lines with a word and its tags, found none; the file holds no data")
    sentences, rows = [], []
    for block in _sentences(lines, tab, width, source):
        rows.append(block[0][0])
        sentences.append([cells for _, cells in block])
    columns = [[[cells[i] for cells in sentence] for sentence in sentences] for i in range(width)]
    universal = width == len(_UNIVERSAL) and tab and all(_NUMBER.fullmatch(word) for word in columns[0][0])
    if universal:
        return _universal(columns, rows, source)
    return Table(dict(zip(_names(width), columns, strict=True)), rows, source)


def looks_like_conll(text: str) -> bool:
    """Whether a text file without a telling name holds columns: lines of as many parts each, two at least to a block on average."""
    filled = _blocks(text)
    widths = Counter(len(_cells(line, "\t" in line)) for block in filled for line in block)
    return len(widths) == 1 and 2 <= min(widths) <= 12 and widths.total() >= 2 * len(filled)


def lacks_header(text: str) -> bool:
    """Whether a file that calls itself a table holds words and tags between tabs: empty lines part it, the first line ends in a tag too."""
    blocks = _blocks(text)
    cells = [_cells(line, tab=True) for block in blocks for line in block]
    if len(blocks) < 2 or any(len(line) < 2 or " " in line[0] for line in cells) or not looks_like_conll(text):
        return False
    tags = [line[-1] for line in cells]
    return detect([tags]) != "plain" or tags[0] in tags[1:]


def _blocks(text: str) -> list[list[str]]:
    """The lines of words, from empty line to empty line, in the beginning of a text."""
    lines = text[:_SAMPLE].split("\n")
    lines = _trimmed(lines if len(text) <= _SAMPLE else lines[:-1])  # whole lines
    blocks = [list(block) for words, block in groupby(lines, lambda line: bool(line.strip())) if words]
    return [words for block in blocks if (words := [line for line in block if _tells(line)])]


def _trimmed(lines: list[str]) -> list[str]:
    """Lines without spaces at their ends, and without the tabs that end each of them."""
    lines = [line.rstrip(" \r") for line in lines]
    telling = [line for line in lines if _tells(line)]
    while telling and all(line.endswith("\t") for line in telling):
        lines, telling = [line.removesuffix("\t") for line in lines], [line[:-1] for line in telling]
    return lines


def _tells(line: str) -> bool:
    """Whether a line is surely a word's."""
    return bool(line.strip()) and not line.startswith(("#", _DOCUMENT))


def _names(width: int) -> list[str]:
    if width == 1:
        return ["tokens"]
    return ["tokens", *(f"column_{i}" for i in range(2, width)), "tags"]


def _cells(line: str, tab: bool) -> list[str]:
    return [cell.strip(_SPACE) for cell in line.split("\t")] if tab else re.split("[ \t]+", line.strip(_SPACE))


def _width(lines: list[tuple[int, str]], tab: bool) -> int:
    """The columns of the first line that is surely a word's."""
    for _, line in lines:
        if _tells(line):
            return len(_cells(line, tab))
    return 0


def _sentences(lines: list[tuple[int, str]], tab: bool, width: int, source: str) -> Iterator[list[tuple[int, list[str]]]]:
    """Blocks of (line number, cells)."""
    tags = _tags(lines, tab, width)
    block: list[tuple[int, list[str]]] = []
    for number, line in [*lines, (0, "")]:
        cells = _cells(line, tab) if line.strip() else []
        if not cells or cells[0] == _DOCUMENT or (_BORDER.fullmatch(line) and cells[-1] not in tags):
            if block:
                yield block
            block = []
        elif len(cells) == width and cells[0] and (block or not _may_comment(line, width) or cells[-1] in tags):
            block.append((number, cells))
        elif not line.startswith("#"):
            what = "between tabs" if tab else "between spaces"
            found = f"found {len(cells)}" if cells[0] else "found no word in the first"
            raise data_error(source, f"expected {width} columns {what}, {found} in {show(line)}; correct the line", row=number)


def _tags(lines: list[tuple[int, str]], tab: bool, width: int) -> set[str]:
    """The last cells of the lines that are surely words: those that do not look like comments, or stand after such a one."""
    tags: set[str] = set()
    within = False
    for _, line in lines:
        cells = _cells(line, tab) if line.strip() else []
        parts = not cells or cells[0] == _DOCUMENT or _BORDER.fullmatch(line) is not None
        within = not parts and (within or not _may_comment(line, width))
        if within and len(cells) == width:
            tags.add(cells[-1])
    return tags


def _may_comment(line: str, width: int) -> bool:
    """Whether a line may be a comment in spite of its columns; "#word" is a hashtag, and words alone have no tag to tell them by."""
    return line.startswith("# ") and width > 1


def _universal(columns: list[list[list[str]]], rows: list[int], source: str) -> Table:
    """Syntactic words only, as the standard's first column numbers them."""
    kept = [[i for i, number in enumerate(sentence) if number.isdecimal()] for sentence in columns[0]]
    chosen = [[[sentence[i] for i in keep] for sentence, keep in zip(column, kept, strict=True)] for column in columns]
    note = "CoNLL-U: multi-word tokens and empty nodes are left out"
    skipped = any(len(keep) < len(sentence) for keep, sentence in zip(kept, columns[0], strict=True))
    return Table(dict(zip(_UNIVERSAL, chosen, strict=True)), rows, source, notes=(note,) if skipped else ())
