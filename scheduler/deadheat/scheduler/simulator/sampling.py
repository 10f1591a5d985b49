"""What a simulated agent's probes see of its device: busy, own and foreign load, run and wait."""

from __future__ import annotations

import math
from typing import Final

from deadheat.scheduler.core import events
from deadheat.scheduler.planner.availability import Sample
from deadheat.scheduler.simulator.device import Device
from deadheat.scheduler.simulator.scenario import Sharing

#: Load under which the real probe looks for nobody (see probes/cpu.py).
SCAN_THRESHOLD: Final = 0.03


class Probe:
    """Compares a device's counters with what they were at the last sample."""

    __slots__ = ("_cpu_s", "_device", "_foreign_s", "_sampled_s", "_wall_s")

    def __init__(self, device: Device, now: float) -> None:
        self._device = device
        self.restart(now)

    def restart(self, now: float) -> None:
        """The window starts anew: what happened before says nothing of now."""
        self._sampled_s = now
        self._cpu_s, self._wall_s = self._device.own_s()
        self._foreign_s = self._device.supply.foreign.at(now)

    def sample(self, now: float) -> events.NodeSampled | None:
        """The load since the last sample; None if there has been no time for any."""
        window_s = now - self._sampled_s
        if window_s <= 0.0:
            return None
        device, cpu_before, wall_before = self._device, self._cpu_s, self._wall_s
        foreign_before = self._foreign_s
        self.restart(now)
        run_s, wall_s = self._cpu_s - cpu_before, self._wall_s - wall_before
        own = min(1.0, run_s / window_s)
        # Others get what we leave, which while we run may be less than they want.
        foreign = min((self._foreign_s - foreign_before) / window_s, 1.0 - own)
        sample = Sample(
            at_s=now,
            window_s=window_s,
            busy=own + foreign,
            own=own,
            foreign=foreign,
            foreign_runnable=self._runnable(now),
            run_s=run_s,
            wait_s=max(0.0, wall_s - run_s),
        )
        memory_bytes = device.spec.memory_bytes
        sampled = events.DeviceSampled(device.name, sample, memory_bytes)
        return events.NodeSampled(device.name, (sampled,))

    def _runnable(self, now: float) -> float:
        """Threads of others that want the core."""
        load = self._device.supply.load.rate(now)
        if load < SCAN_THRESHOLD:
            return 0.0
        return float(math.ceil(load)) if self._device.spec.sharing is Sharing.FAIR else 1.0
