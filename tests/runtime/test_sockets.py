"""Abstract sockets: who listens is found by name, and no longer than it listens."""

from __future__ import annotations

import asyncio
import secrets
import socket

import pytest

from deadheat.runtime.errors import PermissionRefused
from deadheat.runtime.sockets import Listener, check_ticket, connected


def test_who_connects_is_handed_over_until_the_listener_is_closed() -> None:
    name = f"deadheat-test-{secrets.token_hex(8)}"

    async def test() -> None:
        came: asyncio.Queue[socket.socket] = asyncio.Queue()
        listener = Listener(name, came.put_nowait, backlog=4)
        with pytest.raises(OSError, match="in use"):
            Listener(name, came.put_nowait, backlog=4)
        pairs = [(connected(name, timeout_s=20), await came.get()) for _ in range(3)]
        listener.close()
        for ours, theirs in pairs:
            with ours, theirs:
                theirs.sendall(b"still here")
                assert ours.recv(20) == b"still here"
        with pytest.raises(ConnectionRefusedError):
            connected(name, timeout_s=20)
        assert came.empty()

    asyncio.run(test())


def test_more_than_may_wait_are_turned_away_at_once() -> None:
    name = f"deadheat-test-{secrets.token_hex(8)}"

    async def test() -> None:
        listener = Listener(name, socket.socket.close, backlog=1)
        waiting = [connected(name, timeout_s=0) for _ in range(2)]  # Linux lets one more wait.
        with pytest.raises(BlockingIOError):
            connected(name, timeout_s=0)
        listener.close()
        for one in waiting:
            one.close()

    asyncio.run(test())


@pytest.mark.parametrize("guess", ["", "guess", "gültig", "right "])
def test_another_ticket_is_refused(guess: str) -> None:
    check_ticket("right", "right", "this test")
    with pytest.raises(PermissionRefused, match="the ticket for this test is not valid"):
        check_ticket(guess, "right", "this test")
