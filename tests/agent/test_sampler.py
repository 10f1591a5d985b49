"""What a sampler tells of a machine whose memory is not an agent's alone."""

from __future__ import annotations

from pathlib import Path

from tests.agent.nvml import Stub
from tests.agent.test_probes import machine
from tests.waiting import wait_until

from deadheat.agent.probes.cpu import CpuProbe
from deadheat.agent.probes.host import HostProbe
from deadheat.agent.probes.sampler import Sampler
from deadheat.v1 import agent_pb2 as pb

KIB = 1024


def test_memory_that_others_took_is_neither_free_nor_counted_on(tmp_path: Path, stub: Stub) -> None:
    machine(tmp_path, {0: 0.0}, at_s=0.0)

    def leave(size_kib: int) -> None:
        part = tmp_path / "meminfo.part"
        part.write_text(f"MemTotal: 1000 kB\nMemAvailable: {size_kib} kB\n")
        part.replace(tmp_path / "meminfo")

    leave(700)
    told: list[pb.Samples] = []
    sampler = Sampler(
        {"n/cpu": CpuProbe([0], list, lambda: 0, root=tmp_path)},
        stub.probe(),
        {},
        lambda: 500 * KIB,
        tuple,
        told.append,
        lambda _: None,
        # Blocks in use no more: the machine has less by them, and we may have them.
        memory_idle_bytes=lambda: 100 * KIB,
        host=HostProbe(root=tmp_path),
    )

    def memory() -> tuple[int, int]:
        newest = told[-1].devices[0] if told else pb.DeviceSample()
        return newest.memory_free_bytes // KIB, newest.memory_short_bytes // KIB

    try:
        wait_until(lambda: memory() == (500, 0), "all that its limit leaves")
        leave(150)
        wait_until(lambda: memory() == (250, 250), "what others left")
        assert told[-1].host.memory_available_bytes == 150 * KIB
        leave(700)
        wait_until(lambda: memory() == (500, 0), "what they gave back")
    finally:
        sampler.stop()
