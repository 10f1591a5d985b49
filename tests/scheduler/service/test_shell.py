"""What waits for a commit, and what does not: a real core and writer, whose database is locked."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import pytest
from tests.scheduler.core.harness import Pool

from deadheat.scheduler.core import effects, events
from deadheat.scheduler.records import database
from deadheat.scheduler.records.clock import Clock
from deadheat.scheduler.records.writer import Writer
from deadheat.scheduler.service.shell import Shell
from deadheat.scheduler.service.storelink import StoreLink


class Fed(Pool):
    """Its events go through a shell."""

    shell: Shell

    def feed(self, event: events.Event) -> None:
        self.turn = self.shell.feed(event, self.now)


class Store:
    """Makes what it is asked for, and says when it was asked."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def make_results(self, job: str, matrices: Sequence[object]) -> None:
        assert job
        assert len(matrices) == 1
        self.asked.set()


class BrokenStore(Store):
    """Raises what nobody foresaw."""

    async def make_results(self, job: str, matrices: Sequence[object]) -> None:
        await super().make_results(job, matrices)
        raise RuntimeError("nobody foresaw this")


class Outbox:
    """What agents are sent."""

    def __init__(self) -> None:
        self.sent: list[effects.Effect] = []
        self.assigned = asyncio.Event()

    def send(self, effect: effects.Effect) -> None:
        self.sent.append(effect)
        if isinstance(effect, effects.SendAssign):
            self.assigned.set()


def test_room_for_a_result_is_made_meanwhile_and_nothing_is_assigned_before_it_is_durable(
    tmp_path: Path,
) -> None:
    path = tmp_path / "deadheat.db"
    database.migrate(path)

    async def run() -> None:
        clock = Clock.start()
        writer = Writer(database.open_engine(path, writes=True), clock)
        pool, store, outbox = Fed(), Store(), Outbox()
        shell = pool.shell = Shell(pool.core, writer, clock, cast("StoreLink", store), outbox)
        pool.now = clock.now()
        pool.join("a")
        await shell.commit()
        blocker = sqlite3.connect(path, isolation_level=None)
        blocker.execute("BEGIN IMMEDIATE")
        pool.submit(2048, 2048, 2048)
        turn = pool.turn
        await asyncio.wait_for(store.asked.wait(), 20)
        # The answer of the store is on the loop by now, and would have had the work assigned.
        await shell.plan_aside(lambda _now: None)
        assert not turn.is_committed
        assert not outbox.assigned.is_set()
        blocker.execute("ROLLBACK")
        blocker.close()
        await asyncio.wait_for(outbox.assigned.wait(), 60)
        assert turn.is_committed
        shell.close()
        writer.stop(60)

    asyncio.run(run())


def test_a_job_hears_of_an_error_that_nobody_foresaw(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "deadheat.db"
    database.migrate(path)

    async def run() -> None:
        clock = Clock.start()
        writer = Writer(database.open_engine(path, writes=True), clock)
        pool = Fed()
        store = cast("StoreLink", BrokenStore())
        shell = pool.shell = Shell(pool.core, writer, clock, store, Outbox())
        pool.now = clock.now()
        pool.join("a")
        pool.submit(2048, 2048, 2048)
        (job,) = pool.core.world.jobs.values()
        async with asyncio.timeout(60):
            while not job.state.is_final:
                await shell.commit()
        assert job.failure is not None
        assert job.failure.message == "RuntimeError in the scheduler; see its log"
        shell.close()
        writer.stop(60)

    asyncio.run(run())
    assert "nobody foresaw this" in caplog.text
