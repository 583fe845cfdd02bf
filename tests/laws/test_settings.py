"""The laws walk the registry: every method has a row, and the rows are what they say."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from tempering.registry import METHODS, find, name_of
from tests.laws.settings import TABLE, Row, rows


@pytest.mark.parametrize("kind", METHODS)
def test_every_registered_method_has_a_row(kind: str) -> None:
    assert set(TABLE[kind]) == set(METHODS[kind]), f"give each new {kind} a row in tests/laws/settings.py"


@pytest.mark.parametrize(("kind", "name", "row"), [(k, n, r) for k, found in TABLE.items() for n, r in found.items()])
def test_a_row_holds_the_method_it_is_named_for_away_from_its_defaults(kind: str, name: str, row: Row) -> None:
    cls: Any = find(kind, name)
    assert name_of(row.live) == (kind, name)
    fields = dataclasses.fields(cls)
    if fields and all(f.default is not dataclasses.MISSING for f in fields):
        assert row.live != cls()


@pytest.mark.parametrize("row", rows("stabilizer"))
def test_a_stabilizer_knows_its_neutral_setting(row: Row) -> None:
    assert type(row.neutral) is type(row.live)
    assert row.neutral.neutral is True and row.live.neutral is False
