"""GPUs through a stub of NVML: every field, every error, and what becomes of GPUs that go."""

from __future__ import annotations

import pytest
from tests.agent.nvml import (
    H100,
    LOST,
    NOT_SUPPORTED,
    T4,
    Stub,
    gpu_of,
    wait_for_health,
    wait_for_problem,
)
from tests.waiting import wait_until

from deadheat.agent.probes.gpus import Gpu, GpuProcess

MIB = 1024**2

#: A call, and the fields that are unknown without it.
CALLS = {
    "DeviceGetUtilizationRates": ("busy", "memory_busy"),
    "DeviceGetPowerUsage": ("power_watts",),
    "DeviceGetEnforcedPowerLimit": ("power_limit_watts",),
    "DeviceGetTemperatureV": ("temperature_celsius",),
    "DeviceGetClockInfo": ("clock_hz",),
    "DeviceGetMaxClockInfo": ("clock_max_hz",),
    "DeviceGetCurrentClocksEventReasons": ("throttle",),
    "DeviceGetCurrPcieLinkGeneration": ("pcie_generation",),
    "DeviceGetMaxPcieLinkGeneration": ("pcie_generation_max",),
    "DeviceGetCurrPcieLinkWidth": ("pcie_lanes",),
    "DeviceGetPcieThroughput": ("pcie_in_bytes_per_s", "pcie_out_bytes_per_s"),
    "DeviceGetComputeRunningProcesses": ("processes",),
}


def first(stub: Stub) -> tuple[Gpu, ...]:
    return stub.probe().first(20.0).devices


def test_every_field_is_read(stub: Stub) -> None:
    stub.say(H100, T4, "proc GPU-a 1234 1024 30", "proc GPU-a 99 512 10")
    h100, t4 = first(stub)
    assert (h100.uuid, h100.name, h100.parent_uuid) == ("GPU-a", "NVIDIA H100", "")
    assert (h100.busy, h100.memory_busy) == (0.37, 0.12)
    assert (h100.memory_total_bytes, h100.memory_used_bytes) == (81920 * MIB, 2048 * MIB)
    assert (h100.power_watts, h100.power_limit_watts) == (310.5, 700.0)
    assert h100.temperature_celsius == 64
    assert (h100.clock_hz, h100.clock_max_hz) == (1.755e9, 1.98e9)
    assert h100.throttle == ("power cap",)
    assert (h100.pcie_generation, h100.pcie_generation_max, h100.pcie_lanes) == (4, 5, 16)
    assert (h100.pcie_in_bytes_per_s, h100.pcie_out_bytes_per_s) == (1e6, 2e6)
    assert h100.processes == (
        GpuProcess(1234, 1024 * MIB, 0.3),
        GpuProcess(99, 512 * MIB, 0.1),
    )
    assert (t4.busy, t4.throttle, t4.processes, t4.problem) == (0.0, (), (), "")


@pytest.mark.parametrize("code", [2, NOT_SUPPORTED, 4, 6, 13, 999])
def test_what_a_gpu_does_not_say_is_unknown_and_nothing_else(stub: Stub, code: int) -> None:
    stub.say(H100, *(f"fail {call} {code}" for call in CALLS))
    (gpu,) = first(stub)
    for call, fields in CALLS.items():
        assert [getattr(gpu, field) for field in fields] == [None] * len(fields), call
    assert (gpu.problem, gpu.memory_total_bytes) == ("", 81920 * MIB)


@pytest.mark.parametrize("call", CALLS)
def test_each_call_fails_for_itself(stub: Stub, call: str) -> None:
    stub.say(H100, f"fail {call} {NOT_SUPPORTED}")
    (gpu,) = first(stub)
    unknown = {name for fields in CALLS.values() for name in fields if getattr(gpu, name) is None}
    assert unknown == set(CALLS[call])


@pytest.mark.parametrize("call", [*CALLS, "DeviceGetMemoryInfo"])
def test_a_gpu_that_any_call_finds_lost_is_lost(stub: Stub, call: str) -> None:
    stub.say(H100, T4, f"fail {call} {LOST} GPU-a")
    lost, well = first(stub)
    assert "GPU is lost: it fell off the bus" in lost.problem
    assert lost.busy is None
    assert (well.problem, well.busy) == ("", 0.0)


def test_memory_that_is_unknown_is_a_problem(stub: Stub) -> None:
    stub.say(H100, f"fail DeviceGetMemoryInfo {NOT_SUPPORTED}")
    (gpu,) = first(stub)
    assert "memory is unknown: Not Supported" in gpu.problem
    assert gpu.busy == 0.37


def test_a_process_without_samples_has_no_share(stub: Stub) -> None:
    stub.say(H100, "proc GPU-a 7 100 50", f"fail DeviceGetProcessUtilization {NOT_SUPPORTED}")
    (gpu,) = first(stub)
    assert gpu.processes == (GpuProcess(7, 100 * MIB, None),)


def test_mig_instances_stand_for_their_gpu(stub: Stub) -> None:
    stub.say(
        f"{H100} mig=1",
        "mig GPU-a MIG-1 name=NVIDIA_H100_MIG_3g.40gb total=40960 used=100",
        "mig GPU-a MIG-2 name=NVIDIA_H100_MIG_4g.40gb total=40960",
        T4,
    )
    one, two, t4 = first(stub)
    assert [one.uuid, two.uuid, t4.uuid] == ["MIG-1", "MIG-2", "GPU-b"]
    assert [one.parent_uuid, two.parent_uuid, t4.parent_uuid] == ["GPU-a", "GPU-a", ""]
    # NVML has no utilization for an instance: unknown, not idle.
    assert (one.busy, one.memory_total_bytes, one.problem) == (None, 40960 * MIB, "")


def test_mig_without_instances_is_said(stub: Stub) -> None:
    stub.say(f"{H100} mig=1")
    found = stub.probe().first(20.0)
    assert not found.devices
    assert "GPU-a: MIG is on, but it has no instances" in found.problem


def test_one_gpu_that_cannot_be_identified_hides_no_other(stub: Stub) -> None:
    stub.say(H100, T4, "fail DeviceGetUUID 15 GPU-a")
    found = stub.probe().first(20.0)
    assert [gpu.uuid for gpu in found.devices] == ["GPU-b"]
    assert found.problem.startswith("GPU 0: GPU is lost")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("init 9", "Driver Not Loaded: no driver is loaded"),
        ("init 18", "mismatch: the driver was upgraded"),
        ("init 4", "may not open the device files"),
        ("init 999", "Unknown Error"),
        ("fail DeviceGetCount 999", "Unknown Error"),
    ],
)
def test_a_driver_that_does_not_start_is_said_with_its_reason(
    stub: Stub, line: str, words: str
) -> None:
    stub.say(H100, line)
    found = stub.probe().first(20.0)
    assert not found.devices
    assert words in found.problem


def test_a_gpu_that_appears_late_is_found(stub: Stub) -> None:
    probe = stub.probe()
    assert not probe.first(20.0).devices
    stub.say(T4)
    wait_for_health(probe, "GPU-b")
    stub.say(T4, H100)
    assert wait_for_health(probe).busy == 0.37


def test_a_lost_gpu_is_missed_by_name_and_welcomed_back(stub: Stub) -> None:
    stub.say(H100, T4)
    probe = stub.probe()
    assert not any(gpu.problem for gpu in probe.first(20.0).devices)
    stub.say(T4)
    gone = wait_for_problem(probe, "missing: it was here before")
    # Its size stays known, and nothing of it is free.
    assert gone.memory_total_bytes == gone.memory_used_bytes == 81920 * MIB
    assert gpu_of(probe, "GPU-b") is not None
    assert not wait_for_health(probe, "GPU-b").problem
    stub.say(H100, T4)
    wait_for_health(probe)


def test_after_a_reload_of_the_driver_nvml_is_initialised_again(stub: Stub) -> None:
    stub.say(H100)
    probe = stub.probe()
    probe.first(20.0)
    stub.unload()
    wait_for_problem(probe, "no driver is loaded")
    stub.say("generation 1", H100.replace("util=37", "util=50"))
    wait_for_health(probe)
    wait_until(lambda: getattr(gpu_of(probe), "busy", 0) == 0.5, "the new driver's figures")
    # A reload between two looks leaves no trace but "uninitialised".
    stub.say("generation 2", H100.replace("util=37", "util=60"))
    wait_until(lambda: getattr(gpu_of(probe), "busy", 0) == 0.6, "the newest driver's figures")
