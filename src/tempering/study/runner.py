"""The driver: claims cells, has them run, stores their records, tells how far it is. Several drivers may work on one study."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

from tempering.study.lease import owner_name
from tempering.study.records import Record
from tempering.study.store import Cell, Store
from tempering.study.worker import Bench, Child, Order

Listener = Callable[[dict[str, Any]], None]
TRIES = 2  # a cell whose process died is tried once more
PAUSE = 2.0  # seconds between looks at what other drivers do


@dataclass
class Driver:
    """Runs cells of one study, ``stop_after`` of them at most (None: all).

    ``workers`` 0 runs them in this process, 1 in a child process that may die without harm.
    """

    store: Store
    order: Order
    workers: int
    listener: Listener
    stop_after: int | None = None
    owner: str = field(default_factory=owner_name)
    _made: int = 0
    _seconds: dict[tuple[str, str, str], list[float]] = field(default_factory=dict)

    def drive(self, cells: Sequence[Cell]) -> bool:
        """Run ``cells`` until none is left, by this driver or another; False if the last run it may make came first."""
        bench, child = Bench(self.order), Child(self.order)
        try:
            while self.store.left(cells):
                if self.stop_after is not None and self._made >= self.stop_after:
                    return False
                cell = self.store.claim(self.owner, cells)
                if cell is None:  # what is left is leased to others: wait for them, or for their leases to run out
                    time.sleep(PAUSE)
                    continue
                record = self._run(cell, bench, child)
                if record is not None:
                    self.store.finish(cell, record)
                    self._made += 1
                    self._tell(cell, record, cells)
            return True
        finally:
            child.stop()

    def _run(self, cell: Cell, bench: Bench, child: Child) -> Record | None:
        try:
            if self.workers == 0:
                with _heartbeat(lambda: self.store.renew(cell, self.owner)):
                    return bench.run(cell)
            record = child.run(cell, lambda: self.store.renew(cell, self.owner))
        except BaseException:
            with suppress(Exception):
                self.store.release(cell, self.owner)
            raise
        if record is None and cell.tries < TRIES:
            self.store.release(cell, self.owner)
            self.store.count_try(cell)
            return None
        died = f"the process that ran it died {TRIES} times (killed, or out of memory)"
        return record or replace(cell.blank(), status="failed", reason=died)

    def _tell(self, cell: Cell, record: Record, cells: Sequence[Cell]) -> None:
        self._seconds.setdefault((cell.phase, cell.recipe, cell.size), []).append(record.seconds)
        scores = record.test or record.dev
        left = self.store.left(cells)
        event = {
            "event": "cell",
            "done": len(cells) - left,
            "total": len(cells),
            "phase": cell.phase,
            "recipe": cell.recipe,
            "size": cell.size,
        }
        event |= {"seed": cell.seed, "streams": cell.streams}
        event |= {"score": scores.get(self.order.metric), "metric": self.order.metric, "seconds": record.seconds}
        self.listener(event | {"status": record.status, "reason": record.reason, "remaining": self._remaining(cells)})

    def _remaining(self, cells: Sequence[Cell]) -> float:
        """Seconds of work left, from the mean of finished runs of the same recipe and size, else of all."""
        every = fmean(s for group in self._seconds.values() for s in group)
        known = {key: fmean(group) for key, group in self._seconds.items()}
        return sum(known.get((c.phase, c.recipe, c.size), every) for c in self.store.unfinished(cells))


class _heartbeat:  # noqa: N801 - reads as a statement
    """Calls ``beat`` every five seconds while open."""

    def __init__(self, beat: Callable[[], None]) -> None:
        self._beat = beat
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._over.wait(5.0):
            self._beat()

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
