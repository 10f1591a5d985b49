"""The one writer: a thread that commits batches of changes, as many at once as have come.

A batch that cannot be committed (a full disk, somebody's lock) is tried again until it can be:
the core has decided already, and nothing that depends on the batch is sent before.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from deadheat.runtime import logs
from deadheat.scheduler.core.effects import Change
from deadheat.scheduler.records import statements
from deadheat.scheduler.records.clock import Clock

log = logs.get("records")

#: Batches in one transaction; more would delay the first of them for little.
MAX_GROUP: Final = 256
#: Batches that wait; then the scheduler refuses new work (see `is_stalled`).
MAX_QUEUED: Final = 10_000
RETRY_S: Final = 0.5

Batch = tuple[Sequence[Change], Callable[[], object]]


class Writer:
    """Start it once. `submit` never blocks; `done` is called from the writer's thread."""

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock
        self._queue: queue.Queue[Batch | None] = queue.Queue()
        self._stopping = threading.Event()
        self.is_stalled = False
        self.problem = ""
        self._connection: Connection | None = None
        self._began_s: float | None = None
        self._thread = threading.Thread(target=self._run, name="records-writer", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def busy_s(self) -> float:
        """How long the commit at hand has taken: one that neither ends nor fails is stuck."""
        began_s = self._began_s
        return 0.0 if began_s is None else time.monotonic() - began_s

    def submit(self, changes: Sequence[Change], done: Callable[[], object]) -> None:
        if self._queue.qsize() >= MAX_QUEUED:
            self.is_stalled = True
        self._queue.put((changes, done))

    def stop(self, timeout_s: float) -> None:
        """Commits what has come, and ends; gives up on a batch that cannot be committed."""
        self._stopping.set()
        self._queue.put(None)
        self._thread.join(timeout_s)

    def _run(self) -> None:
        ended = False
        while not ended:
            group: list[Batch] = []
            item = self._queue.get()
            while True:
                if item is None:
                    ended = True
                else:
                    group.append(item)
                if ended or len(group) >= MAX_GROUP:
                    break
                try:
                    item = self._queue.get_nowait()
                except queue.Empty:
                    break
            self._commit_until_done(group)
        self._disconnect()

    def _connected(self) -> Connection:
        """The writer's own connection: taking one from the pool and giving it back for each
        transaction costs as much as the statements of a small job."""
        if self._connection is None:
            self._connection = self._engine.connect()
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _commit_until_done(self, group: list[Batch]) -> None:
        while group:
            self._began_s = time.monotonic()
            try:
                connection = self._connected()
                with connection.begin():
                    changes = (change for batch, _ in group for change in batch)
                    statements.apply(connection, changes, self._clock)
            except SQLAlchemyError as error:
                self._disconnect()
                self._began_s = None
                self.is_stalled, self.problem = True, str(error.__cause__ or error)
                log.warning(
                    f"cannot commit, trying again: {self.problem}",
                    extra=logs.keys("commit", batches=len(group)),
                )
                if self._stopping.wait(RETRY_S):
                    return
            else:
                self._began_s = None
                self.is_stalled = False
                for _, done in group:
                    done()
                return
