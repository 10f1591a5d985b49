"""The agent's GPUs at work: an executor for each, started, calibrated, and started again.

Rules of this file: a GPU without a running executor stays registered, without speeds, with the
reason why. There is no silent fall-back: the reason is logged as an error and told to the
scheduler, and the CPU pool goes on. What failed is tried again, since drivers are reloaded and
memory is freed. Cards of one model share a calibration, so they are measured one after the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from deadheat.agent import calibration
from deadheat.agent.executors.bounds import STREAMS
from deadheat.agent.executors.link import Command, ExecutorLink
from deadheat.agent.probes.gpus import Gpu
from deadheat.agent.subtasks import Subtasks
from deadheat.runtime import logs
from deadheat.runtime.errors import ClusterError
from deadheat.v1 import agent_pb2 as pb
from deadheat.v1 import local_pb2

log = logs.get("gpu")

#: Importing CuPy and making a context takes seconds, on a machine with many cards many of them.
START_TIMEOUT_S: Final = 120.0
CALIBRATION_TIMEOUT_S: Final = 300.0
#: What failed is tried again after so long, and after twice as long each time.
RETRY_S: Final = 15.0
MAX_RETRY_S: Final = 300.0

#: Whether float32 means TF32 is for each product to say. The one variable makes all libraries use
#: it (1) or none (0), whatever they are asked for; the other is CuPy's.
TF32_SWITCHES: Final = frozenset({"NVIDIA_TF32_OVERRIDE", "CUPY_TF32"})

NOT_STARTED: Final = "its executor is being started"

#: A device, its speeds, and why there are none.
Offer = Callable[[str, Sequence[pb.SpeedPoint], str], None]


def chosen(
    gpus: Sequence[Gpu], setting: str, environment: Mapping[str, str]
) -> tuple[tuple[Gpu, ...], tuple[str, ...]]:
    """The GPUs that an agent may use, and those it was told to use that are not there.

    `setting` is "all", "none", or UUIDs and numbers in NVML's order, separated by commas. "all" are
    those that CUDA_VISIBLE_DEVICES leaves to this process, as schedulers like Slurm set it.
    """
    if setting == "all":
        text = environment.get("CUDA_VISIBLE_DEVICES")
        if text is None:
            return tuple(gpus), ()
        setting = text if text.strip() not in ("", "-1", "NoDevFiles") else "none"
    if setting == "none":
        return (), ()
    found: dict[str, Gpu] = {}
    missing = []
    for word in filter(None, (part.strip() for part in setting.split(","))):
        matches = [g for n, g in enumerate(gpus) if word == str(n) or g.uuid.startswith(word)]
        found.update({gpu.uuid: gpu for gpu in matches})
        if not matches:
            missing.append(word)
    return tuple(found.values()), tuple(missing)


class _Executor:
    """One card's process, from its start to the moment it is given up."""

    def __init__(self, pool: CardPool, uuid: str, device: str) -> None:
        self._pool = pool
        self._device = device
        self.uuid = uuid
        self._calibrated: asyncio.Future[Sequence[pb.SpeedPoint]] | None = None
        command = Command(
            module="deadheat.agent.executors.cuda",
            environment={"CUDA_VISIBLE_DEVICES": uuid},
            without=TF32_SWITCHES,
            name=f"the executor of {device}",
            start_timeout_s=START_TIMEOUT_S,
        )
        self.link = ExecutorLink(STREAMS, pool.politeness, self._on_event, self._on_died, command)

    def _on_event(self, event: local_pb2.ExecutorEvent) -> None:
        if event.WhichOneof("event") != "calibrated":
            self._pool.subtasks.on_executor_event(event)
        elif self._calibrated and not self._calibrated.done():
            self._calibrated.set_result(event.calibrated.points)

    def _on_died(self, reason: str) -> None:
        if self._calibrated and not self._calibrated.done():
            error = ClusterError(f"the executor of {self._device} died while calibrating: {reason}")
            self._calibrated.set_exception(error)
        self._pool.subtasks.on_executor_died(self._device, reason)

    async def points(self, ready: local_pb2.ExecutorReady) -> Sequence[pb.SpeedPoint]:
        """Of an earlier calibration, or of one that is made now. Raises ClusterError."""
        fingerprint = calibration.Fingerprint("", ready.threads, ready.library, kind="gpu")
        async with self._pool.calibrating:
            known = calibration.load(self._pool.cache_dir, fingerprint)
            if known:
                return [one.point for one in known]
            log.info(f"calibrating {ready.library}", extra=logs.keys("calibrate"))
            self._calibrated = asyncio.get_running_loop().create_future()
            self.link.send(local_pb2.ExecutorRequest(calibrate=local_pb2.Calibrate()))
            try:
                points = await asyncio.wait_for(self._calibrated, CALIBRATION_TIMEOUT_S)
            except TimeoutError:
                raise ClusterError(f"calibration of {self._device} did not end in time") from None
            if not points:
                raise ClusterError(f"{self._device} could not compute anything when calibrated")
            measured = [calibration.Measured(point) for point in points]
            calibration.save(self._pool.cache_dir, fingerprint, measured)
            return points


class CardPool:
    """Executors of all GPUs of an agent, on its event loop. `offer` is told what each can do."""

    def __init__(self, cache_dir: Path, politeness: str, subtasks: Subtasks, offer: Offer) -> None:
        self.cache_dir = cache_dir
        self.politeness = politeness
        self.subtasks = subtasks
        self.calibrating = asyncio.Lock()
        self._offer = offer
        self._kept_open = -1
        self._running: dict[str, asyncio.Task[None]] = {}
        #: By UUID; replaced whole, since the thread of the probes reads it.
        self._links: dict[str, ExecutorLink] = {}
        #: By device: why it does not compute now.
        self.problems: dict[str, str] = {}

    def add(self, uuid: str, device: str) -> None:
        """Keeps an executor running on a GPU, which is called `device` here, until `stop`."""
        if device not in self._running:
            self.problems[device] = NOT_STARTED
            running = self._supervise(uuid, device)
            self._running[device] = asyncio.get_running_loop().create_task(running)

    def pids(self, uuid: str) -> tuple[int, ...]:
        """Our processes on a GPU. From any thread."""
        link = self._links.get(uuid)
        return (link.pid,) if link and link.pid else ()

    @property
    def all_pids(self) -> tuple[int, ...]:
        """From any thread."""
        return tuple(link.pid for link in self._links.values() if link.pid)

    def keep_open(self, descriptor: int) -> None:
        self._kept_open = descriptor
        for link in self._links.values():
            link.keep_open(descriptor)

    def set_politeness(self, politeness: str) -> None:
        """Raises PermissionError as `ExecutorLink` does."""
        self.politeness = politeness
        for link in self._links.values():
            link.set_politeness(politeness)

    async def stop(self) -> None:
        for task in self._running.values():
            task.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)

    async def _supervise(self, uuid: str, device: str) -> None:
        pause_s = RETRY_S
        while True:
            executor = _Executor(self, uuid, device)
            self._links = {**self._links, uuid: executor.link}
            try:
                await self._begin(executor, device)
                pause_s = RETRY_S
                await executor.link.failed
            except ClusterError as error:
                self._withdraw(device, error.message, pause_s)
            except Exception as error:  # One card's trouble is not the agent's.
                log.exception(f"{device} failed", extra=logs.keys("gpu", device=device))
                self._withdraw(device, f"{type(error).__name__}: {error}", pause_s)
            finally:
                self.subtasks.detach(device)
                self._links = {key: one for key, one in self._links.items() if key != uuid}
                await executor.link.stop()
            await asyncio.sleep(pause_s)
            pause_s = min(MAX_RETRY_S, 2.0 * pause_s)

    async def _begin(self, executor: _Executor, device: str) -> None:
        ready = await executor.link.start()
        if self._kept_open >= 0:
            executor.link.keep_open(self._kept_open)
        points = await executor.points(ready)
        self.subtasks.attach(device, executor.link)
        self.problems.pop(device, None)
        log.info(f"{device} computes: {ready.library}", extra=logs.keys("gpu", device=device))
        self._offer(device, points, "")

    def _withdraw(self, device: str, reason: str, pause_s: float) -> None:
        """First the scheduler hears that the card does nothing, then what it has to do elsewhere:
        else it might send that here again."""
        self.problems[device] = reason
        log.error(
            f"{device} does not compute: {reason}; trying again in {pause_s:.0f} s",
            extra=logs.keys("gpu", device=device),
        )
        self._offer(device, (), reason)
        self.subtasks.on_executor_died(device, reason)
