"""The heartbeat: food for the watchdog while the daemon is well, and a status that is current."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from tests.runtime.listening import Listener, listening

from deadheat.runtime.heartbeat import Heartbeat


class Daemon:
    """What a daemon says of itself."""

    def __init__(self) -> None:
        self.status = "serving"
        self.problem = ""
        self.beats = 0
        self.heartbeat = Heartbeat(self._status, lambda: self.problem)

    def _status(self) -> str:
        self.beats += 1  # It is asked for once in each.
        return self.status


def beating(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    story: Callable[[Daemon, Listener], Awaitable[None]],
) -> None:
    """Tells a story while a heart beats fifty times a second."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setenv("WATCHDOG_USEC", "40000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))

    async def run(manager: Listener) -> None:
        daemon = Daemon()
        daemon.heartbeat.ready()
        running = asyncio.create_task(daemon.heartbeat.run())
        await story(daemon, manager)
        running.cancel()

    with listening(tmp_path / "notify") as manager:
        asyncio.run(run(manager))


async def seen(daemon: Daemon, manager: Listener) -> list[dict[str, str]]:
    """What comes in the next ten beats."""
    manager.drain()
    manager.messages.clear()
    before = daemon.beats
    async with asyncio.timeout(60):
        while daemon.beats < before + 10:
            await asyncio.sleep(0.005)
            manager.drain()  # Its socket may hold no more than ten.
    return list(manager.messages)


def test_a_daemon_that_is_well_feeds_the_watchdog(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(daemon: Daemon, manager: Listener) -> None:
        assert {"WATCHDOG": "1"} in await seen(daemon, manager)

    beating(tmp_path, monkeypatch, story)


def test_one_that_is_not_does_not_and_says_why_until_it_is_well_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(daemon: Daemon, manager: Listener) -> None:
        daemon.problem = "the writer has ended"
        assert await seen(daemon, manager) == [{"STATUS": "the writer has ended; serving"}]
        daemon.problem = ""
        messages = await seen(daemon, manager)
        assert messages[0] == {"WATCHDOG": "1", "STATUS": "serving"}
        assert {"WATCHDOG": "1"} in messages

    beating(tmp_path, monkeypatch, story)


def test_a_blocked_loop_feeds_nobody_and_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def story(daemon: Daemon, manager: Listener) -> None:
        await seen(daemon, manager)
        manager.messages.clear()
        time.sleep(1.2)  # noqa: ASYNC251 - this is the point.
        manager.drain()
        assert manager.messages == []
        await seen(daemon, manager)

    monkeypatch.setattr(logging.getLogger("deadheat"), "propagate", True)
    beating(tmp_path, monkeypatch, story)
    blocked_s = re.findall(r"the event loop was blocked for ([0-9.]+) s", caplog.text)
    assert max(map(float, blocked_s)) >= 1.1


def test_the_status_is_told_when_it_changes_and_only_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(daemon: Daemon, manager: Listener) -> None:
        assert not any("STATUS" in message for message in await seen(daemon, manager))
        daemon.status = "2 jobs running"
        told = [m["STATUS"] for m in await seen(daemon, manager) if "STATUS" in m]
        assert told == ["2 jobs running"]

    beating(tmp_path, monkeypatch, story)


def test_a_reload_before_the_start_is_over_does_not_say_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    daemon = Daemon()
    with listening(tmp_path / "notify") as manager:
        daemon.heartbeat.reloaded("refused")
        manager.drain()
        assert manager.messages == []
        daemon.heartbeat.ready()
        assert manager.wait_for_key("READY") == {"READY": "1", "STATUS": "serving; refused"}
