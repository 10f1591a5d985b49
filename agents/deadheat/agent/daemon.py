"""The agent daemon: executor, calibration, probes, session, until it is told to stop."""

from __future__ import annotations

import argparse
import asyncio
import faulthandler
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from deadheat.agent.blocks import Blocks
from deadheat.agent.cache import BlockCache
from deadheat.agent.cardpool import NOT_STARTED, CardPool
from deadheat.agent.core.yielding import YieldPolicy
from deadheat.agent.corepool import CorePools
from deadheat.agent.gpuwatch import GpuWatch
from deadheat.agent.peers import Peers
from deadheat.agent.presence import LEAD_S, Presence
from deadheat.agent.probes.cgroups import IDLE_WEIGHT, Cgroups
from deadheat.agent.probes.host import HostProbe
from deadheat.agent.probes.limits import Limits
from deadheat.agent.probes.nvml import NvmlProbe
from deadheat.agent.probes.sampler import Sampler
from deadheat.agent.probes.topology import SYS
from deadheat.agent.service import PeerServer
from deadheat.agent.session import Session
from deadheat.agent.subtasks import Subtasks
from deadheat.runtime import hosts, logs, moments, notify
from deadheat.runtime.children import announce_ready, watch_parent
from deadheat.runtime.errors import DeadheatError, InvalidInput
from deadheat.runtime.heartbeat import Heartbeat
from deadheat.runtime.ids import new_id
from deadheat.runtime.reloading import Reloader
from deadheat.runtime.settings import AgentSettings, Sources
from deadheat.runtime.version import VERSION
from deadheat.v1 import agent_pb2 as pb

log = logs.get("agent")

#: What operands and results of streamed sub-tasks may take if nothing else is said.
DEFAULT_MEMORY_SHARE: Final = 0.5
#: How long a stopping agent lets panels end before it gives their rows back.
STOP_BUDGET_S: Final = 3.0
#: A scheduler that has not answered by then is away, and may be for long. The agent says READY
#: all the same: it has done its part, and no machine's boot should wait for another machine.
AWAY_S: Final = 10.0
#: A look at the machine that takes so long hangs in the kernel.
STUCK_PROBE_S: Final = 20.0
#: What a reload changes; everything else needs a restart.
LIVE_SETTINGS: Final = frozenset({"log_level", "politeness", "yield_above", "yield_hours"})


class Daemon:
    def __init__(
        self,
        settings: AgentSettings,
        load: Callable[[], AgentSettings] | None = None,
        sys: Path = SYS,
    ) -> None:
        """`load` reads the settings again; without it a reload finds nothing new. `sys` is where
        nodes of memory are looked for."""
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
        self.subtasks = Subtasks(self.blocks, self._tell, self.serving.exchanges)
        self.cores = CorePools(settings, self.subtasks, sys)
        self.cards = CardPool(settings.cache_dir, settings.politeness, self.subtasks, self._offer)
        self.registration = pb.Register()
        self.nvml = NvmlProbe()
        self.gpus = GpuWatch(settings.name, self.nvml, self._appeared, setting=settings.gpus)
        self.session: Session | None = None
        self.presence: Presence | None = None
        self._leaving = asyncio.Event()
        self.sampler: Sampler | None = None

    def _tell(self, message: pb.AgentServiceSessionRequest) -> None:
        if self.session:
            self.session.tell(message)

    def _appeared(self, device: pb.DeviceInfo) -> None:
        assert self.presence is not None
        self.presence.appeared(device)
        self._use_cards()

    def _use_cards(self) -> None:
        """Those that have a name; one that is in use already stays as it is."""
        for uuid, device in self.gpus.ids.items():
            self.cards.add(uuid, device)

    def _session_opened(self) -> None:
        """First which devices there are, then what they can do."""
        assert self.presence is not None
        self.presence.session_opened()
        self._offer_again()

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
        self.cores.keep_open(descriptor)
        self.cards.keep_open(descriptor)

    async def run(self, parent_fd: int | None, ready_fd: int | None) -> None:
        loop = asyncio.get_running_loop()
        stop = self._leaving
        until_s = self._until_s()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        self.reloader.listen()
        watch_parent(parent_fd, lambda: loop.call_soon_threadsafe(stop.set))
        # Everything that this agent runs stays on its cores, the executor first of all.
        os.sched_setaffinity(0, self.settings.cpus)
        await notify.while_extending("starting the executor", self.cores.start())
        self._say_impolite()
        if not await self.cores.calibrate(stop):
            self.nvml.stop()
            await self.cores.stop()
            return
        self.registration = self._registration(await self.gpus.first())
        self.session = Session(
            self.settings, self.registration, self.blocks, self._keep_open, self.serving
        )
        self.session.attach(self.subtasks)
        self.presence = Presence(
            _yield_policy(self.reloader.settings),
            self.registration,
            self.subtasks,
            self._tell,
            self._go,
            until_s=until_s,
        )
        self.session.on_opened = self._session_opened
        self.session.on_nothing_to_do = self.presence.nothing_to_do
        # What the hours say is in the registration already.
        self.presence.look({})
        self._use_cards()
        self.sampler = self._start_sampler()
        watching = loop.create_task(self.gpus.run())
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
            watching.cancel()
            running.cancel()
            self.nvml.stop()
            await asyncio.to_thread(self.sampler.stop)
            await self.session.close()
            await self.peers.close()
            await self.cards.stop()
            await self.cores.stop()

    def _until_s(self) -> float | None:
        """When it has to be gone, in seconds since the epoch."""
        text, now_s = self.settings.until, time.time()
        if not text:
            return None
        until_s = moments.parse_moment(text, now_s, os.environ)
        if until_s - now_s < LEAD_S:
            raise InvalidInput(
                f"--until {text} is in {until_s - now_s:.0f} s; leaving takes {LEAD_S:.0f}",
                field="until",
            )
        return until_s

    def _go(self, reason: str) -> None:
        """Ends this agent in order, as SIGTERM does."""
        log.info(f"leaving: {reason}", extra=logs.keys("leave"))
        self._leaving.set()

    def _say_impolite(self) -> None:
        """Idle threads yield to those of their own group; among groups it is weights that count."""
        groups = Cgroups().groups(os.getpid())
        is_idle = not groups or any(group.weight <= IDLE_WEIGHT for group in groups)
        if self.settings.politeness == "idle" and not is_idle:
            log.warning(
                f"politeness is idle, but the control group {groups[-1].path} is not: beside other "
                "groups this agent gets its share (CPUWeight=idle, deadheat install-units --idle)",
                extra=logs.keys("politeness"),
            )

    def _registration(self, gpus: list[pb.DeviceInfo]) -> pb.Register:
        settings = self.settings
        return pb.Register(
            node=settings.name,
            instance=new_id("i"),
            version=VERSION,
            host=hosts.host_identity(),
            cpus=settings.cpus,
            shares_cpus=settings.shares_cpus,
            once=settings.once,
            devices=[*self.cores.devices(self.memory_bytes), *gpus],
        )

    def _start_sampler(self) -> Sampler:
        loop = asyncio.get_running_loop()

        def tell(samples: pb.Samples) -> None:
            message = pb.AgentServiceSessionRequest(samples=samples)
            loop.call_soon_threadsafe(self._tell, message)

        def look(foreign: dict[str, float | None]) -> None:
            assert self.presence is not None
            loop.call_soon_threadsafe(self.presence.look, foreign)

        return Sampler(
            self.cores.probes(lambda: self.cards.all_pids),
            self.nvml,
            self.gpus.ids,
            lambda: self.blocks.memory_free_bytes,
            lambda: self.blocks.held_matrices,
            tell,
            look,
            lambda gpu: loop.call_soon_threadsafe(self.gpus.appear, gpu),
            gpu_pids=self.cards.pids,
            memory_idle_bytes=lambda: self.blocks.memory_idle_bytes,
            host=HostProbe(
                own_pids=lambda: (os.getpid(), *self.cores.pids, *self.cards.all_pids),
                folder=self.settings.cache_dir,
                problem=lambda: self._missing,
            ),
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
        notes = (
            self.presence.note if self.presence else "",
            f"{', '.join(idle)} out of order, see the log" if idle else "",
            self._missing,
        )
        return "; ".join((text, *filter(None, notes)))

    @property
    def _missing(self) -> str:
        """From any thread."""
        missing = self.gpus.missing
        return f"GPUs are missing: {missing}" if missing else ""

    def _problem(self) -> str:
        """What is wrong with this process, and what a restart would mend."""
        if self.sampler and self.sampler.silence_s > STUCK_PROBE_S:
            return f"the probes have been silent for {self.sampler.silence_s:.0f} s"
        return self.session.stuck if self.session else ""

    def _apply(self, settings: AgentSettings) -> tuple[str, ...]:
        logs.configure(settings.log_level)
        if self.presence:
            self.presence.use(_yield_policy(settings))
        try:
            self.cores.set_politeness(settings.politeness)
            self.cards.set_politeness(settings.politeness)
        except OSError:
            return ("politeness",)
        return ()

    async def _until(self, stop: asyncio.Event, running: asyncio.Task[None]) -> None:
        """Serves until it is told to stop, or until it cannot serve any more (raises why)."""
        stopping = asyncio.get_running_loop().create_task(stop.wait())
        waiting: list[asyncio.Future[Any]] = [stopping, running, *self.cores.failed]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        for future in (running, *self.cores.failed):
            if future.done():
                future.result()

    async def _leave(self, running: asyncio.Task[None]) -> None:
        assert self.session is not None
        await self.subtasks.give_back(STOP_BUDGET_S)
        await self.session.leave("stopped")
        await asyncio.wait([running], timeout=1.0)


def _yield_policy(settings: AgentSettings) -> YieldPolicy:
    return YieldPolicy(settings.yield_above, settings.yield_hours)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m deadheat.agent", description=__doc__)
    for flag in ("scheduler", "name", "cpus", "memory", "politeness", "cache-dir", "log-level"):
        parser.add_argument(f"--{flag}")
    for flag in ("yield-above", "yield-hours", "until"):
        parser.add_argument(f"--{flag}")
    for flag in ("gpus", "numa", "peers", "tls-cert", "tls-key", "tls-ca"):
        parser.add_argument(f"--{flag}")
    for flag in ("shares-cpus", "once"):
        parser.add_argument(f"--{flag}", action="store_true", default=None)
    parser.add_argument("--config", type=Path)
    for flag in ("parent-fd", "ready-fd"):
        parser.add_argument(f"--{flag}", type=int, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def run(
    sources: Sources,
    *,
    parent_fd: int | None = None,
    ready_fd: int | None = None,
    sys_root: Path = SYS,
) -> int:
    """Runs an agent until it is stopped; returns the exit code. `sys_root` is where it looks for
    nodes of memory."""
    try:
        settings = AgentSettings.load(sources)
        logs.configure(settings.log_level)
        logs.warn_of_unread()
        # The watchdog's SIGABRT then leaves in the journal where every thread was.
        faulthandler.enable()
        allowed = tuple(sorted(os.sched_getaffinity(0)))
        daemon = partial(
            Daemon, settings, lambda: AgentSettings.load(sources.again(), allowed), sys_root
        )
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
