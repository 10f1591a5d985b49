"""The machine as a whole: memory, disks, network, pressure."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from deadheat.agent.probes import procfs
from deadheat.v1 import agent_pb2 as pb


class HostProbe:
    """Counters as rates since the sample before."""

    def __init__(
        self, *, root: Path = procfs.PROC, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._root = root
        self._clock = clock
        self._before: tuple[float, tuple[int, ...]] | None = None

    def sample(self) -> pb.HostSample:
        now = self._clock()
        counters = (*procfs.disk_bytes(self._root), *procfs.network_bytes(self._root))
        rates = [0.0] * len(counters)
        if self._before and now > self._before[0]:
            elapsed_s = now - self._before[0]
            rates = [
                max(0.0, (new - old) / elapsed_s) for new, old in zip(counters, self._before[1])
            ]
        self._before = (now, counters)
        total, available = procfs.memory_bytes(self._root)
        return pb.HostSample(
            load_1m=procfs.load_1m(self._root),
            memory_total_bytes=total,
            memory_available_bytes=available,
            disk_read_bytes_per_s=rates[0],
            disk_write_bytes_per_s=rates[1],
            network_in_bytes_per_s=rates[2],
            network_out_bytes_per_s=rates[3],
            pressure_cpu=procfs.pressure("cpu", self._root),
            pressure_memory=procfs.pressure("memory", self._root),
            pressure_io=procfs.pressure("io", self._root),
        )
