"""sd_notify: the protocol, and that a service manager never harms a daemon."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest
from tests.runtime.listening import listening

from deadheat.runtime import notify
from deadheat.runtime.children import Child


@pytest.mark.parametrize("is_abstract", [False, True])
def test_states_go_to_the_socket_by_path_and_by_abstract_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_abstract: bool
) -> None:
    address = f"@deadheat-test-{os.getpid()}" if is_abstract else str(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    with listening(address) as manager:
        assert notify.ready("serving")
        assert notify.stopping()
        manager.drain()
    assert manager.messages == [
        {"READY": "1", "STATUS": "serving"},
        {"STOPPING": "1", "STATUS": "stopping"},
    ]


def test_a_reload_carries_the_monotonic_time_in_the_same_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    before_us = time.monotonic_ns() // 1000
    with listening(tmp_path / "notify") as manager:
        notify.reloading()
        (message,) = [manager.wait_for_key("RELOADING")]
    assert before_us <= int(message["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000


def test_a_status_of_several_lines_is_one_assignment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    with listening(tmp_path / "notify") as manager:
        notify.status("what came by wire\nSTOPPING=1")
        assert manager.wait_for_key("STATUS") == {"STATUS": "what came by wire STOPPING=1"}


@pytest.mark.parametrize("address", ["", "relative", "/nonexistent/notify", "@nobody-is-here"])
def test_without_a_service_manager_nothing_happens(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    assert not notify.ready("nobody listens")


def test_what_takes_long_asks_for_more_time_until_it_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))

    async def run() -> str:
        async def migrate() -> str:
            async with asyncio.timeout(60):
                while len(manager.messages) < 2:
                    await asyncio.sleep(0.005)
                    manager.drain()
            return "done"

        result = await notify.while_extending("migrating", migrate(), interval_s=0.02)
        manager.drain()
        seen = len(manager.messages)
        await asyncio.sleep(0.06)
        manager.drain()
        assert len(manager.messages) == seen, "it asks on though it is done"
        return result

    with listening(tmp_path / "notify") as manager:
        assert asyncio.run(run()) == "done"
    assert manager.messages[0] == {"EXTEND_TIMEOUT_USEC": "30000000", "STATUS": "migrating"}


def test_what_fails_fails_as_it_would_without_us() -> None:
    async def migrate() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        asyncio.run(notify.while_extending("migrating", migrate()))


def test_children_do_not_speak_for_their_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in notify.VARIABLES:
        monkeypatch.setenv(name, "/x")
    child = Child("tests.runtime.a_child", log_path=tmp_path / "log")
    try:
        child.wait_ready(60)
        environment = Path(f"/proc/{child.pid}/environ").read_bytes().split(b"\0")
    finally:
        child.stop()
    names = {entry.partition(b"=")[0].decode() for entry in environment}
    assert "PATH" in names
    assert not names & notify.VARIABLES
