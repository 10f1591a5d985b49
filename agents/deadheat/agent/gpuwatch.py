"""The agent's GPUs: their names, those that appear late, and those that are missing.

Rules of this file: a GPU keeps its name as long as the agent lives, whatever becomes of it. There
is no silent fall-back to the CPU: whoever counts on a GPU is told that there is none, in the log
when that changes and in the status all the time.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from deadheat.agent.cardpool import chosen
from deadheat.agent.executors.bounds import STREAMS
from deadheat.agent.probes import cards
from deadheat.agent.probes.gpus import Gpu, Gpus
from deadheat.agent.probes.nvml import NvmlProbe
from deadheat.runtime import logs
from deadheat.v1 import agent_pb2 as pb

log = logs.get("gpu")

FIRST_ANSWER_S: Final = 1.0
#: How often the bus is compared with what NVML shows: a driver takes longer to load.
LOOK_INTERVAL_S: Final = 10.0


class GpuWatch:
    """`appeared` gets, on the event loop, devices that were not there at the start. Only GPUs that
    `setting` (see `cardpool.chosen`) leaves to this agent are devices."""

    def __init__(
        self,
        node: str,
        nvml: NvmlProbe,
        appeared: Callable[[pb.DeviceInfo], None],
        *,
        setting: str = "all",
        root: Path = Path("/"),
        environment: Mapping[str, str] | None = None,
        interval_s: float = LOOK_INTERVAL_S,
    ) -> None:
        self._node = node
        self._nvml = nvml
        self._appeared = appeared
        self._setting = setting
        self._root = root
        self._environment = os.environ if environment is None else environment
        self._interval_s = interval_s
        #: Ids of devices by the UUIDs of GPUs; also read by the thread of the probes.
        self.ids: dict[str, str] = {}
        #: Which GPUs are missing, in a sentence; empty if none are.
        self.missing = ""

    async def first(self) -> list[pb.DeviceInfo]:
        """What is there at the start."""
        found = await asyncio.to_thread(self._nvml.first, FIRST_ANSWER_S)
        await self._look()
        return [self._named(gpu) for gpu in self._chosen(found)[0]]

    def appear(self, gpu: Gpu) -> None:
        """One that NVML shows now, and that has no name yet."""
        ours, _ = self._chosen(self._nvml.latest())
        if gpu.uuid in self.ids or gpu.uuid not in {one.uuid for one in ours}:
            return
        info = self._named(gpu)
        log.warning(
            f"{gpu.name} {gpu.uuid} appeared, and is {info.id} from now on", extra=logs.keys("gpu")
        )
        self._appeared(info)

    async def run(self) -> None:
        """Looks for what is missing, until it is cancelled."""
        while True:
            await asyncio.sleep(self._interval_s)
            await self._look()

    async def _look(self) -> None:
        bus = await asyncio.to_thread(cards.on_the_bus, self._root / "sys")
        in_container = bool(cards.container(self._environment, self._root))
        found = self._nvml.latest()
        missing = cards.missing(found, bus, self._environment, in_container=in_container)
        _, absent = self._chosen(found)
        if self._setting == "none":
            missing = ""  # Nobody counts on any.
        elif absent:
            text = f"NVML does not show {', '.join(absent)}, which this agent was told to use"
            missing = f"{missing}; {text}" if missing else text
        # Why they are missing may be worded otherwise each time; that they are is said once.
        if bool(missing) != bool(self.missing):
            level, text = (log.error, missing) if missing else (log.info, "none any more")
            level(f"GPUs are missing: {text}", extra=logs.keys("gpu"))
        self.missing = missing

    def _chosen(self, found: Gpus) -> tuple[tuple[Gpu, ...], tuple[str, ...]]:
        return chosen(found.devices, self._setting, self._environment)

    def _named(self, gpu: Gpu) -> pb.DeviceInfo:
        id_ = self.ids.setdefault(gpu.uuid, f"{self._node}/gpu{len(self.ids)}")
        return pb.DeviceInfo(
            id=id_,
            kind="gpu",
            model=gpu.name,
            threads=STREAMS,
            memory_bytes=gpu.memory_total_bytes,
            uuid=gpu.uuid,
        )
