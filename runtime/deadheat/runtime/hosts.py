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


def user_name() -> str:
    """The login name, or the number where the system knows no name for it."""
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
