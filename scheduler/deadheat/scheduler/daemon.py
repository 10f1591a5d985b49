"""The scheduler daemon: opens what it needs, serves until it is told to stop, closes it again."""

from __future__ import annotations

import argparse
import asyncio
import faulthandler
import signal
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any, Final

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from deadheat.runtime import hosts, logs, notify, rpc
from deadheat.runtime.children import announce_ready, watch_parent
from deadheat.runtime.credentials import is_loopback
from deadheat.runtime.errors import ClusterError, DeadheatError
from deadheat.runtime.heartbeat import Heartbeat
from deadheat.runtime.ids import new_id
from deadheat.runtime.reloading import Reloader
from deadheat.runtime.settings import SchedulerSettings, Sources
from deadheat.scheduler.core import events
from deadheat.scheduler.core.core import Core
from deadheat.scheduler.core.effects import Prune
from deadheat.scheduler.core.machine import JobState
from deadheat.scheduler.core.restore import restore
from deadheat.scheduler.records import database, retention
from deadheat.scheduler.records.clock import Clock
from deadheat.scheduler.records.models import Models, end_served
from deadheat.scheduler.records.reading import Reader
from deadheat.scheduler.records.writer import Writer
from deadheat.scheduler.service.agents import AgentServicer, AgentSessions
from deadheat.scheduler.service.cluster import ClusterServicer
from deadheat.scheduler.service.jobs import JobServicer
from deadheat.scheduler.service.models import ModelServicer
from deadheat.scheduler.service.shell import Shell
from deadheat.scheduler.service.storelink import StoreLink
from deadheat.v1 import (
    agent_pb2,
    agent_pb2_grpc,
    cluster_pb2,
    cluster_pb2_grpc,
    job_pb2,
    job_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
)

log = logs.get("scheduler")

#: Calls that are under way get this long to end when the daemon stops.
STOP_GRACE_S: Final = 0.5
#: A commit that takes so long is stuck: a lock fails after BUSY_TIMEOUT_MS, a full disk at once.
STUCK_COMMIT_S: Final = 20.0
#: What a reload changes; everything else needs a restart.
LIVE_SETTINGS: Final = frozenset({"log_level"})
_SERVICES: Final = tuple(
    module.DESCRIPTOR.services_by_name[name].full_name
    for module, name in (
        (job_pb2, "JobService"),
        (cluster_pb2, "ClusterService"),
        (model_pb2, "ModelService"),
        (agent_pb2, "AgentService"),
    )
)


class Daemon:
    """Everything one scheduler process owns, in the order in which it is opened."""

    def __init__(
        self, settings: SchedulerSettings, load: Callable[[], SchedulerSettings] | None = None
    ) -> None:
        """`load` reads the settings again; without it a reload finds nothing new."""
        self.settings = settings
        self.address = settings.listen
        self.writer: Writer | None = None
        self.heartbeat = Heartbeat(self._status, self._problem)
        self.reloader = Reloader(
            settings, load or (lambda: settings), LIVE_SETTINGS, _apply, self.heartbeat.reloaded
        )
        self.clock = Clock.start()
        self.sessions = AgentSessions(self.clock)
        self.store = StoreLink(settings, self._on_store_restarted)
        self.core = Core(hosts.host_identity())
        self.shell: Shell | None = None
        self.health = health.aio.HealthServicer()
        self._orphaned = False

    async def run(self, parent_fd: int | None, ready_fd: int | None) -> None:
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        self.reloader.listen()
        watch_parent(parent_fd, lambda: loop.call_soon_threadsafe(self._on_orphaned, stop))
        settings = self.settings
        database.lock_state_dir(settings.state_dir)
        path = settings.state_dir / database.FILE_NAME
        migration = asyncio.to_thread(database.migrate, path)
        await notify.while_extending("bringing the database up to date", migration)
        async with AsyncExitStack() as stack:
            server = grpc.aio.server(
                interceptors=[rpc.ErrorInterceptor()], options=rpc.server_options()
            )
            port = rpc.open_port(server, settings.listen, settings.tls)
            await notify.while_extending("starting the store", self.store.start())
            stack.push_async_callback(self._stop_store)
            shell, reader, models = await self._open_records(path, stack)
            self._add_services(server, shell, reader, models)
            stack.callback(models.close)
            await server.start()
            stack.push_async_callback(self._stop_server, server)
            await self._set_health(health_pb2.HealthCheckResponse.SERVING)
            watching = loop.create_task(self.store.watch())
            stack.callback(watching.cancel)
            pruning = loop.create_task(self._prune(shell.writer))
            stack.callback(pruning.cancel)
            host = rpc.split_address(settings.listen)[0]
            self._say_ready(f"{host}:{port}", ready_fd)
            beating = loop.create_task(self.heartbeat.run())
            stack.callback(beating.cancel)
            await self._until(stop)
            notify.stopping()

    def _on_orphaned(self, stop: asyncio.Event) -> None:
        self._orphaned = True
        self.store.abandon()
        stop.set()

    async def _open_records(
        self, path: Path, stack: AsyncExitStack
    ) -> tuple[Shell, Reader, ModelServicer]:
        writing = database.open_engine(path, writes=True)
        reading = database.open_engine(path, writes=False)
        stack.callback(writing.dispose)
        stack.callback(reading.dispose)
        await asyncio.to_thread(end_served, writing, self.clock)
        writer, reader = Writer(writing, self.clock), Reader(reading, self.clock)
        models = Models(reading)
        stack.callback(writer.stop, 1.0)
        self.writer = writer
        shell = self.shell = Shell(self.core, writer, self.clock, self.store, self.sessions)
        stack.callback(shell.close)
        nodes = await asyncio.to_thread(reader.nodes)
        jobs = await asyncio.to_thread(reader.unfinished_jobs)
        registry = await asyncio.to_thread(models.registry)
        matrices = await self.store.matrices([job.row.id for job in jobs], registry.holders)
        shell.resume(restore(self.core.world, self.clock.now(), nodes, jobs, matrices))
        return shell, reader, ModelServicer(shell, self.store, models, registry)

    def _add_services(
        self, server: grpc.aio.Server, shell: Shell, reader: Reader, models: ModelServicer
    ) -> None:
        cluster_id = new_id("c")
        self.sessions.attach(self.store, cluster_id)
        job_pb2_grpc.add_JobServiceServicer_to_server(
            JobServicer(shell, self.store, reader), server
        )
        cluster_pb2_grpc.add_ClusterServiceServicer_to_server(
            ClusterServicer(shell, self.store, cluster_id), server
        )
        model_pb2_grpc.add_ModelServiceServicer_to_server(models, server)
        agent_pb2_grpc.add_AgentServiceServicer_to_server(
            AgentServicer(shell, self.sessions), server
        )
        health_pb2_grpc.add_HealthServicer_to_server(self.health, server)
        names = (*_SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)

    async def _set_health(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        for name in ("", *_SERVICES):
            await self.health.set(name, status)

    def _say_ready(self, address: str, ready_fd: int | None) -> None:
        host = rpc.split_address(address)[0]
        if not is_loopback(host) and self.settings.tls is None:
            log.warning(
                f"listening on {address} WITHOUT TLS: whoever reaches it may use this cluster",
                extra=logs.keys("listen", address=address),
            )
        log.info(
            f"serving on {address}, state in {self.settings.state_dir}",
            extra=logs.keys("ready", address=address),
        )
        self.address = address
        self.heartbeat.ready()
        announce_ready(ready_fd, {"address": address, "store_pid": self.store.pid})

    def _status(self) -> str:
        """One line for people."""
        world = self.core.world
        states = Counter(job.state for job in world.open.values())
        running = states.pop(JobState.RUNNING, 0)
        up = sum(node.is_usable for node in world.nodes.values())
        writer = self.writer
        stalled = f"; cannot commit: {writer.problem}" if writer and writer.is_stalled else ""
        return (
            f"serving on {self.address}: {up} of {len(world.nodes)} nodes up, "
            f"{running} jobs running, {states.total()} waiting{stalled}"
        )

    def _on_store_restarted(self) -> None:
        self.sessions.announce_store()
        if self.shell:
            self.shell.feed(events.StoreRestarted())

    def _problem(self) -> str:
        """What is wrong with this process, and what a restart would mend."""
        if self.writer is None or not self.writer.is_alive:
            return "the thread that writes the records has ended"
        if self.writer.busy_s > STUCK_COMMIT_S:
            return f"a commit has taken {self.writer.busy_s:.0f} s"
        return ""

    async def _prune(self, writer: Writer) -> None:
        while True:
            writer.submit([Prune(self.clock.now())], lambda: None)
            await asyncio.sleep(retention.INTERVAL_S)

    async def _until(self, stop: asyncio.Event) -> None:
        """Serves until it is told to stop, or until it cannot serve any more."""
        stopping = asyncio.get_running_loop().create_task(stop.wait())
        waiting: list[asyncio.Future[Any]] = [stopping, self.store.failed]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if self.store.failed.done():
            raise ClusterError(f"the store is gone: {self.store.failed.exception()}")

    async def _stop_server(self, server: grpc.aio.Server) -> None:
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        self.sessions.end_all()
        await server.stop(0.0 if self._orphaned else STOP_GRACE_S)

    async def _stop_store(self) -> None:
        if not self._orphaned:
            await self.store.stop()


def _apply(settings: SchedulerSettings) -> tuple[str, ...]:
    logs.configure(settings.log_level)
    return ()


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m deadheat.scheduler", description=__doc__)
    for flag in ("state-dir", "listen", "tls-cert", "tls-key", "tls-ca", "memory", "disk"):
        parser.add_argument(f"--{flag}")
    for flag in ("memory-dir", "log-level"):
        parser.add_argument(f"--{flag}")
    for flag in ("insecure", "ephemeral"):
        parser.add_argument(f"--{flag}", action="store_true", default=None)
    parser.add_argument("--config", type=Path)
    for flag in ("parent-fd", "ready-fd"):
        parser.add_argument(f"--{flag}", type=int, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def run(sources: Sources, *, parent_fd: int | None = None, ready_fd: int | None = None) -> int:
    """Runs a scheduler until it is stopped; returns the exit code."""
    try:
        settings = SchedulerSettings.load(sources)
        logs.configure(settings.log_level)
        logs.warn_of_unread()
        # The watchdog's SIGABRT then leaves in the journal where every thread was.
        faulthandler.enable()
        daemon = partial(Daemon, settings, lambda: SchedulerSettings.load(sources.again()))
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
    sources = Sources("scheduler", flags, config=found.config)
    return run(sources, parent_fd=found.parent_fd, ready_fd=found.ready_fd)
