"""Whether the writer is well: a commit that ends or fails is, one that does neither is not."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest
from tests.waiting import wait_until

from deadheat.scheduler import daemon as daemon_module
from deadheat.scheduler.core.effects import Prune
from deadheat.scheduler.records import database
from deadheat.scheduler.records.clock import Clock
from deadheat.scheduler.records.writer import Writer


def test_a_commit_that_waits_is_seen_and_one_that_is_done_is_not(tmp_path: Path) -> None:
    path = tmp_path / "deadheat.db"
    database.migrate(path)
    writer = Writer(database.open_engine(path, writes=True), Clock.start())
    assert writer.busy_s == 0.0
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    done = threading.Event()
    writer.submit([Prune(0.0)], done.set)
    wait_until(lambda: writer.busy_s > 0.05, "a commit under way")
    blocker.execute("ROLLBACK")
    assert done.wait(60)
    wait_until(lambda: writer.busy_s == 0.0, "nothing under way")
    writer.stop(60)
    blocker.close()


class Stub:
    """A writer in some state or other."""

    def __init__(self, *, alive: bool = True, busy_s: float = 0.0) -> None:
        self.is_alive, self.busy_s = alive, busy_s
        # A full disk is no reason to be restarted: it would be as full afterwards.
        self.is_stalled, self.problem = True, "database or disk is full"


@pytest.mark.parametrize(
    ("writer", "problem"),
    [
        (None, "the thread that writes the records has ended"),
        (Stub(alive=False), "the thread that writes the records has ended"),
        (Stub(busy_s=25.0), "a commit has taken 25 s"),
        (Stub(), ""),
    ],
)
def test_a_scheduler_is_as_well_as_its_writer(
    writer: Writer | None, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Bare(daemon_module.Daemon):
        def __init__(self) -> None:
            self.writer = writer

    assert Bare()._problem() == problem


def test_the_limit_is_well_beyond_what_a_locked_database_takes() -> None:
    assert daemon_module.STUCK_COMMIT_S * 1000 > 2 * database.BUSY_TIMEOUT_MS
