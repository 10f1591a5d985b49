"""The CPU pool as a device: how busy its cores are, by us and by others.

Readings are kept for about a second, and a sample compares the newest with the oldest: the kernel
counts in hundredths of a second, so that a shorter window would be mostly rounding.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deadheat.agent.probes import procfs
from deadheat.agent.probes.cgroups import Cgroups, thread_weight
from deadheat.agent.probes.fairness import Contender, fair_share

WINDOW_S: Final = 1.0
#: How often other processes are looked through for threads that want our cores.
SCAN_INTERVAL_S: Final = 1.0
#: Foreign load under which there is nobody to look for.
SCAN_THRESHOLD: Final = 0.03
#: A process that used less than this share of a core since the last scan does not compete.
COMPETITOR_SHARE: Final = 0.02
#: Load, in cores, that needs no thread to be found for it: interrupts, processes that have ended.
UNEXPLAINED: Final = 0.05


@dataclass(frozen=True, slots=True)
class CpuSample:
    """Fractions of the whole pool over `window_s`; seconds of our executor's threads."""

    at_s: float
    window_s: float
    busy: float
    own: float
    foreign: float
    steal: float
    foreign_runnable: float
    run_s: float
    wait_s: float
    core_busy: tuple[float, ...]
    #: What control groups allow at most, and what their weights would give us if we ran now; None
    #: when nobody competes, or not all of those who do were found.
    quota: float = 1.0
    fair_share: float | None = None


@dataclass(frozen=True, slots=True)
class _Reading:
    at_s: float
    cores: Mapping[int, procfs.CpuTimes]
    own_s: float
    run_s: float
    wait_s: float


class CpuProbe:
    """Reads the counters of some cores. `own_pids` are the processes of ours that run on them,
    `executor_pid` the one whose threads multiply.

    Where these cores are some of `of_cpus` that we have, `anywhere` are processes of ours that run
    on any of those: of what they use, and of what a quota allows, these cores get their part.
    """

    def __init__(
        self,
        cpus: Collection[int],
        own_pids: Callable[[], Iterable[int]],
        executor_pid: Callable[[], int],
        *,
        root: Path = procfs.PROC,
        cgroups: Cgroups | None = None,
        clock: Callable[[], float] = time.monotonic,
        anywhere: Callable[[], Iterable[int]] = tuple,
        of_cpus: int | None = None,
    ) -> None:
        self._cpus = sorted(cpus)
        self._of_cpus = of_cpus or len(self._cpus)
        self._anywhere = anywhere
        self._own_pids = own_pids
        self._executor_pid = executor_pid
        self._root = root
        self._clock = clock
        self._readings: deque[_Reading] = deque()
        self._cgroups = cgroups or Cgroups()
        self._competitors = _Competitors(frozenset(cpus), root, self._cgroups)

    @property
    def share(self) -> float:
        """These cores' part of all that we have."""
        return len(self._cpus) / self._of_cpus

    def sample(self) -> CpuSample | None:
        """The load since about a second ago; None at the first call."""
        now = self._read()
        if len(self._readings) < 2:
            return None
        while len(self._readings) > 2 and now.at_s - self._readings[1].at_s >= WINDOW_S:
            self._readings.popleft()
        return self._compare(self._readings[0], now)

    def _read(self) -> _Reading:
        pid = self._executor_pid()
        run_s, wait_s = procfs.run_and_wait_s(pid, self._root) if pid else (0.0, 0.0)
        reading = _Reading(
            at_s=self._clock(),
            cores=procfs.core_times(self._root),
            own_s=self._used_s(self._own_pids()) + self.share * self._used_s(self._anywhere()),
            run_s=run_s,
            wait_s=wait_s,
        )
        self._readings.append(reading)
        return reading

    def _used_s(self, pids: Iterable[int]) -> float:
        times = (procfs.process_times(pid, self._root) for pid in pids)
        return sum(found.cpu_s for found in times if found)

    def _compare(self, old: _Reading, new: _Reading) -> CpuSample:
        window_s = new.at_s - old.at_s
        core_busy, steal_s, total_s = [], 0.0, 0.0
        for cpu in self._cpus:
            before, after = old.cores.get(cpu), new.cores.get(cpu)
            if before is None or after is None:  # The core was taken offline.
                core_busy.append(0.0)
                continue
            busy = after.busy_s - before.busy_s
            idle, steal = after.idle_s - before.idle_s, after.steal_s - before.steal_s
            elapsed = busy + idle + steal
            core_busy.append(_clamp(busy / elapsed) if elapsed > 0 else 0.0)
            steal_s += steal
            total_s += elapsed
        pool_s = window_s * len(self._cpus)
        busy_share = sum(core_busy) / len(self._cpus)
        # A process that ended took its seconds with it: the sum can fall.
        own = _clamp((new.own_s - old.own_s) / pool_s)
        foreign = _clamp(busy_share - own)
        pid = self._executor_pid()
        ours = frozenset((*self._own_pids(), *self._anywhere()))
        found = self._competitors.find(new.at_s, foreign, ours)
        if found is None:  # Nobody's use is known yet; the load itself is the best guess.
            runnable, share = max(1.0, round(foreign * len(self._cpus))), None
        else:
            runnable, share = sum(one.threads for one in found), self._share(pid, foreign, found)
        return CpuSample(
            at_s=new.at_s,
            window_s=window_s,
            busy=busy_share,
            own=own,
            foreign=foreign,
            steal=_clamp(steal_s / total_s) if total_s > 0 else 0.0,
            foreign_runnable=runnable,
            run_s=max(0.0, new.run_s - old.run_s),
            wait_s=max(0.0, new.wait_s - old.wait_s),
            core_busy=tuple(core_busy),
            quota=min(1.0, self._cgroups.quota_cores(pid) / self._of_cpus),
            fair_share=share,
        )

    def _share(self, pid: int, foreign: float, others: Sequence[Contender]) -> float | None:
        """What we would get beside them; None if they do not account for the load."""
        load = foreign * len(self._cpus)
        if not others or sum(one.threads for one in others) < math.ceil(load - UNEXPLAINED):
            return None
        times = procfs.process_times(pid, self._root)
        weight = thread_weight(times.nice, is_idle=times.is_idle) if times else 1.0
        groups, cpus = self._cgroups.groups(pid), frozenset(self._cpus)
        return fair_share(cpus, Contender(groups, weight, len(cpus), cpus), others)


class _Competitors:
    """Finds threads of others that want our cores."""

    def __init__(self, cpus: frozenset[int], root: Path, cgroups: Cgroups) -> None:
        self._cpus = cpus
        self._root = root
        self._cgroups = cgroups
        self._scanned_s = float("-inf")
        self._cpu_s: dict[int, float] = {}
        self._found: Sequence[Contender] | None = None

    def find(self, now: float, foreign: float, own: frozenset[int]) -> Sequence[Contender] | None:
        """Those of the last scan; None when there was only the first, which compares nothing."""
        if foreign < SCAN_THRESHOLD:
            self._cpu_s, self._found = {}, None
            return ()
        if now - self._scanned_s < SCAN_INTERVAL_S:
            return self._found
        elapsed_s, self._scanned_s = now - self._scanned_s, now
        before, self._cpu_s, found = self._cpu_s, {}, []
        for pid in procfs.process_ids(self._root):
            times = None if pid in own else procfs.process_times(pid, self._root)
            if times is None:
                continue
            self._cpu_s[pid] = times.cpu_s
            used_s = times.cpu_s - before.get(pid, times.cpu_s)
            if used_s >= COMPETITOR_SHARE * elapsed_s and (one := self._contender(times)):
                found.append(one)
        self._found = found if before else None
        return self._found

    def _contender(self, times: procfs.ProcessTimes) -> Contender | None:
        cpus = procfs.allowed_cpus(times.pid, self._root) & self._cpus
        runnable = self._runnable_threads(times.pid) if cpus else 0
        if not runnable:
            return None
        weight = thread_weight(times.nice, is_idle=times.is_idle)
        return Contender(self._cgroups.groups(times.pid), weight, runnable, cpus)

    def _runnable_threads(self, pid: int) -> int:
        found = 0
        for thread in procfs.thread_ids(pid, self._root):
            times = procfs.process_times(pid, self._root, thread=thread)
            is_here = times is not None and (times.processor in self._cpus)
            found += bool(times and times.state == "R" and is_here)
        return found


def _clamp(value: float) -> float:
    return min(1.0, max(0.0, value))
