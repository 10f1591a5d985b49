"""The cores of an agent as devices: all in one pool, or a pool for each node of memory.

Rules of this file: a pool has an executor process whose threads stay on its cores, so that what
they touch first lies in their own memory. Pools are calibrated one after the other, as cards are,
and those of equal size share a calibration. The agent's own process and its cards' run on any of
the cores: what they use, and what a quota allows, counts for each pool in proportion to its cores.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deadheat.agent.calibrating import calibrator_of
from deadheat.agent.executors.link import Command, ExecutorLink
from deadheat.agent.probes import procfs, topology
from deadheat.agent.probes.cpu import CpuProbe
from deadheat.agent.subtasks import Subtasks
from deadheat.runtime import notify
from deadheat.runtime.errors import InvalidInput
from deadheat.runtime.settings import AgentSettings
from deadheat.v1 import agent_pb2 as pb
from deadheat.v1 import local_pb2

#: Nodes of memory that have devices of their own. Each has a process; the largest machines that we
#: know of (eight sockets in four parts) have as many.
MAX_POOLS: Final = 32


@dataclass(frozen=True, slots=True)
class Place:
    """A device, and the cores that it is."""

    device: str
    cpus: tuple[int, ...]


def places(
    node: str, cpus: Iterable[int], setting: str, sys: Path = topology.SYS
) -> tuple[Place, ...]:
    """Which devices these cores are. `setting` is "whole" (one), "split" (one for each node of
    memory that has some of them), or "auto": split where other nodes' memory is far. Raises
    InvalidInput for more than MAX_POOLS."""
    ours = tuple(sorted(cpus))
    found = topology.read(ours, sys)
    nodes = tuple(found.numa_nodes[number] for number in sorted(found.numa_nodes))
    pools = {"whole": (found.cpus,), "split": nodes, "auto": found.pools}[setting]
    if len(pools) > MAX_POOLS:
        raise InvalidInput(
            f"numa is {setting!r}: these cores are of {len(pools)} NUMA nodes, and an agent may "
            f"have {MAX_POOLS} devices of cores; give it fewer (--cpus), or numa = whole",
            field="numa",
        )
    if len(pools) == 1:
        return (Place(f"{node}/cpu", ours),)
    # A core that sysfs puts on no node belongs somewhere all the same.
    homeless = found.cpus.difference(*pools)
    pools = (pools[0] | homeless, *pools[1:])
    return tuple(
        Place(f"{node}/cpu{number}", tuple(sorted(pool))) for number, pool in enumerate(pools)
    )


class _Pool:
    """One executor of cores."""

    def __init__(
        self, place: Place, politeness: str, subtasks: Subtasks, *, is_pinned: bool
    ) -> None:
        self.place = place
        command = Command()
        if is_pinned:
            command = Command(name=f"the executor of {place.device}", cpus=place.cpus)
        self.link = ExecutorLink(
            len(place.cpus),
            politeness,
            subtasks.on_executor_event,
            lambda reason: subtasks.on_executor_died(place.device, reason),
            command,
        )
        self.ready = local_pb2.ExecutorReady()
        self.points: Sequence[pb.SpeedPoint] = ()
        subtasks.attach(place.device, self.link)

    async def start(self) -> None:
        self.ready = await self.link.start()


class CorePools:
    """Executors on all cores of an agent, on its event loop."""

    def __init__(
        self, settings: AgentSettings, subtasks: Subtasks, sys: Path = topology.SYS
    ) -> None:
        """Raises InvalidInput as `places` does."""
        self._settings = settings
        self._subtasks = subtasks
        found = places(settings.name, settings.cpus, settings.numa, sys)
        self._pools = [
            _Pool(place, settings.politeness, subtasks, is_pinned=len(found) > 1) for place in found
        ]

    @property
    def pids(self) -> tuple[int, ...]:
        """From any thread."""
        return tuple(pool.link.pid for pool in self._pools if pool.link.pid)

    @property
    def failed(self) -> list[asyncio.Future[None]]:
        """Each has a failure when an executor is given up."""
        return [pool.link.failed for pool in self._pools]

    async def start(self) -> None:
        """Raises ClusterError if one of them does not."""
        await asyncio.gather(*(pool.start() for pool in self._pools))

    async def calibrate(self, leaving: asyncio.Event) -> bool:
        """Whether all are; else the agent was told to leave, and what was measured is kept."""
        stopping = asyncio.get_running_loop().create_task(leaving.wait())
        try:
            for pool in self._pools:
                calibrator = calibrator_of(
                    self._settings.cache_dir,
                    pool.place.cpus,
                    pool.ready,
                    pool.link,
                    self._subtasks,
                )
                work = notify.while_extending("calibrating", calibrator.run())
                running = asyncio.get_running_loop().create_task(work)
                await asyncio.wait([running, stopping], return_when=asyncio.FIRST_COMPLETED)
                if not running.done():
                    running.cancel()
                    return False
                pool.points = [one.point for one in running.result()]
        finally:
            stopping.cancel()
        return True

    def devices(self, memory_bytes: int) -> list[pb.DeviceInfo]:
        """As the scheduler is told of them; they share the agent's memory by their cores."""
        return [
            pb.DeviceInfo(
                id=pool.place.device,
                kind="cpu",
                model=procfs.cpu_model(),
                threads=len(pool.place.cpus),
                memory_bytes=memory_bytes * len(pool.place.cpus) // len(self._settings.cpus),
                speed_points=pool.points,
            )
            for pool in self._pools
        ]

    def probes(self, others: Callable[[], tuple[int, ...]]) -> Mapping[str, CpuProbe]:
        """By device; `others` are processes of ours that may run on any of the cores."""
        return {pool.place.device: self._probe(pool, others) for pool in self._pools}

    def _probe(self, pool: _Pool, others: Callable[[], tuple[int, ...]]) -> CpuProbe:
        return CpuProbe(
            pool.place.cpus,
            lambda: (pool.link.pid,),
            lambda: pool.link.pid,
            anywhere=lambda: (os.getpid(), *others()),
            of_cpus=len(self._settings.cpus),
        )

    def keep_open(self, descriptor: int) -> None:
        for pool in self._pools:
            pool.link.keep_open(descriptor)

    def set_politeness(self, politeness: str) -> None:
        """Raises PermissionError as `ExecutorLink` does."""
        for pool in self._pools:
            pool.link.set_politeness(politeness)

    async def stop(self) -> None:
        await asyncio.gather(*(pool.link.stop() for pool in self._pools))
