"""The examinations of `deadheat doctor`: each looks at one thing and says what it found."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from deadheat.cli.findings import Finding
from deadheat.runtime.units import GIB, MIB, format_bytes

if TYPE_CHECKING:
    from deadheat.runtime.settings import AgentSettings

#: Less shared memory than this holds no matrix worth sharing out.
MIN_SHARED_BYTES: Final = GIB // 4
#: Of disk: a database and its backups want some, too.
MIN_DISK_BYTES: Final = GIB
#: A network's file system that does not answer for so long hangs.
DISK_ANSWER_S: Final = 5.0


def examine(scheduler: str | None) -> Iterator[Finding]:
    yield _versions()
    yield from _machine()
    yield _shared_memory()
    yield from _disk()
    yield from _kernel()
    yield from _calibrations()
    yield from _giving_way()
    yield from _scheduler(scheduler)


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
    yield from checks_gpu.examine(machine.environment, cards.on_the_bus(machine.sys), _gpus())


def _gpus() -> str:
    """Which GPUs an agent that is started here would use; all where its settings cannot be read, of
    which another finding speaks."""
    settings = _agent_settings()
    return "all" if isinstance(settings, str) else settings.gpus


def _cache_dir() -> Path:
    """Where such an agent would keep its calibrations; the default's place likewise."""
    from deadheat.runtime.settings import cache_dir

    settings = _agent_settings()
    return cache_dir() if isinstance(settings, str) else settings.cache_dir


def _agent_settings() -> AgentSettings | str:
    """Those of an agent that is started here, or why there can be none."""
    from deadheat.runtime.errors import DeadheatError
    from deadheat.runtime.settings import AgentSettings, Sources

    try:
        return AgentSettings.load(Sources("agent", {}))
    except DeadheatError as error:
        return error.message


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


def _disk() -> Iterator[Finding]:
    from deadheat.runtime.errors import DeadheatError
    from deadheat.runtime.settings import SchedulerSettings, Sources

    yield room_in(_cache_dir(), "calibrations are kept there", "choose another: --cache-dir")
    try:
        folder = SchedulerSettings.load(Sources("scheduler", {})).state_dir
    except DeadheatError as error:
        text = f"no scheduler can be started with them: {error.message}"
        yield Finding("settings", "bad", text)
        return
    yield room_in(
        folder,
        "a scheduler here keeps its database there, and matrices that memory does not hold",
        "free some, or choose another: --state-dir",
        MIN_DISK_BYTES,
    )


def room_in(folder: Path, what: str, advice: str, least_bytes: int = MIB) -> Finding:
    """How much of a disk is free where something is kept, and whether that is enough."""
    from deadheat.agent.probes.room import Room

    asking = Room(folder)
    room = asking.first(DISK_ANSWER_S)
    asking.stop()
    if room is None:
        text = f"{folder} does not answer: {what}"
        return Finding("disk", "bad", text, advice)
    text = f"{format_bytes(room[1])} of {format_bytes(room[0])} free in {folder}: {what}"
    if room[1] < least_bytes:
        return Finding("disk", "bad", text, advice)
    return Finding("disk", "ok", text)


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


def _calibrations() -> Iterator[Finding]:
    from deadheat.agent import calibration
    from deadheat.cli import calibrations

    directory = _cache_dir()
    found = list(calibration.all_kept(directory))
    if not found:
        text = f"none in {directory / 'calibration'}; the first agent makes one"
        yield Finding("calibration", "note", text, "or make it now: deadheat agent calibrate")
    for kept in found:
        if isinstance(kept, str):
            yield Finding("calibration", "note", kept, "remove it; the next agent makes another")
            continue
        text = f"{calibrations.title(kept.fingerprint)}: {calibrations.summary(kept.points)}"
        yield Finding("calibration", "ok", text)


def _giving_way() -> Iterator[Finding]:
    """What an agent that is started here, with these settings, would make of now."""
    import time

    from deadheat.runtime.moments import minute_of_day

    settings = _agent_settings()
    if isinstance(settings, str):
        yield Finding("settings", "bad", f"no agent can be started with them: {settings}")
        return
    minute, parts = minute_of_day(time.time()), []
    if settings.yield_above is not None:
        parts.append(f"while others use more than {settings.yield_above:.0%}")
    parts += [f"from {str(one).replace('-', ' to ')}" for one in settings.yield_hours]
    if parts:
        is_now = any(one.hold(minute) for one in settings.yield_hours)
        text = f"an agent takes no work {' and '.join(parts)}{' (now)' * is_now}"
        yield Finding("giving way", "note", text)


def _scheduler(address: str | None) -> Iterator[Finding]:
    from deadheat.client import Client
    from deadheat.runtime.errors import DeadheatError
    from deadheat.runtime.settings import ClientSettings, Sources

    try:
        chosen = ClientSettings.load(Sources("client", {"scheduler": address})).scheduler
    except DeadheatError as error:
        yield Finding("settings", "bad", f"no scheduler can be asked with them: {error.message}")
        return
    try:
        with Client(chosen) as client:
            nodes = client.nodes()
            way = "shares memory" if client.shares_memory else "streams"
    except DeadheatError as error:
        yield Finding("scheduler", "note", error.message, "start one with: deadheat up")
        return
    up = sum(node["state"] == "up" for node in nodes)
    text = f"{chosen}: {up} of {len(nodes)} nodes up; this client {way}"
    if not up:
        yield Finding("scheduler", "bad", text, "start an agent with: deadheat agent")
    else:
        yield Finding("scheduler", "ok", text)
    for node in nodes:
        if node["host"] and node["host"]["problem"]:
            yield Finding("node", "note", f"{node['name']}: {node['host']['problem']}")
    for device in (device for node in nodes for device in node["devices"]):
        if device["yields"]:
            yield Finding("giving way", "note", f"{device['id']}: {device['yields']}")
        if device["problem"]:
            yield Finding("device", "note", f"{device['id']}: {device['problem']}")


if sys.platform != "linux":  # pragma: no cover
    raise ImportError("deadheat runs on Linux")
