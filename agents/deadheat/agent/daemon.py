"""The agent daemon: executor, calibration, probes, session, until it is told to stop."""

from __future__ import annotations

import argparse
import asyncio
import faulthandler
import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from deadheat.agent import calibration
from deadheat.agent.blocks import Blocks
from deadheat.agent.cache import BlockCache
from deadheat.agent.cardpool import NOT_STARTED, CardPool, chosen
from deadheat.agent.executors.bounds import STREAMS
from deadheat.agent.executors.link import ExecutorLink
from deadheat.agent.peers import Peers
from deadheat.agent.probes import cards, procfs
from deadheat.agent.probes.cpu import CpuProbe
from deadheat.agent.probes.gpus import Gpus
from deadheat.agent.probes.limits import Limits
from deadheat.agent.probes.nvml import NvmlProbe
from deadheat.agent.probes.sampler import Sampler
from deadheat.agent.service import PeerServer
from deadheat.agent.session import Session
from deadheat.agent.subtasks import Subtasks
from deadheat.runtime import hosts, logs, notify
from deadheat.runtime.children import announce_ready, watch_parent
from deadheat.runtime.errors import DeadheatError, TimedOut
from deadheat.runtime.heartbeat import Heartbeat
from deadheat.runtime.ids import new_id
from deadheat.runtime.reloading import Reloader
from deadheat.runtime.settings import AgentSettings, Sources
from deadheat.runtime.version import VERSION
from deadheat.v1 import agent_pb2 as pb
from deadheat.v1 import local_pb2

log = logs.get("agent")

#: What operands and results of streamed sub-tasks may take if nothing else is said.
DEFAULT_MEMORY_SHARE: Final = 0.5
CALIBRATION_TIMEOUT_S: Final = 120.0
#: How long a stopping agent lets panels end before it gives their rows back.
STOP_BUDGET_S: Final = 3.0
NVML_FIRST_ANSWER_S: Final = 1.0
#: A scheduler that has not answered by then is away, and may be for long. The agent says READY
#: all the same: it has done its part, and no machine's boot should wait for another machine.
AWAY_S: Final = 10.0
#: A look at the machine that takes so long hangs in the kernel.
STUCK_PROBE_S: Final = 20.0
#: What a reload changes; everything else needs a restart.
LIVE_SETTINGS: Final = frozenset({"log_level", "politeness"})


class Daemon:
    def __init__(
        self, settings: AgentSettings, load: Callable[[], AgentSettings] | None = None
    ) -> None:
        """`load` reads the settings again; without it a reload finds nothing new."""
        self.settings = settings
        self.heartbeat = Heartbeat(self._status, self._problem)
        self.reloader = Reloader(
            settings,
            load or (lambda: settings),
            LIVE_SETTINGS,
            self._apply,
            self.heartbeat.reloaded,
        )
        memory = settings.memory_bytes
        if memory is None:
            memory = int(Limits().memory_available_bytes(os.getpid()) * DEFAULT_MEMORY_SHARE)
        self.memory_bytes = memory
        cache = BlockCache(memory)
        self.blocks = Blocks(cache)
        self.peers = self.blocks.peers = Peers(settings.tls)
        self.serving = PeerServer(cache, settings.scheduler, settings.tls, settings.peers)
        self.subtasks = Subtasks(self.blocks, self._tell)
        self.executor = ExecutorLink(
            len(settings.cpus),
            settings.politeness,
            self.subtasks.on_executor_event,
            lambda reason: self.subtasks.on_executor_died(self._cpu_device, reason),
        )
        self.subtasks.attach(self._cpu_device, self.executor)
        self.cards = CardPool(settings.cache_dir, settings.politeness, self.subtasks, self._offer)
        self.registration = pb.Register()
        self.nvml = NvmlProbe()
        self.session: Session | None = None
        self.sampler: Sampler | None = None

    def _tell(self, message: pb.AgentServiceSessionRequest) -> None:
        if self.session:
            self.session.tell(message)

    def _offer(self, device: str, points: Sequence[pb.SpeedPoint], problem: str) -> None:
        """What a GPU can do now; also whenever this agent registers again."""
        for info in self.registration.devices:
            if info.id == device:
                del info.speed_points[:]
                info.speed_points.extend(points)
        told = pb.SpeedPoints(device=device, points=points, problem=problem)
        self._tell(pb.AgentServiceSessionRequest(speed_points=told))

    def _offer_again(self) -> None:
        """A registration that was on its way may have said less."""
        for info in self.registration.devices:
            if info.kind == "gpu":
                points, problem = info.speed_points, self.cards.problems.get(info.id, "")
                told = pb.SpeedPoints(device=info.id, points=points, problem=problem)
                self._tell(pb.AgentServiceSessionRequest(speed_points=told))

    def _keep_open(self, descriptor: int) -> None:
        self.executor.keep_open(descriptor)
        self.cards.keep_open(descriptor)

    @property
    def _cpu_device(self) -> str:
        return f"{self.settings.name}/cpu"

    async def run(self, parent_fd: int | None, ready_fd: int | None) -> None:
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        self.reloader.listen()
        watch_parent(parent_fd, lambda: loop.call_soon_threadsafe(stop.set))
        # Everything that this agent runs stays on its cores, the executor first of all.
        os.sched_setaffinity(0, self.settings.cpus)
        found = await notify.while_extending("starting the executor", self.executor.start())
        points = await notify.while_extending("calibrating", self._calibration(found))
        gpus = await asyncio.to_thread(self.nvml.first, NVML_FIRST_ANSWER_S)
        self._say_missing(gpus)
        names = self._named(gpus)
        self.registration = self._registration(points, names)
        self.session = Session(
            self.settings, self.registration, self.blocks, self._keep_open, self.serving
        )
        self.session.attach(self.subtasks)
        self.session.on_opened = self._offer_again
        for uuid, device in names.items():
            self.cards.add(uuid, device)
        self.sampler = self._start_sampler(names)
        running = loop.create_task(self.session.run())
        announcing = loop.create_task(self._announce(ready_fd))
        beating = loop.create_task(self.heartbeat.run())
        try:
            await self._until(stop, running)
            notify.stopping()
            await self._leave(running)
        finally:
            announcing.cancel()
            beating.cancel()
            running.cancel()
            self.nvml.stop()
            await asyncio.to_thread(self.sampler.stop)
            await self.session.close()
            await self.peers.close()
            await self.cards.stop()
            await self.executor.stop()

    def _named(self, gpus: Gpus) -> dict[str, str]:
        """Ids of devices by the UUIDs of the GPUs that this agent may use."""
        ours, missing = chosen(gpus.devices, self.settings.gpus, os.environ)
        if missing:
            text = f"NVML does not show {', '.join(missing)}, which this agent was told to use"
            log.error(f"GPUs are missing: {text}", extra=logs.keys("gpu"))
        return {gpu.uuid: f"{self.settings.name}/gpu{k}" for k, gpu in enumerate(ours)}

    def _say_missing(self, gpus: Gpus) -> None:
        """No silent fall-back to the CPU: whoever counts on a GPU shall see why there is none."""
        in_container = bool(cards.container(os.environ))
        bus = cards.on_the_bus()
        if text := cards.missing(gpus, bus, os.environ, in_container=in_container):
            log.error(f"GPUs are missing: {text}", extra=logs.keys("gpu"))

    async def _calibration(self, ready: local_pb2.ExecutorReady) -> list[pb.SpeedPoint]:
        fingerprint = calibration.Fingerprint.of(ready.threads, ready.library)
        known = calibration.load(self.settings.cache_dir, fingerprint)
        if known is not None:
            return known
        log.info(
            f"calibrating {ready.threads} threads with {ready.library}",
            extra=logs.keys("calibrate"),
        )
        answer: asyncio.Future[pb.SpeedPoints] = asyncio.get_running_loop().create_future()
        self.subtasks.on_calibrated = answer.set_result
        self.executor.send(local_pb2.ExecutorRequest(calibrate=local_pb2.Calibrate()))
        try:
            points = list((await asyncio.wait_for(answer, CALIBRATION_TIMEOUT_S)).points)
        except TimeoutError:
            raise TimedOut("calibration did not end in time") from None
        calibration.save(self.settings.cache_dir, fingerprint, points)
        return points

    def _registration(self, points: list[pb.SpeedPoint], gpus: dict[str, str]) -> pb.Register:
        settings = self.settings
        devices = [
            pb.DeviceInfo(
                id=self._cpu_device,
                kind="cpu",
                model=procfs.cpu_model(),
                threads=len(settings.cpus),
                memory_bytes=self.memory_bytes,
                speed_points=points,
            )
        ]
        devices += [
            pb.DeviceInfo(
                id=gpus[gpu.uuid],
                kind="gpu",
                model=gpu.name,
                threads=STREAMS,
                memory_bytes=gpu.memory_total_bytes,
            )
            for gpu in self.nvml.latest().devices
            if gpu.uuid in gpus
        ]
        return pb.Register(
            node=settings.name,
            instance=new_id("i"),
            version=VERSION,
            host=hosts.host_identity(),
            cpus=settings.cpus,
            shares_cpus=settings.shares_cpus,
            devices=devices,
        )

    def _start_sampler(self, gpus: dict[str, str]) -> Sampler:
        loop = asyncio.get_running_loop()

        def tell(samples: pb.Samples) -> None:
            message = pb.AgentServiceSessionRequest(samples=samples)
            loop.call_soon_threadsafe(self._tell, message)

        probe = CpuProbe(
            self.settings.cpus,
            lambda: (os.getpid(), self.executor.pid, *self.cards.all_pids),
            lambda: self.executor.pid,
        )
        return Sampler(
            self._cpu_device,
            probe,
            self.nvml,
            gpus,
            lambda: self.blocks.memory_free_bytes,
            lambda: self.blocks.held_matrices,
            tell,
            gpu_pids=self.cards.pids,
            unused={gpu.uuid for gpu in self.nvml.latest().devices} - set(gpus),
        )

    async def _announce(self, ready_fd: int | None) -> None:
        assert self.session is not None
        registered = asyncio.get_running_loop().create_task(self.session.registered.wait())
        await asyncio.wait([registered], timeout=AWAY_S)
        self.heartbeat.ready()
        await registered
        announce_ready(ready_fd, {"node": self.settings.name})

    def _status(self) -> str:
        """One line for people."""
        settings, session = self.settings, self.session
        if session is None or not session.is_open:
            problem = session.problem if session else ""
            why = f": {problem}" if problem else ""
            return f"{settings.name}: waiting for the scheduler at {settings.scheduler}{why}"
        count = len(self.subtasks.held)
        text = f"{settings.name}: registered with {settings.scheduler}, {count} sub-tasks at hand"
        idle = [device for device, why in self.cards.problems.items() if why != NOT_STARTED]
        return f"{text}; {', '.join(idle)} out of order, see the log" if idle else text

    def _problem(self) -> str:
        """What is wrong with this process, and what a restart would mend."""
        if self.sampler and self.sampler.silence_s > STUCK_PROBE_S:
            return f"the probes have been silent for {self.sampler.silence_s:.0f} s"
        return self.session.stuck if self.session else ""

    def _apply(self, settings: AgentSettings) -> tuple[str, ...]:
        logs.configure(settings.log_level)
        try:
            self.executor.set_politeness(settings.politeness)
            self.cards.set_politeness(settings.politeness)
        except OSError:
            return ("politeness",)
        return ()

    async def _until(self, stop: asyncio.Event, running: asyncio.Task[None]) -> None:
        """Serves until it is told to stop, or until it cannot serve any more (raises why)."""
        stopping = asyncio.get_running_loop().create_task(stop.wait())
        waiting: list[asyncio.Future[Any]] = [stopping, running, self.executor.failed]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        for future in (running, self.executor.failed):
            if future.done():
                future.result()

    async def _leave(self, running: asyncio.Task[None]) -> None:
        assert self.session is not None
        await self.subtasks.give_back(STOP_BUDGET_S)
        await self.session.leave("stopped")
        await asyncio.wait([running], timeout=1.0)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m deadheat.agent", description=__doc__)
    for flag in ("scheduler", "name", "cpus", "memory", "politeness", "cache-dir", "log-level"):
        parser.add_argument(f"--{flag}")
    for flag in ("gpus", "peers", "tls-cert", "tls-key", "tls-ca"):
        parser.add_argument(f"--{flag}")
    parser.add_argument("--shares-cpus", action="store_true", default=None)
    parser.add_argument("--config", type=Path)
    for flag in ("parent-fd", "ready-fd"):
        parser.add_argument(f"--{flag}", type=int, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def run(sources: Sources, *, parent_fd: int | None = None, ready_fd: int | None = None) -> int:
    """Runs an agent until it is stopped; returns the exit code."""
    try:
        settings = AgentSettings.load(sources)
        logs.configure(settings.log_level)
        # The watchdog's SIGABRT then leaves in the journal where every thread was.
        faulthandler.enable()
        allowed = tuple(sorted(os.sched_getaffinity(0)))
        daemon = partial(Daemon, settings, lambda: AgentSettings.load(sources.again(), allowed))
        asyncio.run(_main(daemon, parent_fd, ready_fd))
    except DeadheatError as error:
        sys.stderr.write(f"error: {error.message}\n")
        return 1
    return 0


async def _main(make: Callable[[], Daemon], parent_fd: int | None, ready_fd: int | None) -> None:
    await make().run(parent_fd, ready_fd)


def main(arguments: Sequence[str] | None = None) -> int:
    found = parse(arguments)
    flags = {name: value for name, value in vars(found).items() if not name.endswith("_fd")}
    sources = Sources("agent", flags, config=found.config)
    return run(sources, parent_fd=found.parent_fd, ready_fd=found.ready_fd)
