"""Whatever bytes a file holds, only a `DataError` of one line may come out; and whatever labels, they come back as given."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tempering.errors import DataError
from tempering.tasks.doctor import examine
from tempering.tasks.readers import read_rows, read_texts
from tempering.tasks.task import Task

ENDINGS = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
quick = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

odd = st.sampled_from(
    ["", " ", "\0", "\ufeff", "\u2028", "\x85", '"', '""', "'", ",", ";", "\t", "\r", "\\", "🙂", "ﬁ", "NaN", "[", "1e999", "-0"]
)
cells = st.one_of(odd, st.text(max_size=8))
numbers = st.one_of(st.integers(), st.floats(), st.sampled_from([10**400, -1, 2**63]))
scalars = st.one_of(st.none(), st.booleans(), numbers, cells, st.just("\ud800"))
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(cells, inner, max_size=3), max_leaves=6)
names = st.one_of(st.sampled_from(["text", "label", "text_pair", "labels", "review", "Text", ""]), cells)


@st.composite
def delimited(draw: st.DrawFn) -> bytes:
    mark = draw(st.sampled_from([",", ";", "\t"]))
    lines = draw(st.lists(st.lists(cells, max_size=4), max_size=6))
    header = draw(st.sampled_from([["text", "label"], ["text", "text_pair", "label"], ["text", "x", "y"], []]))
    text = draw(st.sampled_from(["\n", "\r\n", "\r"])).join(mark.join(line) for line in [header, *lines])
    return text.encode(draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-7"])), "replace")


@st.composite
def json_bytes(draw: st.DrawFn) -> bytes:
    records = draw(st.lists(st.dictionaries(names, values, max_size=4) | values, max_size=5))
    lines = [json.dumps(record) for record in records]
    whole = draw(
        st.sampled_from(["\n".join(lines), json.dumps(records), json.dumps({"data": records}), json.dumps(dict(enumerate(records)))])
    )
    data = whole.encode()
    start = draw(st.integers(0, 3)) if draw(st.booleans()) else 0
    return data[start : len(data) - draw(st.integers(0, 4))]


def parquet_bytes() -> bytes:
    pandas = pytest.importorskip("pandas")
    buffer = io.BytesIO()
    pandas.DataFrame({"text": ["a", "b", "c", "d"], "label": [1, 0, 1, 0]}).to_parquet(buffer)
    return buffer.getvalue()


@st.composite
def broken_parquet(draw: st.DrawFn) -> bytes:
    data = bytearray(parquet_bytes())
    if draw(st.booleans()):
        return bytes(data[: draw(st.integers(0, len(data)))])
    for _ in range(draw(st.integers(1, 4))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data)


def only_data_errors(call: Callable[[], object]) -> None:
    """Run ``call``; a `DataError` must have one printable, non-empty line, and nothing else may be raised."""
    try:
        call()
    except DataError as error:
        message = str(error)
        assert message.strip() and len(message.splitlines()) == 1
        assert message.encode("utf-8")


def try_everything(path: Path) -> None:
    only_data_errors(lambda: examine(Task.from_file(path)))
    only_data_errors(lambda: Task.from_file(path, text="text", label="label", kind="regression"))
    only_data_errors(lambda: Task.from_file(path, label="x,y", hold_out_test=True))
    only_data_errors(lambda: Task.from_file(path, kind="multilabel", dev_fraction=0.5).fingerprint())
    only_data_errors(lambda: read_rows(path))
    only_data_errors(lambda: read_texts(path))


@quick
@given(data=st.binary(max_size=200), ending=st.sampled_from([*ENDINGS, ".txt", ""]))
def test_random_bytes(tmp_path: Path, data: bytes, ending: str) -> None:
    path = tmp_path / f"data{ending}"
    path.write_bytes(data)
    try_everything(path)


@quick
@given(data=delimited(), ending=st.sampled_from([".csv", ".tsv"]))
def test_broken_delimited_files(tmp_path: Path, data: bytes, ending: str) -> None:
    path = tmp_path / f"data{ending}"
    path.write_bytes(data)
    try_everything(path)


@quick
@given(data=json_bytes(), ending=st.sampled_from([".json", ".jsonl"]))
def test_broken_json_files(tmp_path: Path, data: bytes, ending: str) -> None:
    path = tmp_path / f"data{ending}"
    path.write_bytes(data)
    try_everything(path)


@quick
@given(data=broken_parquet())
def test_broken_parquet_files(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "data.parquet"
    path.write_bytes(data)
    try_everything(path)


@quick
@given(columns=st.dictionaries(names, st.lists(values, min_size=4, max_size=4), max_size=3))
def test_odd_frames(columns: dict[str, list[Any]]) -> None:
    only_data_errors(lambda: Task.from_frame(columns))
    only_data_errors(lambda: Task.from_frame({"text": ["a", "b", "c", "d"], "label": [1, 1, 0, 0]}, dev=columns))


@quick
@given(name=st.text(max_size=20))
def test_odd_paths(name: str) -> None:
    only_data_errors(lambda: Task.from_file(f"no such folder/{name}.csv"))


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
label_sets = st.one_of(
    st.lists(texts, min_size=2, max_size=6, unique=True),
    st.lists(st.sampled_from(["a", "a ", " a", "A", "1", "01", "ä", "a\u0308", "🙂", "no", "null", "NaN"]), min_size=2, unique=True),
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=2, max_size=6, unique=True),
    st.just([False, True]),
)


def check_round_trip(task: Task, labels: list[Any]) -> None:
    exact = [(type(label), label) for label in labels]
    assert [(type(label), label) for label in task.train.labels] == exact * 3
    assert {(type(label), label) for label in task.labels} == set(exact)
    assert [task.labels[task.target(label)] for label in labels] == labels


@quick
@given(labels=label_sets)
def test_labels_round_trip_through_jsonl(tmp_path: Path, labels: list[Any]) -> None:
    path = tmp_path / "data.jsonl"
    for ascii_only in (True, False):
        lines = [json.dumps({"text": f"text {i}", "label": label}, ensure_ascii=ascii_only) for i, label in enumerate(labels * 3)]
        path.write_bytes("\n".join(lines).encode("utf-8"))
        check_round_trip(Task.from_file(path, dev_fraction=0), labels)


@quick
@given(labels=label_sets)
def test_labels_round_trip_through_parquet_and_frames(tmp_path: Path, labels: list[Any]) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"text": [f"text {i}" for i in range(3 * len(labels))], "label": labels * 3})
    frame.to_parquet(tmp_path / "data.parquet")
    check_round_trip(Task.from_file(tmp_path / "data.parquet", dev_fraction=0), labels)
    check_round_trip(Task.from_frame(frame, dev_fraction=0), labels)
