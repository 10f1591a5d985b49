"""Epochs in a shell: one commit each, whoever shares them, and what is sent is durable before."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence, Sized
from pathlib import Path
from typing import cast

import pytest
from tests.scheduler.core.harness import HOST, Pool
from tests.scheduler.core.test_trainings import training
from tests.waiting import wait_until

from deadheat.runtime.programs import MatrixType
from deadheat.scheduler.core import effects, events
from deadheat.scheduler.core.core import Core
from deadheat.scheduler.core.machine import JobState
from deadheat.scheduler.records import database
from deadheat.scheduler.records.clock import Clock
from deadheat.scheduler.records.reading import Reader
from deadheat.scheduler.records.writer import Writer
from deadheat.scheduler.service.shell import Shell
from deadheat.scheduler.service.storelink import StoreLink

EPOCHS = 4
#: The commits of a training besides those of its epochs: submission, and the first plan.
BEFORE = 2
WAIT_S = 30.0


class StandingClock(Clock):
    """It shows one moment: nobody is silent for too long, however long a disk takes to commit."""

    @staticmethod
    def now() -> float:
        return 1000.0


class CountingWriter(Writer):
    """A real one that says what it was given, batch by batch."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self.batches: list[Sequence[effects.Change]] = []
        super().__init__(database.open_engine(path, writes=True), clock)

    def submit(self, changes: Sequence[effects.Change], done: Callable[[], object]) -> None:
        self.batches.append(list(changes))
        super().submit(changes, done)


class WillingStore:
    """Answers all that a shell asks of the store, a moment later."""

    async def make_results(self, job: str, matrices: Sequence[tuple[str, MatrixType]]) -> None:
        await asyncio.sleep(0)

    async def seal(self, matrix_id: str, check_ids: Sequence[str]) -> None:
        await asyncio.sleep(0)

    async def delete(self, matrix_ids: Sequence[str]) -> None: ...

    async def release(self, job: str, give_up: Sequence[str]) -> None: ...


class StrictOutbox:
    """Sees to it that what is sent depends on nothing that another process could not read."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.assigned: list[effects.SendAssign] = []
        self.settled: list[str] = []

    def send(self, effect: effects.Effect) -> None:
        rows = {
            one.row.id: one.state.value
            for job in self._reader.unfinished_jobs()
            for one in job.placements
        }
        match effect:
            case effects.SendAssign():
                assert rows[effect.subtask] == "assigned"
                self.assigned.append(effect)
            case effects.SendSettled(_, subtasks):
                # The last ones belong to a job that has ended.
                assert {rows.get(one, "done") for one in subtasks} == {"done"}
                self.settled += subtasks


class ShellPool(Pool):
    """Agents played by the test, before a core with its shell and a database."""

    def __init__(self, core: Core, shell: Shell, clock: Clock) -> None:
        super().__init__()
        self.core = core
        self._shell, self._clock = shell, clock

    def feed(self, event: events.Event) -> None:
        self.now = self._clock.now()
        self._shell.feed(event)


@pytest.mark.parametrize("names", ["a", "abc"], ids=["one device", "three devices"])
def test_each_epoch_is_one_commit(tmp_path: Path, names: str) -> None:
    path = tmp_path / "deadheat.db"
    database.migrate(path)
    clock = StandingClock(1_700_000_000.0)
    writer = CountingWriter(path, clock)
    outbox = StrictOutbox(Reader(database.open_engine(path, writes=False), clock))

    async def until(count: int, of: Sized) -> None:
        async with asyncio.timeout(WAIT_S):
            while len(of) < count:
                await asyncio.sleep(0.001)

    async def run() -> None:
        core = Core(HOST)
        shell = Shell(core, writer, clock, cast("StoreLink", WillingStore()), outbox)
        pool = ShellPool(core, shell, clock)
        for number, name in enumerate(names):
            pool.join(name, gflops=50.0, peer_address=f"127.0.0.1:{7000 + number}")
        writer.batches.clear()
        job = pool.submit(program=training(EPOCHS, batch_size=25_000))
        for epoch in range(EPOCHS):
            await until(len(names) * (epoch + 1), outbox.assigned)
            assert len(writer.batches) == BEFORE + epoch
            assert len(outbox.settled) == len(names) * epoch
            for subtask in pool.active(job):
                pool.finish(subtask)
        await until(len(names) * EPOCHS, outbox.settled)
        assert job.state is JobState.DONE
        shell.close()

    asyncio.run(run())
    assert len(writer.batches) == BEFORE + EPOCHS
    for batch in writer.batches[BEFORE:]:
        ends = [one for one in batch if isinstance(one, effects.PlacementChange)]
        # One row for each device, and what it has become in the same transaction as what is next.
        assert len(ends) == len(names)
        assert {one.values["state"] for one in ends} == {"done"}
        kinds = {type(one) for one in batch}
        assert effects.PlacementRow in kinds or effects.JobChange in kinds
    writer.stop(60)
    wait_until(lambda: not writer.is_alive, "the writer's end")
