"""`deadheat doctor` on what this machine is and allows: cores, quota, memory, container."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from deadheat.agent.probes import cards, procfs, topology
from deadheat.agent.probes.cgroups import CGROUPS, Cgroups
from deadheat.agent.probes.limits import Limits
from deadheat.cli.findings import Finding
from deadheat.runtime.units import GIB, format_bytes

#: Held back in more than this share of a quota's periods, an agent is slower than it looks.
MUCH_THROTTLED: Final = 0.1
#: With less memory than this an agent can hold no block worth sending.
MIN_MEMORY_BYTES: Final = GIB // 4
#: Tasks wait for so much of the time before it is worth a word.
MUCH_PRESSURE: Final = 0.2


@dataclass(frozen=True)
class Machine:
    """Where to look, so that recorded trees of other machines can be examined."""

    allowed: frozenset[int]
    pid: int
    root: Path = Path("/")
    proc: Path = procfs.PROC
    sys: Path = topology.SYS
    cgroups: Path = CGROUPS
    environment: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def this(cls) -> Machine:
        return cls(frozenset(os.sched_getaffinity(0)), os.getpid(), environment=os.environ)

    @property
    def container(self) -> str:
        return cards.container(self.environment, self.root)


def examine(machine: Machine) -> Iterator[Finding]:
    limits = Limits(machine.cgroups, machine.proc)
    yield _cores(machine)
    yield _kinds(machine)
    yield from _quota(machine, limits)
    yield _memory(machine, limits)
    yield from _pressure(machine, limits)
    yield from _container(machine)


def _cores(machine: Machine) -> Finding:
    present = procfs.core_times(machine.proc)
    text = f"{len(machine.allowed)} of {len(present)} cores may be used"
    text = f"{text}, {procfs.cpu_model(machine.proc)}"
    if len(machine.allowed) >= len(present):
        return Finding("cores", "ok", text)
    cpuset = Limits(machine.cgroups, machine.proc).cpuset(machine.pid)
    # The affinity is what binds; only if the cpuset says the same is it the reason.
    why = "a cpuset allows no others" if cpuset == machine.allowed else "by affinity (taskset)"
    return Finding("cores", "note", f"{text}: {format_cpus(machine.allowed)}, {why}")


def _kinds(machine: Machine) -> Finding:
    found = topology.read(machine.allowed, machine.sys)
    parts = [f"{len(found.cores)} physical"]
    if found.has_smt:
        parts.append("two or more threads on some, which share its speed")
    if found.efficient:
        fast = len(found.cpus - found.efficient)
        parts.append(f"{fast} fast and {len(found.efficient)} efficient ones")
    if len(found.numa_nodes) > 1:
        nodes = (f"{node}: {format_cpus(cpus)}" for node, cpus in sorted(found.numa_nodes.items()))
        parts.append(f"NUMA nodes {', '.join(nodes)}")
    text = "; ".join(parts)
    if len(found.pools) > 1:
        text = f"{text}; other nodes' memory is {found.farthest:.1f} times as far"
        text = f"{text}, so an agent makes each a device of its own (unless numa = whole)"
    return Finding("kinds of core", "ok", text)


def _quota(machine: Machine, limits: Limits) -> Iterator[Finding]:
    quota = Cgroups(machine.cgroups, machine.proc).quota_cores(machine.pid)
    if math.isinf(quota):
        yield Finding("quota", "ok", "none: control groups allow all of these cores' time")
    else:
        text = f"{quota:g} cores' worth of time, set by a control group"
        yield Finding("quota", "note" if quota < len(machine.allowed) else "ok", text)
    found = limits.throttling(machine.pid)
    if found and found.throttled:
        share = found.throttled / found.periods
        text = f"held back in {share:.0%} of periods so far, {found.throttled_s:.1f} s in all"
        if share > MUCH_THROTTLED:
            advice = "raise the quota, or give the agent fewer cores (--cpus)"
            yield Finding("throttling", "note", text, advice)
        else:
            yield Finding("throttling", "ok", text)


def _memory(machine: Machine, limits: Limits) -> Finding:
    total, available = procfs.memory_bytes(machine.proc)
    text = f"{format_bytes(available)} of {format_bytes(total)} available"
    limit = limits.memory(machine.pid)
    if limit and limit.free_bytes < available:
        available = limit.free_bytes
        text = (
            f"{format_bytes(available)} of {format_bytes(limit.limit_bytes)} free in the control "
            f"group {limit.path}; the machine has {format_bytes(total)}"
        )
    if available < MIN_MEMORY_BYTES:
        return Finding("memory", "bad", text, "raise the limit, or end something")
    if limit and limit.limit_bytes < total:
        return Finding("memory", "note", text, "give the agent less than that: --memory")
    return Finding("memory", "ok", text)


def _pressure(machine: Machine, limits: Limits) -> Iterator[Finding]:
    found = {}
    for resource in ("cpu", "memory", "io"):
        own = limits.pressure(machine.pid, resource)
        value = procfs.pressure(resource, machine.proc) if own is None else own
        if value is not None:
            found[resource] = value
    if not found:
        yield Finding("pressure", "note", "no /proc/pressure (boot with psi=1 to have it)")
        return
    shares = ", ".join(f"{name} {value:.0%}" for name, value in found.items())
    is_much = max(found.values()) > MUCH_PRESSURE
    yield Finding("pressure", "note" if is_much else "ok", f"tasks waited for: {shares}")


def _container(machine: Machine) -> Iterator[Finding]:
    if kind := machine.container:
        text = f"this is one ({kind}): limits are its own, load is the whole machine's"
        yield Finding("container", "note", text)


def format_cpus(cpus: frozenset[int]) -> str:
    """
    >>> format_cpus(frozenset({0, 1, 2, 5}))
    '0-2,5'
    """
    parts: list[list[int]] = []
    for cpu in sorted(cpus):
        if parts and cpu == parts[-1][1] + 1:
            parts[-1][1] = cpu
        else:
            parts.append([cpu, cpu])
    return ",".join(f"{a}-{b}" if a != b else str(a) for a, b in parts)
