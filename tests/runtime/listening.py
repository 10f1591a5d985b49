"""A service manager's end of sd_notify: a datagram socket, and what came through it."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


class Listener:
    """What a daemon has told us, message by message, each a mapping of its assignments."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.messages: list[dict[str, str]] = []

    def drain(self) -> None:
        self._sock.settimeout(0.0)
        try:
            while True:
                text = self._sock.recv(65536).decode()
                self.messages.append(dict(line.split("=", 1) for line in text.split("\n")))
        except BlockingIOError:
            return

    def wait_for(
        self, wanted: Callable[[dict[str, str]], bool], what: str, timeout_s: float = 60.0
    ) -> dict[str, str]:
        """The first message like that which has not been looked at yet; those before it are
        forgotten."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            self.drain()
            while self.messages:
                message = self.messages.pop(0)
                if wanted(message):
                    return message
            if time.monotonic() > deadline_s:
                raise AssertionError(f"waited {timeout_s:.0f} s in vain for: {what}")
            time.sleep(0.01)

    def wait_for_key(self, key: str, timeout_s: float = 60.0) -> dict[str, str]:
        return self.wait_for(lambda message: key in message, key, timeout_s)


@contextmanager
def listening(path: str | Path) -> Iterator[Listener]:
    """Binds a path, or an abstract name (which begins with @)."""
    address = str(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("\0" + address[1:] if address.startswith("@") else address)
        yield Listener(sock)
