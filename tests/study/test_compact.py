from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tempering.study.compact import pack, unpack

Values = st.lists(st.one_of(st.text(max_size=3), st.booleans(), st.integers(-3, 3), st.floats(allow_nan=False), st.none()), max_size=60)


@given(Values)
def test_what_comes_out_is_what_json_would_have_kept(values: list[Any]) -> None:
    for given_ in (values, values * 20):
        found = unpack(json.loads(json.dumps(pack(given_))))
        assert found == given_
        assert [type(x) for x in found] == [type(x) for x in given_]


def test_labels_take_a_fraction_of_the_room() -> None:
    labels = ["negative", "positive", "positive"] * 600
    assert len(json.dumps(pack(labels))) < len(json.dumps(labels)) / 50


@pytest.mark.parametrize("values", [[0.1 * i for i in range(100)], list(range(300)) * 3, ["a"] * 8, []])
def test_what_would_not_shrink_stays_a_list(values: list[Any]) -> None:
    assert pack(values) == values


def test_sets_of_labels_come_back_as_lists() -> None:
    assert unpack(pack([("a", "b"), ()] * 20)) == [["a", "b"], []] * 20
