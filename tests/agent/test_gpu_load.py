"""Whose load on a GPU it is, and what the agent's log and samples say about it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.agent.nvml import H100, T4, Stub
from tests.agent.test_probes import machine, write
from tests.waiting import wait_until

from deadheat.agent.probes.cpu import CpuProbe
from deadheat.agent.probes.gpus import FIRST_PID_NAMESPACE, Gpu, GpuProcess, load_of, sees_all_pids
from deadheat.agent.probes.nvml import NvmlProbe
from deadheat.agent.probes.sampler import Sampler
from deadheat.v1 import agent_pb2 as pb

OURS, THEIRS = 10, 20


def split(
    busy: float | None, *processes: GpuProcess, own: tuple[int, ...] = (OURS,), match: bool = True
) -> tuple[float, float] | None:
    found = load_of(Gpu("u", "n", busy=busy, processes=processes), own, pids_match=match)
    return (found.own, found.foreign) if found else None


def test_load_without_a_process_of_ours_is_foreign() -> None:
    assert split(0.8, own=()) == (0.0, 0.8)
    assert split(0.8) == (0.0, 0.8)
    assert split(0.8, GpuProcess(THEIRS)) == (0.0, 0.8)


def test_load_without_another_process_is_ours() -> None:
    assert split(0.8, GpuProcess(OURS)) == (0.8, 0.0)


def test_load_is_split_as_the_processes_share_the_multiprocessors() -> None:
    found = split(0.8, GpuProcess(OURS, share=0.6), GpuProcess(THEIRS, share=0.2))
    assert found == pytest.approx((0.6, 0.2))
    # Shares of time overlap: together they may be more than the load.
    found = split(1.0, GpuProcess(OURS, share=0.9), GpuProcess(THEIRS, share=0.9))
    assert found == pytest.approx((0.5, 0.5))


def test_load_that_cannot_be_split_is_unknown() -> None:
    assert split(None) is None
    assert split(0.8, GpuProcess(OURS, share=0.6), GpuProcess(THEIRS)) is None
    assert split(0.8, GpuProcess(OURS, share=0.0), GpuProcess(THEIRS, share=0.0)) is None
    assert load_of(Gpu("u", "n", busy=0.8), (OURS,), pids_match=True) is None
    assert load_of(Gpu("u", "n", busy=0.8, problem="lost"), (), pids_match=True) is None


def test_in_a_container_ids_of_processes_mean_nothing() -> None:
    assert split(0.8, GpuProcess(OURS), match=False) is None
    assert split(0.8, own=(), match=False) == (0.0, 0.8)
    assert split(0.0, GpuProcess(OURS), match=False) == (0.0, 0.0)


def test_namespaces_of_processes_are_told_apart(tmp_path: Path) -> None:
    assert not sees_all_pids(tmp_path)
    link = tmp_path / "self/ns/pid"
    link.parent.mkdir(parents=True)
    link.symlink_to("pid:[4026532198]")
    assert not sees_all_pids(tmp_path)
    link.unlink()
    link.symlink_to(FIRST_PID_NAMESPACE)
    assert sees_all_pids(tmp_path)


shares = st.none() | st.floats(0, 1)
processes = st.lists(st.builds(GpuProcess, st.integers(8, 12), share=shares), max_size=6)


@given(st.floats(0, 1), processes)
def test_own_and_foreign_make_up_the_load(busy: float, found: list[GpuProcess]) -> None:
    load = split(busy, *found)
    if load is not None:
        assert sum(load) == pytest.approx(busy)
        assert min(load) >= -1e-12


Start = Callable[[NvmlProbe, dict[str, str]], list[pb.Samples]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a sampler on a machine of one idle core; it tells into the list that it returns."""
    machine(tmp_path, {0: 0.0}, at_s=0.0)
    write(tmp_path, "meminfo", "MemTotal: 1000 kB\n")
    cpu = CpuProbe([0], list, lambda: 0, root=tmp_path)
    running: list[Sampler] = []

    def begin(nvml: NvmlProbe, devices: dict[str, str]) -> list[pb.Samples]:
        told: list[pb.Samples] = []
        running.append(
            Sampler({"n/cpu": cpu}, nvml, devices, int, tuple, told.append, lambda _: None, late)
        )
        return told

    def late(gpu: Gpu) -> None:
        logging.getLogger("late").warning("%s is new", gpu.uuid)

    yield begin
    for sampler in running:
        sampler.stop()


def of_gpu(told: list[pb.Samples]) -> pb.DeviceSample | None:
    found = [one for one in told[-1].devices if one.device == "n/gpu0"] if told else []
    return found[0] if found else None


def test_samples_say_load_or_why_it_is_unknown(
    stub: Stub, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    stub.say(H100)
    probe = stub.probe()
    probe.first(20.0)
    told = start(probe, {"GPU-a": "n/gpu0"})
    sample = wait_until(lambda: of_gpu(told), "a sample")
    assert sample is not None
    assert (sample.busy, sample.foreign, sample.unknown) == (0.37, 0.37, "")
    assert sample.gpu.power_watts == 310.5
    stub.say(T4, H100, "fail DeviceGetClockInfo 15 GPU-a")
    wait_until(lambda: (of_gpu(told) or sample).unknown, "the loss of it")
    lost = of_gpu(told)
    assert lost is not None
    assert "GPU is lost" in lost.unknown
    assert lost.memory_free_bytes == 0
    stub.say(T4, H100)
    wait_until(lambda: not (of_gpu(told) or lost).unknown, "its return")
    wait_until(lambda: "GPU-b is new" in caplog.text, "the late one to be said")
    assert caplog.text.count("GPU-a: GPU is lost") == 1
    assert "NVIDIA H100 GPU-a is back" in caplog.text
