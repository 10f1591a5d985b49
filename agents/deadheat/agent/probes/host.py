"""The machine as a whole: memory, disks, network, pressure, and what holds us back."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from deadheat.agent.probes import procfs
from deadheat.agent.probes.cgroups import CGROUPS
from deadheat.agent.probes.limits import Limits
from deadheat.agent.probes.room import Room
from deadheat.v1 import cluster_pb2 as pb


class HostProbe:
    """Counters as rates since the sample before. Limits are those of this process; `own_pids` are
    all processes of ours; `folder` is where files are kept; `problem` says what is missing here."""

    def __init__(
        self,
        *,
        root: Path = procfs.PROC,
        cgroups: Path = CGROUPS,
        pid: int | None = None,
        own_pids: Callable[[], Iterable[int]] = lambda: (os.getpid(),),
        folder: Path | None = None,
        problem: Callable[[], str] = str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._root = root
        self._pid = os.getpid() if pid is None else pid
        self._own_pids = own_pids
        self._limits = Limits(cgroups, root)
        self._room = Room(folder) if folder else None
        self._problem = problem
        self._clock = clock
        self._before: tuple[float, tuple[int, ...]] | None = None
        self._periods: tuple[int, int] | None = None

    def sample(self) -> pb.HostSample:
        rates = self._rates()
        total, available = procfs.memory_bytes(self._root)
        limit = self._limits.memory(self._pid)
        room = self._room.latest() if self._room else None
        return pb.HostSample(
            load_1m=procfs.load_1m(self._root),
            memory_total_bytes=total,
            memory_available_bytes=min(available, limit.free_bytes) if limit else available,
            memory_limit_bytes=limit.limit_bytes if limit else None,
            memory_own_bytes=sum(procfs.anonymous_bytes(p, self._root) for p in self._own_pids()),
            disk_read_bytes_per_s=rates[0],
            disk_write_bytes_per_s=rates[1],
            network_in_bytes_per_s=rates[2],
            network_out_bytes_per_s=rates[3],
            pressure_cpu=procfs.pressure("cpu", self._root),
            pressure_memory=procfs.pressure("memory", self._root),
            pressure_io=procfs.pressure("io", self._root),
            throttled=self._throttled(),
            disk_total_bytes=room[0] if room else None,
            disk_free_bytes=room[1] if room else None,
            problem=self._problem(),
        )

    def stop(self) -> None:
        if self._room:
            self._room.stop()

    def _rates(self) -> list[float]:
        now = self._clock()
        counters = (*procfs.disk_bytes(self._root), *procfs.network_bytes(self._root))
        rates = [0.0] * len(counters)
        if self._before and now > self._before[0]:
            elapsed_s = now - self._before[0]
            rates = [
                max(0.0, (new - old) / elapsed_s) for new, old in zip(counters, self._before[1])
            ]
        self._before = (now, counters)
        return rates

    def _throttled(self) -> float | None:
        """Of the quota's periods since the sample before, the share in which it was used up."""
        found = self._limits.throttling(self._pid)
        before, self._periods = self._periods, (found.periods, found.throttled) if found else None
        if found is None:
            return None
        periods, throttled = before or (found.periods, found.throttled)
        elapsed = found.periods - periods
        # Periods are counted only while somebody in the group wants to run.
        return max(0.0, min(1.0, (found.throttled - throttled) / elapsed)) if elapsed > 0 else 0.0
