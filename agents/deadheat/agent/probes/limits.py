"""What a process's control groups allow it, and how often they have held it back.

Every limit is the tightest on the whole way from the outermost level to the process's own, in
version 1 and in version 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deadheat.agent.probes import procfs
from deadheat.agent.probes.cgroups import CGROUPS, Cgroups

#: Version 1 says "no limit" as the largest number of pages; nobody has this much memory.
UNLIMITED_BYTES: Final = 1 << 60


@dataclass(frozen=True, slots=True)
class MemoryLimit:
    """The level that leaves least: its limit, what it uses (without file cache that the kernel
    would drop), and its folder."""

    limit_bytes: int
    used_bytes: int
    path: str

    @property
    def free_bytes(self) -> int:
        return max(0, self.limit_bytes - self.used_bytes)


@dataclass(frozen=True, slots=True)
class Throttling:
    """How often, of how many periods, a quota was used up, and seconds that threads waited for the
    next one; since the group was made, at the level where that was most."""

    periods: int
    throttled: int
    throttled_s: float


class Limits:
    """Reads the same trees as Cgroups."""

    def __init__(self, root: Path = CGROUPS, proc: Path = procfs.PROC) -> None:
        self._proc = proc
        self._cgroups = Cgroups(root, proc)

    def memory(self, pid: int) -> MemoryLimit | None:
        """The level that leaves a process the least memory; None where none limits it."""
        is_unified, levels = self._cgroups.levels(pid, "memory")
        found = [limit for one in levels if (limit := _memory(one, is_unified=is_unified))]
        return min(found, key=lambda limit: limit.free_bytes, default=None)

    def memory_available_bytes(self, pid: int) -> int:
        """What a process may still take: what the machine has, or less where a level says so."""
        _, available = procfs.memory_bytes(self._proc)
        limit = self.memory(pid)
        return min(available, limit.free_bytes) if limit else available

    def throttling(self, pid: int) -> Throttling | None:
        """None where no level has a quota, or the kernel does not count."""
        _, levels = self._cgroups.levels(pid, "cpu")
        found = [one for folder in levels if (one := _throttling(folder)) and one.periods]
        return max(found, key=lambda one: one.throttled_s, default=None)

    def pressure(self, pid: int, resource: str) -> float | None:
        """The share of the last ten seconds in which some task of the process's own group waited
        for "cpu", "memory" or "io"; None in version 1, or without PSI."""
        is_unified, levels = self._cgroups.levels(pid, resource)
        if not is_unified or not levels:
            return None
        return procfs.pressure_of(levels[-1] / f"{resource}.pressure")

    def cpuset(self, pid: int) -> frozenset[int] | None:
        """The CPUs that the innermost cpuset allows; None where there is none. The affinity of a
        process is what counts: this says why it is what it is."""
        is_unified, levels = self._cgroups.levels(pid, "cpuset")
        names = ("cpuset.cpus.effective",) if is_unified else ("cpuset.effective_cpus",)
        for folder in reversed(levels):
            for name in (*names, "cpuset.cpus"):
                if text := _text(folder / name):
                    return procfs.parse_cpu_list(text)
        return None


def _memory(folder: Path, *, is_unified: bool) -> MemoryLimit | None:
    if is_unified:
        limits = [_number(folder / name) for name in ("memory.max", "memory.high")]
        used, cache_key = _number(folder / "memory.current"), "inactive_file"
    else:
        limits = [_number(folder / "memory.limit_in_bytes")]
        used, cache_key = _number(folder / "memory.usage_in_bytes"), "total_inactive_file"
    known = [limit for limit in limits if limit is not None and limit < UNLIMITED_BYTES]
    if not known:
        return None
    cache = _fields(folder / "memory.stat").get(cache_key, 0)
    return MemoryLimit(min(known), max(0, (used or 0) - cache), str(folder))


def _throttling(folder: Path) -> Throttling | None:
    fields = _fields(folder / "cpu.stat")
    if "nr_periods" not in fields:
        return None
    # Version 2 counts microseconds, version 1 nanoseconds.
    if "throttled_usec" in fields:
        throttled_s = fields["throttled_usec"] / 1e6
    else:
        throttled_s = fields.get("throttled_time", 0) / 1e9
    return Throttling(fields["nr_periods"], fields.get("nr_throttled", 0), throttled_s)


def _fields(path: Path) -> dict[str, int]:
    pairs = (line.split() for line in _text(path).splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdecimal()}


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text.isdecimal() else None


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
