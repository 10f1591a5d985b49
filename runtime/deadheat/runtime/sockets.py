"""Unix sockets under abstract names, and the tickets that callers bring.

An abstract name exists only in the network namespace of whoever listens: who can connect is on
this host, and needs no path that both can see. Who may call is another question; for that there
are tickets, had over a connection that has been authenticated.
"""

from __future__ import annotations

import asyncio
import hmac
import socket
from collections.abc import Callable

from deadheat.runtime.errors import PermissionRefused


class Listener:
    """Listens under a name, on the running event loop, which calls `on_connect` with each socket;
    that is the callee's to close. Raises OSError where somebody listens under that name."""

    def __init__(
        self, name: str, on_connect: Callable[[socket.socket], None], *, backlog: int
    ) -> None:
        self._on_connect = on_connect
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.bind("\0" + name)
            self._socket.listen(backlog)
        except OSError:
            self._socket.close()
            raise
        self._socket.setblocking(False)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket, self._accept)

    def _accept(self) -> None:
        try:
            sock, _ = self._socket.accept()
        except BlockingIOError:
            return
        self._on_connect(sock)

    def close(self) -> None:
        """Nobody else gets in; who is connected stays so."""
        self._loop.remove_reader(self._socket)
        self._socket.close()


def connected(name: str, *, timeout_s: float) -> socket.socket:
    """A socket to whoever listens under a name; its operations time out likewise, and do not block
    at all with 0. Raises OSError where nobody on this host listens, or more wait than may."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(timeout_s)
    try:
        sock.connect("\0" + name)
    except OSError:
        sock.close()
        raise
    return sock


def check_ticket(given: str, ticket: str, what: str) -> None:
    """Raises PermissionRefused if it is another one, and takes as long wherever they differ."""
    if not hmac.compare_digest(given.encode(), ticket.encode()):
        raise PermissionRefused(f"the ticket for {what} is not valid")
