"""The study's file: claims, leases, tries, and what is refused."""

from __future__ import annotations

import json
import sqlite3
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from tempering.errors import ResumeError
from tempering.study.crossing import code
from tempering.study.records import Record
from tempering.study.store import Cell, Store


def cells(count: int = 3) -> list[Cell]:
    return [Cell("final", "full", "abc", "32", seed, 0, (("learning_rate", 1e-3),)) for seed in range(count)]


def record(cell: Cell, status: str = "done") -> Record:
    return Record(cell.recipe, cell.recipe_key, cell.size, 32, cell.seed, dict(cell.setting), status=status, test={"accuracy": 0.5})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    found = Store(tmp_path / "study.sqlite")
    found.add(cells())
    return found


def test_cells_are_claimed_in_order_and_once(store: Store) -> None:
    claimed = [store.claim("me", cells()) for _ in range(4)]
    assert [c.seed if c else None for c in claimed] == [0, 1, 2, None]


def test_a_claimed_cell_equals_the_one_that_was_added(store: Store) -> None:
    found = store.claim("me", cells())
    assert found is not None
    assert found.id == cells()[0].id
    assert found.setting == (("learning_rate", 1e-3),)
    assert found.tries == 1


def test_a_finished_cell_is_never_claimed_again_and_adding_it_again_changes_nothing(store: Store) -> None:
    first = store.claim("me", cells())
    assert first is not None
    store.finish(first, record(first))
    store.add(cells())
    assert store.left(cells()) == 2
    assert {c.seed for _ in range(2) if (c := store.claim("me", cells()))} == {1, 2}
    assert [r.test for _, r in store.records()] == [{"accuracy": 0.5}]


def test_an_expired_lease_is_taken_over_and_a_live_one_is_not(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = store.claim("me", cells()[:1])
    assert mine is not None
    assert store.claim("other", cells()[:1]) is None
    now = __import__("time").time()
    monkeypatch.setattr("tempering.study.store.time.time", lambda: now + 61)
    taken = store.claim("other", cells()[:1])
    assert taken is not None
    assert taken.tries == 2


def test_renewing_keeps_a_lease_alive(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = store.claim("me", cells()[:1])
    assert mine is not None
    now = __import__("time").time()
    monkeypatch.setattr("tempering.study.store.time.time", lambda: now + 50)
    store.renew(mine, "me")
    monkeypatch.setattr("tempering.study.store.time.time", lambda: now + 100)
    assert store.claim("other", cells()[:1]) is None


def test_a_released_cell_is_open_again_with_its_tries_given_back(store: Store) -> None:
    mine = store.claim("me", cells()[:1])
    assert mine is not None
    store.release(mine, "me")
    again = store.claim("other", cells()[:1])
    assert again is not None
    assert again.tries == 1


def test_two_threads_never_get_the_same_cell(tmp_path: Path) -> None:
    many = cells(40)
    Store(tmp_path / "s.sqlite").add(many)
    got: list[int] = []

    def work(owner: str) -> None:
        mine = Store(tmp_path / "s.sqlite")
        while (cell := mine.claim(owner, many)) is not None:
            got.append(cell.seed)
            mine.finish(cell, record(cell))

    threads = [threading.Thread(target=work, args=(f"t{i}",)) for i in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sorted(got) == list(range(40))


def test_failed_cells_are_told_apart_and_can_be_reopened(store: Store) -> None:
    mine = store.claim("me", cells()[:1])
    assert mine is not None
    store.finish(mine, record(mine, "failed"))
    assert store.left(cells()) == 2
    store.reopen_failed(cells())
    assert store.left(cells()) == 3
    assert store.records() == []


def test_a_file_that_is_no_study_is_refused(tmp_path: Path) -> None:
    (tmp_path / "study.sqlite").write_bytes(b"this is no database at all, only words" * 50)
    with pytest.raises(ResumeError, match="not a study"):
        Store(tmp_path / "study.sqlite")


def test_another_version_is_refused(tmp_path: Path) -> None:
    Store(tmp_path / "s.sqlite").put_meta("version", 99)
    with pytest.raises(ResumeError, match="99"):
        Store(tmp_path / "s.sqlite")


def test_a_store_without_a_study_says_so(tmp_path: Path) -> None:
    with pytest.raises(ResumeError, match="holds no study"):
        Store(tmp_path / "s.sqlite").info()


def test_a_cell_is_its_recipe_size_seed_and_setting() -> None:
    a, b = cells(1)[0], Cell("final", "full", "abc", "32", 0, 3, (("learning_rate", 1e-3),))
    assert a.id == b.id
    assert json.loads(a.id)[-1] == {"learning_rate": 1e-3}
    assert a.id != Cell("final", "full", "other", "32", 0, 0, a.setting).id


def test_predictions_are_packed_and_come_back(store: Store) -> None:
    cell = cells()[0]
    whole = replace(record(cell), predictions=["good", "bad"] * 500, items=[1.0, 0.0] * 500)
    store.finish(cell, whole)
    text = sqlite3.connect(store.path).execute("SELECT record FROM cells WHERE record IS NOT NULL").fetchone()[0]
    assert len(text) < 1500
    ((_, found),) = store.records()
    assert found == whole


def test_a_study_of_the_first_version_goes_on(tmp_path: Path) -> None:
    """Its records hold plain lists, or none at all."""
    store = Store(tmp_path / "old.sqlite")
    store.add(cells())
    for cell, extra in zip(cells(), ({"predictions": ["a", "b"], "items": [1.0, 0.0]}, {}), strict=False):
        old = {k: v for k, v in record(cell).as_dict().items() if k not in ("predictions", "items", "levels")} | extra
        store._db.execute("UPDATE cells SET state = 'done', record = ? WHERE id = ?", (json.dumps(old), cell.id))
    store.put_meta("version", 1)
    store.close()
    again = Store(tmp_path / "old.sqlite")
    assert [r.predictions for _, r in again.records()] == [["a", "b"], []]
    assert again.meta("version") == 2


def test_a_crossed_cell_says_its_levels() -> None:
    cell = Cell("crossed", "full", "abc", "32", code((1, 0, 2)), 0)
    assert cell.levels == cell.blank().levels == [1, 0, 2]
    assert cell.streams == "sample 1, init 0, order 2"
    assert (cells()[2].levels, cells()[2].streams) == ([], "seed 2")
