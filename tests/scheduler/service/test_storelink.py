"""What the scheduler asks of a real store that is killed meanwhile."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from deadheat.runtime.errors import NotFound
from deadheat.runtime.programs import MatrixType
from deadheat.runtime.settings import SchedulerSettings
from deadheat.scheduler.service.storelink import StoreLink

TYPE = MatrixType(30, 20, "float64")


@asynccontextmanager
async def running(directory: Path) -> AsyncIterator[tuple[StoreLink, asyncio.Event]]:
    """A store, and what is set when it has been started again."""
    restarted = asyncio.Event()
    memory = directory / "memory"
    memory.mkdir()
    state = directory / "state"
    state.mkdir()
    settings = SchedulerSettings(
        state_dir=state,
        memory_dir=memory,
        listen="127.0.0.1:0",
        insecure=False,
        tls=None,
        memory_bytes=None,
        disk_bytes=1 << 30,
        ephemeral=False,
        log_level="info",
    )
    link = StoreLink(settings, restarted.set)
    await link.start()
    watching = asyncio.create_task(link.watch())
    try:
        yield link, restarted
    finally:
        await link.stop()
        await watching


async def is_asked(link: StoreLink) -> None:
    """Once a call is on its way to the store."""
    channel: Any = link._channel
    async with asyncio.timeout(20):
        while not list(channel._active_calls):
            await asyncio.sleep(0)


def lose(directory: Path, matrix_id: str) -> None:
    (sidecar,) = directory.rglob(f"{matrix_id}.json")
    sidecar.unlink()


Ask = Callable[[StoreLink], Awaitable[object]]


@pytest.mark.parametrize(
    "ask",
    [
        lambda link: link.seal("m1", ["m1"]),
        lambda link: link.hold("j1", ["m1"]),
        lambda link: link.missing(["m1"]),
        lambda link: link.make_results("j1", [("m1", TYPE), ("m2", TYPE)]),
        lambda link: link.release("j1", []),
        lambda link: link.matrices([], []),
    ],
    ids=["seal", "hold", "missing", "make_results", "release", "matrices"],
)
def test_what_is_asked_while_it_dies_is_answered_when_it_is_back(tmp_path: Path, ask: Ask) -> None:
    async def run() -> None:
        async with running(tmp_path) as (link, restarted):
            await link.make_results("j1", [("m1", TYPE)])
            os.kill(link.pid, signal.SIGSTOP)
            asked = asyncio.ensure_future(ask(link))
            await is_asked(link)
            os.kill(link.pid, signal.SIGKILL)
            await asyncio.wait_for(asked, 60)
            await asyncio.wait_for(restarted.wait(), 60)
            assert await link.missing(["m1", "m9"]) == ["m9"]

    asyncio.run(run())


def test_what_it_has_lost_is_said_by_the_next_one(tmp_path: Path) -> None:
    async def run() -> None:
        async with running(tmp_path) as (link, restarted):
            await link.make_results("j1", [("m1", TYPE)])
            os.kill(link.pid, signal.SIGSTOP)
            sealing = asyncio.ensure_future(link.seal("m1", []))
            await is_asked(link)
            await asyncio.to_thread(lose, tmp_path, "m1")
            os.kill(link.pid, signal.SIGKILL)
            with pytest.raises(NotFound, match="m1"):
                await asyncio.wait_for(sealing, 60)
            await asyncio.wait_for(restarted.wait(), 60)

    asyncio.run(run())


def test_while_there_is_none_questions_wait(tmp_path: Path) -> None:
    async def run() -> None:
        async with running(tmp_path) as (link, _):
            await link.make_results("j1", [("m1", TYPE)])
            os.kill(link.pid, signal.SIGKILL)
            async with asyncio.timeout(20):
                while link._stub is not None:
                    await asyncio.sleep(0.001)
            assert await asyncio.wait_for(link.missing(["m1", "m9"]), 60) == ["m9"]

    asyncio.run(run())
