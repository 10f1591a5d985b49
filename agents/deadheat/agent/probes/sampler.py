"""The probe thread: looks four times a second, tells on change and at least once a second."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping
from typing import Final

from deadheat.agent.probes.cpu import CpuProbe, CpuSample
from deadheat.agent.probes.gpus import Gpu, Load, load_of, sees_all_pids
from deadheat.agent.probes.host import HostProbe
from deadheat.agent.probes.nvml import NvmlProbe
from deadheat.runtime import logs
from deadheat.v1 import agent_pb2 as pb
from deadheat.v1 import cluster_pb2

log = logs.get("probes")

INTERVAL_S: Final = 0.25
REPORT_INTERVAL_S: Final = 1.0
#: A change of a device's load that is told at once.
CHANGE: Final = 0.05


class Sampler:
    """Calls `tell` from its own thread; stops with `stop`."""

    def __init__(
        self,
        cores: Mapping[str, CpuProbe],
        nvml: NvmlProbe,
        gpu_devices: dict[str, str],
        memory_free_bytes: Callable[[], int],
        held_matrices: Callable[[], tuple[str, ...]],
        tell: Callable[[pb.Samples], None],
        looked: Callable[[dict[str, float | None]], None],
        appeared: Callable[[Gpu], object] = lambda _gpu: None,
        *,
        gpu_pids: Callable[[str], Collection[int]] = lambda _uuid: (),
        memory_idle_bytes: Callable[[], int] = int,
        host: HostProbe | None = None,
    ) -> None:
        """`cores` are the devices that are cores. `gpu_devices` names devices by their UUIDs;
        `gpu_pids` are our processes on a GPU. Of `memory_free_bytes`, `memory_idle_bytes` are taken
        from the machine already, by what is kept here in case that it is needed again.

        `looked` gets at every look what others use of each device, None where that is unknown;
        `appeared` gets a GPU that was not there before, which `gpu_devices` should name soon.
        """
        self._cores = cores
        self._nvml = nvml
        self._gpu_devices = gpu_devices
        self._memory_free_bytes = memory_free_bytes
        self._held_matrices = held_matrices
        self._tell = tell
        self._looked = looked
        self._appeared = appeared
        self._gpu_pids = gpu_pids
        self._pids_match = sees_all_pids()
        self._said: dict[str, str] = dict.fromkeys(gpu_devices, "")
        self._memory_idle_bytes = memory_idle_bytes
        self._host = host or HostProbe()
        self._host_seen = self._host.sample()
        self._host_seen_s = time.monotonic()
        self._told: dict[str, tuple[float, float]] = {}
        self._told_held: dict[str, tuple[str, ...]] = {}
        self._told_s = float("-inf")
        self._looked_s = time.monotonic()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="probes", daemon=True)
        self._thread.start()

    @property
    def silence_s(self) -> float:
        """Since a look at the machine last ended, whatever it found."""
        return time.monotonic() - self._looked_s

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(2.0)
        self._host.stop()

    def _run(self) -> None:
        due_s = time.monotonic()
        while not self._stopping.is_set():
            try:
                self._look()
            except Exception:  # A probe that fails once must not end all probing.
                log.exception("probing failed", extra=logs.keys("probe"))
            self._looked_s = time.monotonic()
            due_s = max(due_s + INTERVAL_S, time.monotonic())
            self._stopping.wait(due_s - time.monotonic())

    def _look(self) -> None:
        samples = []
        if time.monotonic() - self._host_seen_s >= REPORT_INTERVAL_S - INTERVAL_S / 2:
            self._host_seen, self._host_seen_s = self._host.sample(), time.monotonic()
        for name, probe in self._cores.items():
            if found := probe.sample():
                samples.append(self._cpu_message(name, probe.share, found))
        for gpu in self._nvml.latest().devices:
            self._say(gpu)
            if device := self._gpu_devices.get(gpu.uuid):
                load = load_of(gpu, self._gpu_pids(gpu.uuid), pids_match=self._pids_match)
                own_bytes = self._own_bytes(gpu)
                samples.append(_gpu_message(device, gpu, load, own_bytes))
        self._looked({one.device: None if one.unknown else one.foreign for one in samples})
        if samples and self._is_news(samples):
            self._tell(pb.Samples(devices=samples, host=self._host_seen))

    def _short_bytes(self, free_bytes: int) -> int:
        """How much of what is free by our own limit others have taken since that was set."""
        there = self._host_seen.memory_available_bytes + self._memory_idle_bytes()
        return max(0, free_bytes - there)

    def _own_bytes(self, gpu: Gpu) -> int:
        """Memory that our own executor has there: it serves whatever it is given next."""
        pids = self._gpu_pids(gpu.uuid) if self._pids_match else ()
        return sum(one.memory_bytes or 0 for one in gpu.processes or () if one.pid in pids)

    def _say(self, gpu: Gpu) -> None:
        """Says in the log what became of a GPU, once for each change."""
        name, keys = f"{gpu.name} {gpu.uuid}", logs.keys("gpu")
        before = self._said.get(gpu.uuid)
        # How long it has not answered changes all the time.
        problem = gpu.problem.partition(",")[0]
        if before is None:
            self._appeared(gpu)
        elif problem and problem != before:
            log.warning(f"{name}: {gpu.problem}; it gets no work from here", extra=keys)
        elif before and not problem:
            log.info(f"{name} is back", extra=keys)
        self._said[gpu.uuid] = problem

    def _is_news(self, samples: list[pb.DeviceSample]) -> bool:
        now = time.monotonic()
        seen = {sample.device: (sample.busy, sample.foreign) for sample in samples}
        held = {sample.device: tuple(sample.held_matrices) for sample in samples}
        changed = held != self._told_held or any(
            abs(new - old) >= CHANGE
            for device in seen
            for new, old in zip(seen[device], self._told[device])
        )
        if not changed and now - self._told_s < REPORT_INTERVAL_S - INTERVAL_S / 2:
            return False
        self._told, self._told_held, self._told_s = seen, held, now
        return True

    def _cpu_message(self, device: str, share: float, found: CpuSample) -> pb.DeviceSample:
        free_bytes = self._memory_free_bytes()
        short_bytes = self._short_bytes(free_bytes)
        return pb.DeviceSample(
            device=device,
            at_s=found.at_s,
            window_s=found.window_s,
            busy=found.busy,
            own=found.own,
            foreign=found.foreign,
            steal=found.steal,
            foreign_runnable=found.foreign_runnable,
            run_s=found.run_s,
            wait_s=found.wait_s,
            memory_free_bytes=int((free_bytes - short_bytes) * share),
            memory_short_bytes=int(short_bytes * share),
            held_matrices=self._held_matrices(),
            core_busy=found.core_busy,
            quota=found.quota,
            fair_share=found.fair_share,
        )


def _gpu_message(device: str, gpu: Gpu, load: Load | None, own_bytes: int) -> pb.DeviceSample:
    # A load that nobody can tell is unknown, not idle: then what sub-tasks take is what counts.
    unknown = gpu.problem or ("" if load else "NVML does not say whose load it is")
    busy = gpu.busy or 0.0
    return pb.DeviceSample(
        device=device,
        at_s=gpu.at_s,
        window_s=REPORT_INTERVAL_S,
        busy=busy,
        own=load.own if load else 0.0,
        foreign=load.foreign if load else busy,
        memory_free_bytes=max(0, gpu.memory_total_bytes - gpu.memory_used_bytes + own_bytes),
        unknown=unknown,
        gpu=cluster_pb2.GpuSample(
            memory_busy=gpu.memory_busy,
            power_watts=gpu.power_watts,
            temperature_celsius=gpu.temperature_celsius,
            clock_hz=gpu.clock_hz,
            clock_max_hz=gpu.clock_max_hz,
            processes=len(gpu.processes or ()),
            memory_used_bytes=gpu.memory_used_bytes,
            power_limit_watts=gpu.power_limit_watts,
            throttle=gpu.throttle or (),
            pcie_generation=gpu.pcie_generation,
            pcie_generation_max=gpu.pcie_generation_max,
            pcie_lanes=gpu.pcie_lanes,
            pcie_in_bytes_per_s=gpu.pcie_in_bytes_per_s,
            pcie_out_bytes_per_s=gpu.pcie_out_bytes_per_s,
        ),
    )
