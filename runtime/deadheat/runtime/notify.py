"""The sd_notify protocol (systemd's man page declares it stable): state lines to a Unix socket."""

from __future__ import annotations

import os
import socket
import time


def notify(*lines: str) -> bool:
    """Sends lines such as "READY=1" to the service manager; False where there is none."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address[:1] not in ("/", "@"):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.connect("\0" + address[1:] if address[0] == "@" else address)
        sock.sendall("\n".join(lines).encode())
    return True


def ready(status: str) -> bool:
    return notify("READY=1", f"STATUS={status}")


def status(text: str) -> bool:
    return notify(f"STATUS={text}")


def stopping() -> bool:
    return notify("STOPPING=1")


def reloading() -> bool:
    """Announces a reload; `ready` ends it. systemd 253 and later want the time with it."""
    return notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


def watchdog_interval_s() -> float | None:
    """How often to ping: half of what the service manager allows, None where it does not ask."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    limit_us = int(os.environ.get("WATCHDOG_USEC", "0"))
    return limit_us / 2e6 if limit_us else None
