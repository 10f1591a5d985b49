"""A driver that hangs: no loop waits for it, no thread is added, and it may come back."""

from __future__ import annotations

import asyncio
import re
import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.agent.nvml import H100, T4, Stub, gpu_of, wait_for_health, wait_for_problem
from tests.waiting import wait_until

from deadheat.agent.probes.nvml import NvmlProbe

#: What a loop of ours may be late by, beyond one that looks at no GPU on the same machine at the
#: same time. A hang is 600 times as long.
LAG_S = 0.05
TICK_S = 0.01
HANG_MS = 30_000


def threads() -> int:
    return sum(thread.name.startswith("nvml") for thread in threading.enumerate())


async def lags(goes_on: Callable[[], bool]) -> list[float]:
    """How late a loop's ticks are with something to do in each."""
    found: list[float] = []
    while True:
        due_s = time.monotonic() + TICK_S
        await asyncio.sleep(TICK_S)
        will_go_on = goes_on()
        found.append(time.monotonic() - due_s)
        if not will_go_on:
            return found


def lags_until_stale(probe: NvmlProbe) -> tuple[list[float], list[float]]:
    """Those of a loop that looks at the GPUs as the agent does, until one hangs; and those of one
    that does not, meanwhile: the machine has other work too."""
    deadline_s, is_over = time.monotonic() + 60.0, threading.Event()

    def look() -> bool:
        assert time.monotonic() < deadline_s, "nobody noticed that the driver hangs"
        return not any("does not answer" in gpu.problem for gpu in probe.latest().devices)

    with ThreadPoolExecutor(1) as pool:
        others = pool.submit(lambda: asyncio.run(lags(lambda: not is_over.is_set())))
        try:
            ours = asyncio.run(lags(look))
        finally:
            is_over.set()
        return ours, others.result()


def late(found: list[float]) -> float:
    """What one tick in twenty is later than."""
    return statistics.quantiles(found, n=20)[-1]


@pytest.mark.parametrize("call", ["DeviceGetUtilizationRates", "DeviceGetHandleByUUID"])
def test_a_hanging_gpu_holds_up_neither_the_loop_nor_other_gpus(stub: Stub, call: str) -> None:
    stub.say(H100, T4)
    probe = stub.probe()
    assert not any(gpu.problem for gpu in probe.first(20.0).devices)
    before = threads()
    stub.say(H100, T4, f"hang {call} {HANG_MS} GPU-a")
    started_s = time.monotonic()
    ours, others = lags_until_stale(probe)
    assert time.monotonic() - started_s < HANG_MS / 1e3 / 2
    # Percentiles, and a bound for the worst that no hang passes.
    assert statistics.median(ours) < LAG_S + 2 * statistics.median(others)
    assert late(ours) < LAG_S + 2 * late(others)
    assert max(ours) < HANG_MS / 1e3 / 6
    hanging, well = gpu_of(probe), gpu_of(probe, "GPU-b")
    assert hanging is not None
    seconds = re.fullmatch(r"the driver does not answer, for (\d+) s now", hanging.problem)
    assert seconds
    assert int(seconds[1]) >= 3
    assert well is not None
    assert not well.problem
    # Looked for again and again meanwhile, and yet no thread was added.
    assert threads() <= before
    stub.say(H100.replace("util=37", "util=70"), T4)
    wait_until(lambda: getattr(gpu_of(probe), "busy", 0) == 0.7, "figures after the hang")
    assert not wait_for_health(probe).problem


def test_a_driver_that_hangs_from_the_start_does_not_keep_the_agent_waiting(stub: Stub) -> None:
    stub.say(H100, f"hang Init {HANG_MS}")
    probe = stub.probe()
    started_s = time.monotonic()
    found = probe.first(0.2)
    assert time.monotonic() - started_s < HANG_MS / 1e3 / 2
    assert (found.devices, found.problem) == ((), "the driver does not answer")
    stub.say(H100)
    wait_for_health(probe)


def test_a_gpu_that_hangs_at_the_first_look_is_known_and_not_ready(stub: Stub) -> None:
    stub.say(H100, T4, f"hang DeviceGetMemoryInfo {HANG_MS} GPU-a")
    probe = stub.probe()
    wait_for_health(probe, "GPU-b")
    hanging, well = probe.first(0.2).devices
    assert (hanging.problem, hanging.busy) == ("the driver does not answer", None)
    assert well.problem == ""


def test_a_search_that_hangs_leaves_known_gpus_alone(stub: Stub) -> None:
    stub.say(H100)
    probe = stub.probe()
    probe.first(20.0)
    stub.say(H100, f"hang DeviceGetCount {HANG_MS}")
    wait_until(lambda: probe.latest().problem == "the driver does not answer", "the hang")
    assert not wait_for_health(probe).problem


def test_stopping_does_not_wait_for_a_hanging_call(stub: Stub) -> None:
    stub.say(H100)
    probe = stub.probe()
    probe.first(20.0)
    stub.say(H100, f"hang DeviceGetClockInfo {HANG_MS}")
    wait_for_problem(probe, "does not answer")
    started_s = time.monotonic()
    probe.stop()
    assert not probe.join(0.1)
    assert time.monotonic() - started_s < HANG_MS / 1e3 / 2
