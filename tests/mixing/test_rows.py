"""Cutting rows out of what layers read and say, and joining them again."""

from __future__ import annotations

import pytest
import torch

from tempering.backbone import Encoded
from tempering.mixing.rows import NotByRow, Span, cut, join_inputs, joined, part_of


def test_what_was_cut_joins_to_what_it_was() -> None:
    states, mask = torch.randn(6, 3, 4), torch.ones(1, 1, 3, 3)
    value = (states, {"mask": mask, "none": None, "many": [states * 2]}, "name")
    pieces = [cut(value, a, b, 6) for a, b in ((0, 1), (1, 4), (4, 6))]
    assert [piece[0].shape[0] for piece in pieces] == [1, 3, 2] and pieces[1][1]["mask"] is mask
    back = joined(pieces, [1, 3, 2])
    assert torch.equal(back[0], states) and torch.equal(back[1]["many"][0], states * 2)
    assert back[1]["mask"] is mask and back[1]["none"] is None and back[2] == "name"


def test_what_stands_for_all_rows_is_spread_where_tasks_differ() -> None:
    pieces = [torch.zeros(1, 2), torch.ones(1, 2)]
    assert torch.equal(joined(pieces, [2, 1]), torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, 1.0]]))


def test_a_tensor_that_rows_do_not_lead_is_refused() -> None:
    with pytest.raises(NotByRow, match=r"led by 6 rows or by 1, found shape \(5, 3\)"):
        cut(torch.zeros(5, 3), 0, 2, 6)


def test_inputs_are_padded_to_the_longest_with_a_mask() -> None:
    long, short = torch.arange(8).view(2, 4), torch.arange(2).view(1, 2)
    types = torch.ones(2, 4, dtype=torch.int64)
    found = join_inputs([{"input_ids": long, "token_type_ids": types}, {"input_ids": short}], 9)
    assert found["input_ids"].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [0, 1, 9, 9]]
    assert found["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 0, 0]]
    assert found["token_type_ids"].tolist() == [[1] * 4, [1] * 4, [0] * 4]
    assert set(join_inputs([{"input_ids": long}, {"input_ids": long}], 9)) == {"input_ids"}  # nothing is padded: no mask


def test_a_mask_of_one_part_is_kept() -> None:
    a, b = torch.zeros(1, 2, dtype=torch.int64), torch.tensor([[1, 0]])
    assert join_inputs([{"input_ids": a}, {"input_ids": a, "attention_mask": b}], 0)["attention_mask"].tolist() == [[1, 1], [1, 0]]


def test_a_part_of_what_the_body_said_has_its_own_length() -> None:
    states = torch.randn(5, 4, 2)
    part = part_of(Encoded(states, (states, states + 1), states[:, 0]), Span(0, 1, 3), 2)
    assert torch.equal(part.last, states[1:3, :2]) and part.pooled is not None and torch.equal(part.pooled, states[1:3, 0])
    assert part.layers is not None and torch.equal(part.layers[1], states[1:3, :2] + 1)
