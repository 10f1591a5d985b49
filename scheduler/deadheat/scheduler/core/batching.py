"""Batching: which calls of one model go together, and when.

Rules of this file: no clock and no I/O; calls go in the order in which they came, each whole, in
one batch. A call that finds nobody else there is sent at once. Where others are about to come (the
last batch had several calls), or a batch is under way, it waits for company, but not beyond its
bound, unless all places for batches are taken.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Final

from deadheat.runtime.errors import LimitReached

#: Batches of one model that are computed at once: while one is on its way back, the next computes.
MAX_IN_FLIGHT: Final = 2
#: Calls of one model that wait; one more is told that it is busy. Some seconds' worth.
MAX_QUEUED: Final = 2048


@dataclass(frozen=True, slots=True)
class Call:
    """Some rows of one caller; `due_s` is when it has waited for others long enough."""

    number: int
    rows: int
    due_s: float


class Batcher:
    """The calls of one model that wait."""

    def __init__(self, max_rows: int) -> None:
        """`max_rows` is how many rows a batch may have."""
        self.max_rows = max_rows
        self.in_flight = 0
        self._queue: deque[Call] = deque()
        self._rows = 0
        #: Calls of the last batch: about so many callers come back when it has ended.
        self._expected = 1

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def is_idle(self) -> bool:
        return not self._queue and not self.in_flight

    def add(self, call: Call) -> None:
        """A call comes; raises LimitReached where too many wait."""
        assert 0 < call.rows <= self.max_rows
        if len(self._queue) >= MAX_QUEUED:
            raise LimitReached(
                f"busy: {len(self._queue)} calls of this model wait, the limit; call again later"
            )
        self._queue.append(call)
        self._rows += call.rows

    def remove(self, number: int) -> bool:
        """A caller goes away; False if its call does not wait (any more)."""
        for call in self._queue:
            if call.number == number:
                self._queue.remove(call)
                self._rows -= call.rows
                return True
        return False

    def drop_all(self) -> list[Call]:
        """Takes all calls that wait out of the queue."""
        dropped = list(self._queue)
        self._queue.clear()
        self._rows = 0
        return dropped

    def take(self, now: float) -> list[Call]:
        """The batch that has to be sent now, which is under way from here on; empty if none has."""
        if not self._queue or self.in_flight >= MAX_IN_FLIGHT or self.due_s() > now:
            return []
        batch: list[Call] = []
        rows = 0
        while self._queue and rows + self._queue[0].rows <= self.max_rows:
            batch.append(self._queue.popleft())
            rows += batch[-1].rows
        self._rows -= rows
        self.in_flight += 1
        self._expected = len(batch)
        return batch

    def ended(self) -> None:
        """A batch has come back."""
        self.in_flight -= 1

    def due_s(self) -> float:
        """When the next batch is to be sent if nothing else happens; infinity while there is no
        place for it, or nobody waits."""
        if not self._queue or self.in_flight >= MAX_IN_FLIGHT:
            return math.inf
        is_company_there = not self.in_flight and len(self._queue) >= self._expected
        if is_company_there or self._rows >= self.max_rows:
            return -math.inf
        return min(call.due_s for call in self._queue)
