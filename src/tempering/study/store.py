"""The study on disk: one SQLite file. Finished cells are never run again; drivers claim cells by lease, so several may share a study."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tempering.errors import ResumeError
from tempering.study.compact import pack, unpack
from tempering.study.crossing import levels_of
from tempering.study.lease import gone
from tempering.study.records import Record, StudyInfo

VERSION = 2  # 2: long lists of a record are packed (`tempering.study.compact`); files of version 1 are read, and go on as 2
READ = (None, 1, VERSION)
PACKED = ("items", "predictions")
LEASE = 60.0  # seconds; renewed every few seconds while a cell runs
SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS cells (
    id TEXT PRIMARY KEY, phase TEXT NOT NULL, recipe TEXT NOT NULL, size TEXT NOT NULL, seed INTEGER NOT NULL, choice INTEGER NOT NULL,
    setting TEXT NOT NULL, recipe_key TEXT NOT NULL, position INTEGER NOT NULL,
    state TEXT NOT NULL DEFAULT 'open', tries INTEGER NOT NULL DEFAULT 0,
    owner TEXT, lease REAL, record TEXT
);
CREATE INDEX IF NOT EXISTS by_state ON cells (state, position);
"""


@dataclass(frozen=True)
class Cell:
    """One run to make; ``choice`` numbers the setting.

    ``phase``: "search" (scored on dev only), "final" (scored on test too), or "crossed" (the same for the decomposition of the variance;
    its ``seed`` holds the levels of three streams, see `tempering.study.crossing`).
    """

    phase: str
    recipe: str
    recipe_key: str
    size: str
    seed: int
    choice: int
    setting: tuple[tuple[str, Any], ...] = ()
    tries: int = 0

    @property
    def id(self) -> str:
        """What makes the cell the cell; another setting or another recipe of that name is another cell."""
        return json.dumps([self.phase, self.recipe, self.recipe_key, self.size, self.seed, dict(self.setting)], sort_keys=True)

    @property
    def levels(self) -> list[int]:
        """Of sampling, initialization and order, where the run crosses them; else empty."""
        return list(levels_of(self.seed)) if self.phase == "crossed" else []

    @property
    def streams(self) -> str:
        """What the run draws from, in words: "seed 3", or a level for each stream."""
        return "sample {}, init {}, order {}".format(*self.levels) if self.levels else f"seed {self.seed}"

    def blank(self) -> Record:
        """A record that holds no more than which cell it is of."""
        return Record(self.recipe, self.recipe_key, self.size, 0, self.seed, dict(self.setting), levels=self.levels)


class Store:
    """A study's SQLite file, opened for as long as the object lives."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        try:
            self._db = sqlite3.connect(path, timeout=60.0, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.executescript(SCHEMA)
        except sqlite3.DatabaseError as error:
            raise ResumeError(f"{path}: not a study of tempering ({error}); give another --output-dir") from None
        found = self.meta("version")
        if found not in READ:
            raise ResumeError(
                f"{path}: written by another version of the study's format ({found}, here {VERSION}); give another --output-dir"
            )
        self.put_meta("version", VERSION)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield self._db
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def meta(self, name: str) -> Any:
        """A stored fact, or None."""
        row = self._db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return None if row is None else json.loads(row[0])

    def put_meta(self, name: str, value: Any) -> None:
        """Store a fact."""
        self._db.execute(
            "INSERT INTO meta VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value", (name, json.dumps(value))
        )

    def merge_meta(self, name: str, more: dict[str, Any], stands: Callable[[Any], bool] | None = None) -> dict[str, Any]:
        """Add entries to a stored mapping, in one step: another driver may be adding its own.

        An old entry whose value does not stand (None: all do) goes; returns those that nothing replaces.
        """
        with self._writing():
            old = self.meta(name) or {}
            kept = {key: value for key, value in old.items() if stands is None or stands(value)}
            self.put_meta(name, kept | more)
        return {key: value for key, value in old.items() if key not in kept | more}

    def info(self) -> StudyInfo:
        """What the study compares."""
        found = self.meta("info")
        if found is None:
            raise ResumeError(f"{self.path.parent}: holds no study; expected a folder that temper compare wrote")
        return StudyInfo(**found)

    def add(self, cells: Sequence[Cell]) -> None:
        """Add cells that are not there yet, in this order after those that are."""
        with self._writing() as db:
            start = db.execute("SELECT COALESCE(MAX(position), 0) FROM cells").fetchone()[0]
            for i, c in enumerate(cells, start + 1):
                row = (c.id, c.phase, c.recipe, c.size, c.seed, c.choice, json.dumps(dict(c.setting)), c.recipe_key, i)
                db.execute(
                    "INSERT OR IGNORE INTO cells (id, phase, recipe, size, seed, choice, setting, recipe_key, position)"
                    " VALUES (?,?,?,?,?,?,?,?,?)",
                    row,
                )

    def claim(self, owner: str, wanted: Sequence[Cell]) -> Cell | None:
        """The next of the ``wanted`` cells that is open, or whose driver is gone or let its lease run out, now leased to ``owner``."""
        ids = {c.id for c in wanted}
        now = time.time()
        with self._writing() as db:
            columns = "id, phase, recipe, recipe_key, size, seed, choice, setting, tries, state = 'running' AND lease >= ?, owner"
            query = f"SELECT {columns} FROM cells WHERE state IN ('open', 'running') ORDER BY position"
            for row in db.execute(query, (now,)).fetchall():
                if row[0] in ids and (not row[9] or gone(row[10])):
                    db.execute(
                        "UPDATE cells SET state = 'running', owner = ?, lease = ?, tries = tries + 1 WHERE id = ?",
                        (owner, now + LEASE, row[0]),
                    )
                    return _cell(row[1:9], tries=row[8] + 1)
        return None

    def renew(self, cell: Cell, owner: str) -> None:
        """Prolong the lease of a running cell."""
        self._db.execute("UPDATE cells SET lease = ? WHERE id = ? AND owner = ?", (time.time() + LEASE, cell.id, owner))

    def release(self, cell: Cell, owner: str) -> None:
        """Give a claimed cell back unrun."""
        self._db.execute(
            "UPDATE cells SET state = 'open', tries = tries - 1 WHERE id = ? AND owner = ? AND state = 'running'", (cell.id, owner)
        )

    def count_try(self, cell: Cell) -> None:
        """Note that a run of the cell was spent."""
        self._db.execute("UPDATE cells SET tries = tries + 1 WHERE id = ?", (cell.id,))

    def finish(self, cell: Cell, record: Record) -> None:
        """Store the record of a cell. A cell that another driver finished meanwhile keeps its record."""
        plain = record.as_dict()
        text = json.dumps(plain | {name: pack(plain[name]) for name in PACKED}, ensure_ascii=False)
        self._db.execute("UPDATE cells SET state = ?, record = ? WHERE id = ? AND state != 'done'", (record.status, text, cell.id))

    def unfinished(self, wanted: Sequence[Cell]) -> list[Cell]:
        """Those of the ``wanted`` cells that are neither done nor failed."""
        states = dict(self._db.execute("SELECT id, state FROM cells").fetchall())
        return [c for c in wanted if states.get(c.id) not in ("done", "failed")]

    def left(self, wanted: Sequence[Cell]) -> int:
        """How many of the ``wanted`` cells are neither done nor failed."""
        return len(self.unfinished(wanted))

    def reopen_failed(self, wanted: Sequence[Cell]) -> None:
        """Give failed cells another chance: a later call may bring more memory, or a mended model folder."""
        with self._writing() as db:
            for c in wanted:
                db.execute("UPDATE cells SET state = 'open', tries = 0, record = NULL WHERE id = ? AND state = 'failed'", (c.id,))

    def records(self, phase: str = "final") -> list[tuple[Cell, Record]]:
        """Finished and failed cells of a phase with their records, in the order of the study."""
        query = (
            "SELECT phase, recipe, recipe_key, size, seed, choice, setting, tries, record FROM cells WHERE phase = ? AND record IS NOT NULL"
        )
        rows = self._db.execute(query + " ORDER BY position", (phase,)).fetchall()
        return [(_cell(r, r[7]), _record(json.loads(r[8]))) for r in rows]


def _cell(row: Sequence[Any], tries: int) -> Cell:
    phase, recipe, key, size, seed, choice, setting = row[:7]
    return Cell(phase, recipe, key, size, seed, choice, tuple(json.loads(setting).items()), tries)


def _record(plain: dict[str, Any]) -> Record:
    return Record(**(plain | {name: unpack(plain[name]) for name in PACKED if name in plain}))
