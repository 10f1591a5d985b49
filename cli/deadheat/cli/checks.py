"""The examinations of `deadheat doctor`: each looks at one thing and says what it found."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from deadheat.cli.findings import Finding
from deadheat.runtime.units import GIB, format_bytes

#: Less shared memory than this holds no matrix worth sharing out.
MIN_SHARED_BYTES: Final = GIB // 4


def examine(scheduler: str | None) -> Iterator[Finding]:
    yield _versions()
    yield from _machine()
    yield _shared_memory()
    yield from _kernel()
    yield _calibrations()
    yield _scheduler(scheduler)


def _versions() -> Finding:
    import grpc
    import numpy as np

    from deadheat.runtime.version import VERSION

    found = f"deadheat {VERSION}, Python {platform.python_version()}, NumPy {np.__version__}"
    return Finding("versions", "ok", f"{found}, gRPC {grpc.__version__}")


def _machine() -> Iterator[Finding]:
    from deadheat.agent.probes import cards
    from deadheat.cli import checks_gpu, checks_machine

    machine = checks_machine.Machine.this()
    yield from checks_machine.examine(machine)
    yield from checks_gpu.examine(machine.environment, cards.on_the_bus(machine.sys))


def _shared_memory() -> Finding:
    path = Path("/dev/shm")
    if not path.is_dir():
        advice = "mount a tmpfs there, or start the scheduler with --memory-dir"
        return Finding("shared memory", "bad", f"{path} is not there", advice)
    room = os.statvfs(path)
    free = room.f_bavail * room.f_frsize
    text = f"{format_bytes(free)} free in {path}"
    if free < MIN_SHARED_BYTES:
        advice = "make it larger (in containers: --shm-size), or matrices spill to disk"
        return Finding("shared memory", "bad", text, advice)
    return Finding("shared memory", "ok", text)


def _kernel() -> Iterator[Finding]:
    run = Path("/proc/self/schedstat")
    if run.exists():
        yield Finding("schedstat", "ok", "the kernel tells how long threads run and wait")
    else:
        yield Finding(
            "schedstat",
            "note",
            "the kernel does not tell how long threads wait for a core",
            "availability is then judged by the load of others alone (CONFIG_SCHED_INFO)",
        )
    try:
        Path("/proc/stat").read_text()
    except OSError as error:
        yield Finding(
            "load",
            "bad",
            f"/proc/stat: {error.strerror}",
            "the agent cannot see the load; do not run it with ProcSubset=pid",
        )


def _calibrations() -> Finding:
    from deadheat.runtime.settings import cache_dir

    directory = cache_dir() / "calibration"
    files = sorted(directory.glob("*.json")) if directory.is_dir() else []
    if not files:
        return Finding("calibration", "note", f"none in {directory}; the first agent makes one")
    return Finding("calibration", "ok", f"{len(files)} in {directory}")


def _scheduler(address: str | None) -> Finding:
    from deadheat.client import Client
    from deadheat.runtime.errors import DeadheatError
    from deadheat.runtime.settings import ClientSettings, Sources

    try:
        chosen = ClientSettings.load(Sources("client", {"scheduler": address})).scheduler
        with Client(chosen) as client:
            nodes = client.nodes()
            way = "shares memory" if client.shares_memory else "streams"
    except DeadheatError as error:
        return Finding("scheduler", "note", error.message, "start one with: deadheat up")
    up = sum(node["state"] == "up" for node in nodes)
    text = f"{chosen}: {up} of {len(nodes)} nodes up; this client {way}"
    if not up:
        return Finding("scheduler", "bad", text, "start an agent with: deadheat agent")
    return Finding("scheduler", "ok", text)


if sys.platform != "linux":  # pragma: no cover
    raise ImportError("deadheat runs on Linux")
