"""Carries out a calibration, one point after the other: what is missing, when there is quiet.

Rules of this file: what was measured is kept at once, so that whoever is interrupted goes on where
it was. A point is measured while others leave the device mostly alone, since they would share its
caches and its memory; but a machine that is never quiet has to be known too, so the waiting is
bounded, and what was measured in noise is measured again at a later start that finds it quiet.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from deadheat.agent import calibration
from deadheat.agent.calibration import Fingerprint, Measured
from deadheat.agent.executors.link import ExecutorLink
from deadheat.agent.probes.cpu import CpuProbe
from deadheat.runtime import logs
from deadheat.runtime.errors import ClusterError, TimedOut
from deadheat.v1 import agent_pb2 as pb
from deadheat.v1 import local_pb2

log = logs.get("calibration")

#: Others use at most this share of the device: it is quiet enough.
QUIET: Final = 0.25
#: How long quiet is waited for in all; then the rest is measured as it is.
PATIENCE_S: Final = 10.0
LOOK_INTERVAL_S: Final = 0.25
#: A point takes a tenth of a second; this is a machine that stands still.
POINT_TIMEOUT_S: Final = 60.0

Key = tuple[int, int, int, int, int]


def key_of(point: pb.SpeedPoint) -> Key:
    """What is measured by it."""
    return (point.data_type, point.op, point.rows, point.inner, point.columns)


class Calibrator:
    """Measures `wanted` (points whose seconds do not count) for one fingerprint.

    `measure` has the executor measure one; `foreign` says what others use of the device now, None
    while nobody knows.
    """

    def __init__(
        self,
        cache_dir: Path,
        fingerprint: Fingerprint,
        wanted: Sequence[pb.SpeedPoint],
        measure: Callable[[pb.SpeedPoint], Awaitable[pb.SpeedPoint]],
        foreign: Callable[[], Awaitable[float | None]],
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._cache_dir = cache_dir
        self._fingerprint = fingerprint
        self._wanted = wanted
        self._measure = measure
        self._foreign = foreign
        self._clock = clock
        self._sleep = sleep
        self._patience_s = PATIENCE_S
        self._is_kept = True

    async def run(self, *, anew: bool = False) -> list[Measured]:
        """All points in the order in which they were wanted; `anew` measures also those known.

        Raises TimedOut if the executor does not answer.
        """
        known = {} if anew else self._known()
        missing = [point for point in self._wanted if key_of(point) not in known]
        if missing:
            log.info(
                f"calibrating {self._fingerprint.threads} threads with "
                f"{self._fingerprint.library}: {len(missing)} of {len(self._wanted)} points",
                extra=logs.keys("calibrate"),
            )
        for point in missing:
            await self._take(point, known, await self._quiet())
        # What was measured in noise is left as it is unless there is quiet now, without waiting.
        self._patience_s = 0.0
        noisy = [one for one in known.values() if one.foreign > QUIET]
        for one in noisy if not missing else []:
            load = await self._quiet()
            if load > QUIET:
                break
            await self._take(one.point, known, load)
        return self._in_order(known)

    def _known(self) -> dict[Key, Measured]:
        wanted = {key_of(point) for point in self._wanted}
        found = calibration.load(self._cache_dir, self._fingerprint)
        return {key: one for one in found if (key := key_of(one.point)) in wanted}

    def _in_order(self, known: dict[Key, Measured]) -> list[Measured]:
        return [known[key] for point in self._wanted if (key := key_of(point)) in known]

    async def _take(self, point: pb.SpeedPoint, known: dict[Key, Measured], load: float) -> None:
        try:
            found = await asyncio.wait_for(self._measure(point), POINT_TIMEOUT_S)
        except TimeoutError:
            raise TimedOut("calibration did not end in time") from None
        known[key_of(point)] = Measured(found, load)
        points = self._in_order(known)
        self._is_kept = await asyncio.to_thread(
            calibration.save,
            self._cache_dir,
            self._fingerprint,
            points,
            quietly=not self._is_kept,  # It has been said.
        )

    async def _quiet(self) -> float:
        """Waits for quiet, as long as there is patience; the load of others then."""
        while True:
            load = await self._foreign()
            if load is not None and (load <= QUIET or self._patience_s <= 0.0):
                return load
            began_s = self._clock()
            await self._sleep(LOOK_INTERVAL_S)
            self._patience_s -= self._clock() - began_s


class Events(Protocol):
    """Whoever hears what the executor says."""

    on_calibrated: Callable[[pb.SpeedPoints], None] | None


def calibrator_of(
    cache_dir: Path,
    cpus: Sequence[int],
    ready: local_pb2.ExecutorReady,
    executor: ExecutorLink,
    events: Events,
) -> Calibrator:
    """For a real executor that is ready, on these cores."""
    probe = CpuProbe(cpus, lambda: (os.getpid(), executor.pid), lambda: executor.pid)

    async def measure(point: pb.SpeedPoint) -> pb.SpeedPoint:
        answer: asyncio.Future[pb.SpeedPoints] = asyncio.get_running_loop().create_future()
        events.on_calibrated = answer.set_result
        calibrate = local_pb2.Calibrate(points=[point])
        executor.send(local_pb2.ExecutorRequest(calibrate=calibrate))
        return (await answer).points[0]

    async def foreign() -> float | None:
        sample = await asyncio.to_thread(probe.sample)
        return sample.foreign if sample else None

    fingerprint = Fingerprint.of(ready.threads, ready.library)
    return Calibrator(cache_dir, fingerprint, ready.points, measure, foreign)


class _Hearing:
    """Hears of nothing but calibrations."""

    def __init__(self) -> None:
        self.on_calibrated: Callable[[pb.SpeedPoints], None] | None = None

    def on_event(self, event: local_pb2.ExecutorEvent) -> None:
        if event.HasField("calibrated") and self.on_calibrated:
            self.on_calibrated(event.calibrated)


async def calibrate_here(
    cache_dir: Path, cpus: Sequence[int], *, anew: bool
) -> tuple[Fingerprint, list[Measured]]:
    """What an agent on these cores would do at its start, without the agent."""
    hearing = _Hearing()
    died: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def on_died(reason: str) -> None:
        if not died.done():
            died.set_exception(ClusterError(f"the executor died while calibrating: {reason}"))

    executor = ExecutorLink(len(cpus), "normal", hearing.on_event, on_died)
    ready = await executor.start()
    try:
        calibrator = calibrator_of(cache_dir, cpus, ready, executor, hearing)
        running = asyncio.get_running_loop().create_task(calibrator.run(anew=anew))
        waiting: list[asyncio.Future[Any]] = [running, died]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if died.done():
            running.cancel()
            died.result()
        return Fingerprint.of(ready.threads, ready.library), await running
    finally:
        died.cancel()
        await executor.stop()
