"""`Tokens` as the rows a model reads: pieces of documents that fit, or several documents packed into rows of full length."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, overload

import numpy as np

from tempering.contracts import Prompt, RowForm
from tempering.corpora.tokens import Array, Tokens

LEAST = 8  # tokens of a document that are worth a new segment at the end of a row
LISTED = 1 << 16  # documents that are plain numbers at once


class Segments(NamedTuple):
    """Pieces of documents: where each starts and stops among the tokens, its row, and its document."""

    starts: Array
    stops: Array
    rows: Array
    documents: Array


class Rows(Sequence[Prompt]):
    """The rows of some ``documents`` of ``tokens``, made as they are asked for: only where each begins is held in memory.

    A row is a `Prompt`. Its ``target`` is the word number of each token (-1: a special token) where words are known. A packed row
    holds several segments, each with its special tokens, and ``extra`` has their lengths. ``lengths`` [rows] are those of the rows;
    ``documents`` says how many documents they are made of.
    """

    def __init__(self, tokens: Tokens, documents: Array, form: RowForm) -> None:
        self.tokens = tokens
        self.form = form
        self.documents = len(documents)
        begins = np.where(documents > 0, tokens.ends[documents - 1], 0).astype(np.int64)
        ends = tokens.ends[documents].astype(np.int64)
        last = np.where(ends > begins, ends + len(form.closing), ends)  # the closing tokens count as tokens of the document
        found = packed(begins, last, form) if form.packed else pieces(begins, last, form.room)
        self.starts = found.starts
        del begins, last  # of a large corpus every such array is a tenth of a gigabyte
        self.stops = np.minimum(found.stops, ends[found.documents])
        del ends
        self.closing = (found.stops - np.maximum(self.stops, found.starts)).astype(np.int8)  # how many of them a segment has
        self.starts = np.minimum(self.starts, self.stops)
        count = int(found.rows[-1]) + 1 if len(found.rows) else 0
        self.first = np.searchsorted(found.rows, np.arange(count + 1))  # segment with which each row begins
        sizes = found.stops - found.starts + (form.length - form.room)
        self.lengths: Any = np.add.reduceat(sizes, self.first[:-1]) if len(sizes) else sizes

    @property
    def fill(self) -> float:
        """Which share of the rows' full length is tokens."""
        return float(self.lengths.sum()) / (len(self) * self.form.length) if len(self) else 0.0

    def __len__(self) -> int:
        return len(self.first) - 1

    @overload
    def __getitem__(self, index: int) -> Prompt: ...
    @overload
    def __getitem__(self, index: slice) -> list[Prompt]: ...
    def __getitem__(self, index: int | slice) -> Prompt | list[Prompt]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        row = int(index) % len(self)
        ids: list[int] = []
        words: list[int] = []
        sizes: list[int] = []
        for segment in range(int(self.first[row]), int(self.first[row + 1])):
            inside = self._ids(segment)
            ids += inside
            sizes.append(len(inside))
            if len(self.tokens.starts):
                words += self._words(segment, max(words, default=-1) + 1)
        return Prompt(ids, None, words if len(self.tokens.starts) else None, extra=tuple(sizes) if self.form.packed else None)

    def _ids(self, segment: int) -> list[int]:
        text = self.tokens.ids[int(self.starts[segment]) : int(self.stops[segment])].tolist()
        whole = len(self.form.closing)
        closing = self.form.closing[whole - int(self.closing[segment]) :]
        return [*self.form.before, *text, *closing, *self.form.after]

    def _words(self, segment: int, start: int) -> list[int]:
        begins = self.tokens.starts[int(self.starts[segment]) : int(self.stops[segment])].astype(np.int64)
        numbers = start + np.cumsum(begins) - (int(begins[0]) if len(begins) else 0)
        behind = int(self.closing[segment]) + len(self.form.after)
        return [*([-1] * len(self.form.before)), *numbers.tolist(), *([-1] * behind)]


def pieces(begins: Array, ends: Array, room: int) -> Segments:
    """Pieces of at most ``room`` tokens, one a row; a document without tokens has none."""
    counts = -(-(ends - begins) // room)
    document = np.repeat(np.arange(len(begins)), counts)
    number = np.arange(len(document)) - np.repeat(np.cumsum(counts) - counts, counts)
    starts = begins[document] + number * room
    return Segments(starts, np.minimum(starts + room, ends[document]), np.arange(len(document)), document)


def _pairs(begins: Array, ends: Array) -> Iterator[tuple[int, int]]:
    """Both as plain numbers, some at a time: in a list each would take four times as much memory as in its array."""
    for at in range(0, len(begins), LISTED):
        yield from zip(begins[at : at + LISTED].tolist(), ends[at : at + LISTED].tolist(), strict=True)


def packed(begins: Array, ends: Array, form: RowForm) -> Segments:
    """Segments that fill row after row. A document that does not fit into what is left is cut and goes on in the next row, unless fewer
    than `LEAST` of its tokens would fit.
    """
    special = form.length - form.room
    starts, stops, rows, documents = array("q"), array("q"), array("i"), array("i")
    left, row = 0, -1
    for document, (at, end) in enumerate(_pairs(begins, ends)):
        while at < end:
            if left - special < min(LEAST, end - at):
                left, row = form.length, row + 1
            take = min(left - special, end - at)
            for column, value in ((starts, at), (stops, at + take), (rows, row), (documents, document)):
                column.append(value)
            at, left = at + take, left - take - special
    columns = ((starts, np.int64), (stops, np.int64), (rows, np.int32), (documents, np.int32))
    return Segments(*(np.frombuffer(part, kind) if len(part) else np.zeros(0, kind) for part, kind in columns))
