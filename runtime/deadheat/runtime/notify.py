"""The sd_notify protocol (systemd's man page declares it stable): state lines to a Unix socket.

Nothing here ever fails or blocks for long: a daemon must not suffer from its supervisor. Without
a service manager every call does nothing.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Awaitable, Mapping
from typing import Final, TypeVar

T = TypeVar("T")

#: What the service manager tells the process that it started, and nobody below it: a child that
#: said READY=1 or STOPPING=1 would say it for its parent.
VARIABLES: Final = frozenset({"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"})
#: A service manager that does not read (it re-executes itself, say) is given so long.
SEND_TIMEOUT_S: Final = 1.0
#: While something takes long, each message asks for so much more, and the next comes well before.
EXTENSION_S: Final = 30.0
EXTEND_INTERVAL_S: Final = 5.0


def notify(*lines: str) -> bool:
    """Sends lines such as "READY=1" to the service manager; False where there is none, or where
    it does not listen."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address[:1] not in ("/", "@") or not lines:
        return False
    # A line is one assignment: what came from elsewhere must not add another.
    message = "\n".join(" ".join(line.split("\n")) for line in lines)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.settimeout(SEND_TIMEOUT_S)
            sock.connect("\0" + address[1:] if address[0] == "@" else address)
            sock.sendall(message.encode())
    except OSError:
        return False
    return True


def ready(status: str) -> bool:
    return notify("READY=1", f"STATUS={status}")


def status(text: str) -> bool:
    return notify(f"STATUS={text}")


def stopping(text: str = "stopping") -> bool:
    return notify("STOPPING=1", f"STATUS={text}")


def reloading() -> bool:
    """Announces a reload; `ready` ends it. systemd 253 and later want the time with it."""
    return notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


def watchdog_interval_s() -> float | None:
    """How often to ping: half of what the service manager allows, None where it does not ask."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    limit_us = int(os.environ.get("WATCHDOG_USEC", "0"))
    return limit_us / 2e6 if limit_us else None


async def while_extending(
    doing: str, work: Awaitable[T], *, interval_s: float = EXTEND_INTERVAL_S
) -> T:
    """Awaits what may take longer than the unit's time limit for its start, and says that it does.

    The event loop sends, so that a process that hangs is not waited for.
    """
    extending = asyncio.get_running_loop().create_task(_extend(doing, interval_s))
    try:
        return await work
    finally:
        extending.cancel()


async def _extend(doing: str, interval_s: float) -> None:
    while True:
        if not notify(f"EXTEND_TIMEOUT_USEC={round(EXTENSION_S * 1e6)}", f"STATUS={doing}"):
            return  # Nobody listens.
        await asyncio.sleep(interval_s)


def environment_of_a_child(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment without what only this process was told."""
    return {key: value for key, value in environment.items() if key not in VARIABLES}
