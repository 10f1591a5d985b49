"""Who this host is: a name for people, and an identity that only processes on one kernel and in
one network namespace share (they can reach the same abstract Unix sockets)."""

from __future__ import annotations

import os
import socket
from pathlib import Path


def host_name() -> str:
    return socket.gethostname().split(".")[0] or "localhost"


def host_identity() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}/{Path('/proc/self/ns/net').stat().st_ino}"


def address_towards(server: str) -> str:
    """The address of this host on the way to HOST:PORT, in brackets if it is IPv6; empty if there
    is no way. Nothing is sent."""
    host, port = server.rpartition(":")[::2]
    try:
        for family, kind, _, _, target in socket.getaddrinfo(
            host.strip("[]"), int(port), type=socket.SOCK_DGRAM
        ):
            with socket.socket(family, kind) as probe:
                probe.connect(target)
                own = str(probe.getsockname()[0])
            return f"[{own}]" if ":" in own else own
    except (OSError, ValueError):
        return ""
    return ""


def user_name() -> str:
    """The login name, or the number where the system knows no name for it."""
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
