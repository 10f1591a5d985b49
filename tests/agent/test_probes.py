"""Probes on recorded and on real trees of /proc."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.conftest import CORES
from tests.waiting import wait_until

from deadheat.agent.probes import procfs
from deadheat.agent.probes.cpu import CpuProbe
from deadheat.agent.probes.host import HostProbe
from deadheat.agent.probes.nvml import NvmlProbe

HZ = os.sysconf("SC_CLK_TCK")


def write(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def machine(root: Path, busy_s: dict[int, float], *, at_s: float, steal_s: float = 0.0) -> None:
    """Cores that have been busy for so long of `at_s` seconds."""
    lines = ["cpu  0 0 0 0 0 0 0 0 0 0"]
    for core, busy in busy_s.items():
        idle = at_s - busy - steal_s
        fields = [busy, 0, 0, idle, 0, 0, 0, steal_s, 0, 0]
        lines.append(f"cpu{core} " + " ".join(str(round(value * HZ)) for value in fields))
    write(root, "stat", "\n".join(lines) + "\nprocs_running 1\n")


def process(
    root: Path,
    pid: int,
    cpu_s: float,
    *,
    state: str = "R",
    core: int = 0,
    run_s: float = 0.0,
    wait_s: float = 0.0,
) -> None:
    fields = ["0"] * 50
    fields[0], fields[11], fields[36] = state, str(round(cpu_s * HZ)), str(core)
    line = f"{pid} (a (strange) name) " + " ".join(fields)
    schedstat = f"{round(run_s * 1e9)} {round(wait_s * 1e9)} 7"
    for folder in (str(pid), f"{pid}/task/{pid}"):
        write(root, f"{folder}/stat", line)
        write(root, f"{folder}/schedstat", schedstat)
    write(root, f"{pid}/status", "Name:\tx\nCpus_allowed_list:\t0-1\n")


class Machine:
    """A recorded machine of two cores on which time is written by the test."""

    def __init__(self, root: Path) -> None:
        self.root, self.now = root, 0.0
        self.probe = CpuProbe(
            [0, 1], lambda: [10, 11], lambda: 11, root=root, clock=lambda: self.now
        )


def test_foreign_load_is_what_is_not_ours(tmp_path: Path) -> None:
    found = Machine(tmp_path)
    machine(tmp_path, {0: 0.0, 1: 0.0}, at_s=0.0)
    process(tmp_path, 10, 0.0)
    process(tmp_path, 11, 0.0)
    process(tmp_path, 99, 0.0, core=1)
    assert found.probe.sample() is None
    for second in (1, 2, 3):
        found.now = float(second)
        machine(tmp_path, {0: 0.6 * second, 1: 1.0 * second}, at_s=float(second))
        process(tmp_path, 11, 0.6 * second, run_s=0.6 * second, wait_s=0.2 * second)
        process(tmp_path, 99, 1.0 * second, core=1)
        sample = found.probe.sample()
    assert sample is not None
    assert sample.busy == pytest.approx(0.8)
    assert sample.own == pytest.approx(0.3)
    assert sample.foreign == pytest.approx(0.5)
    assert sample.foreign_runnable == 1
    assert [sample.run_s, sample.wait_s] == pytest.approx([0.6, 0.2])
    assert list(sample.core_busy) == pytest.approx([0.6, 1.0])


def test_stolen_time_is_told_apart(tmp_path: Path) -> None:
    found = Machine(tmp_path)
    for second in (0.0, 1.0):
        found.now = second
        machine(tmp_path, {0: 0.5 * second, 1: 0.0}, at_s=second, steal_s=0.25 * second)
        sample = found.probe.sample()
    assert sample is not None
    assert sample.steal == pytest.approx(0.25)
    assert sample.busy == pytest.approx(0.25)


def test_a_process_that_ended_does_not_make_load_negative(tmp_path: Path) -> None:
    found = Machine(tmp_path)
    machine(tmp_path, {0: 0.0, 1: 0.0}, at_s=0.0)
    process(tmp_path, 11, 50.0)
    found.probe.sample()
    for name in ("stat", "task/11/stat", "task/11/schedstat", "schedstat"):
        (tmp_path / "11" / name).unlink()
    found.now = 1.0
    machine(tmp_path, {0: 1.0, 1: 0.0}, at_s=1.0)
    sample = found.probe.sample()
    assert sample is not None
    assert (sample.own, sample.run_s) == (0.0, 0.0)


def test_a_real_hog_is_seen_on_its_core() -> None:
    core = CORES[-1]
    code = f"import os\nos.sched_setaffinity(0, {{{core}}})\nwhile True: pass"
    hog = subprocess.Popen([sys.executable, "-c", code])
    try:
        # Others may use the core already: its load alone does not say that the hog is there.
        wait_until(lambda: procfs.allowed_cpus(hog.pid) == {core}, "the hog on its core")
        probe = CpuProbe([core], lambda: [os.getpid()], lambda: 0)

        def is_seen() -> bool:
            time.sleep(0.25)  # The kernel counts in hundredths of a second.
            sample = probe.sample()
            return sample is not None and sample.foreign >= 0.4

        wait_until(is_seen, "its load to be seen")
    finally:
        hog.kill()
        hog.wait()


def test_a_kernel_without_schedstat_or_pressure_is_no_error(tmp_path: Path) -> None:
    machine(tmp_path, {0: 0.0}, at_s=0.0)
    write(tmp_path, "meminfo", "MemTotal: 1000 kB\nMemFree: 400 kB\n")
    assert procfs.run_and_wait_s(1, tmp_path) == (0.0, 0.0)
    sample = HostProbe(root=tmp_path).sample()
    assert not sample.HasField("pressure_cpu")
    assert sample.memory_available_bytes == 400 * 1024


def test_this_machine_can_be_read() -> None:
    assert set(procfs.core_times()) >= set(CORES)
    times = procfs.process_times(os.getpid())
    assert times is not None
    assert times.cpu_s > 0
    assert procfs.parent_of(os.getpid()) == os.getppid()
    assert HostProbe().sample().memory_total_bytes > 0


def test_without_a_driver_there_are_no_gpus_and_no_wait() -> None:
    probe = NvmlProbe()
    started_s = time.monotonic()
    found = probe.first(10.0)
    assert time.monotonic() - started_s < 9.0
    probe.stop()
    assert bool(found.devices) != bool(found.problem)
