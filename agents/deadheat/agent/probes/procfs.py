"""Readers of /proc, each for one file, without opinion on what the figures mean."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PROC: Final = Path("/proc")
TICK_S: Final = 1.0 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class CpuTimes:
    """Seconds of one core since boot. Guest time is inside user time already."""

    busy_s: float
    idle_s: float
    steal_s: float


@dataclass(frozen=True, slots=True)
class ProcessTimes:
    """One process (or thread): its state letter, processor seconds, where it ran last, and how it
    is scheduled."""

    pid: int
    state: str
    cpu_s: float
    processor: int
    nice: int = 0
    is_idle: bool = False


def core_times(root: Path = PROC) -> Mapping[int, CpuTimes]:
    """/proc/stat, by core. Waiting for a disk is idle: the core is free."""
    found: dict[int, CpuTimes] = {}
    for line in (root / "stat").read_text().splitlines():
        name, *fields = line.split()
        if not name.startswith("cpu") or name == "cpu":
            continue
        user, nice, system, idle, iowait, irq, softirq, steal = (
            int(field) * TICK_S for field in (*fields[:8], *["0"] * (8 - len(fields[:8])))
        )
        busy = user + nice + system + irq + softirq
        found[int(name[3:])] = CpuTimes(busy, idle + iowait, steal)
    return found


def process_times(pid: int, root: Path = PROC, *, thread: int | None = None) -> ProcessTimes | None:
    """/proc/PID/stat, or a thread's; None for one that has ended."""
    path = root / str(pid) / (f"task/{thread}/stat" if thread else "stat")
    try:
        text = path.read_text()
    except OSError:
        return None
    # The name is in parentheses and may contain anything, spaces and parentheses too.
    fields = text[text.rindex(")") + 2 :].split()
    cpu_s = (int(fields[11]) + int(fields[12])) * TICK_S
    is_idle = int(fields[38]) == os.SCHED_IDLE
    return ProcessTimes(thread or pid, fields[0], cpu_s, int(fields[36]), int(fields[16]), is_idle)


def parent_of(pid: int, root: Path = PROC) -> int:
    try:
        text = (root / str(pid) / "stat").read_text()
    except OSError:
        return 0
    return int(text[text.rindex(")") + 2 :].split()[1])


def process_ids(root: Path = PROC) -> Iterator[int]:
    for entry in os.scandir(root):
        if entry.name.isdecimal():
            yield int(entry.name)


def thread_ids(pid: int, root: Path = PROC) -> list[int]:
    try:
        return [int(entry.name) for entry in os.scandir(root / str(pid) / "task")]
    except OSError:
        return []


def run_and_wait_s(pid: int, root: Path = PROC) -> tuple[float, float]:
    """Seconds that a process's threads ran, and waited for a core while they could have run.

    From schedstat; (0, 0) where the kernel has none.
    """
    run_ns = wait_ns = 0
    for thread in thread_ids(pid, root):
        try:
            fields = (root / str(pid) / "task" / str(thread) / "schedstat").read_text().split()
        except OSError:
            continue
        run_ns += int(fields[0])
        wait_ns += int(fields[1])
    return run_ns / 1e9, wait_ns / 1e9


def allowed_cpus(pid: int, root: Path = PROC) -> frozenset[int]:
    """Cores that a process may use; empty if it has ended."""
    try:
        text = (root / str(pid) / "status").read_text()
    except OSError:
        return frozenset()
    for line in text.splitlines():
        if line.startswith("Cpus_allowed_list:"):
            return parse_cpu_list(line.split(":")[1])
    return frozenset()


def parse_cpu_list(text: str) -> frozenset[int]:
    """
    >>> sorted(parse_cpu_list("0-2,5"))
    [0, 1, 2, 5]
    """
    cpus: set[int] = set()
    for part in text.strip().split(","):
        if part:
            first, _, last = part.partition("-")
            cpus.update(range(int(first), int(last or first) + 1))
    return frozenset(cpus)


def pressure(resource: str, root: Path = PROC) -> float | None:
    """The share of the last ten seconds in which some task waited for a resource."""
    return pressure_of(root / "pressure" / resource)


def pressure_of(path: Path) -> float | None:
    """The same from any file of that format: control groups have them too."""
    try:
        text = path.read_text()
    except OSError:
        return None
    for word in text.split():
        if word.startswith("avg10="):
            return float(word[6:]) / 100
    return None


def load_1m(root: Path = PROC) -> float:
    try:
        return float((root / "loadavg").read_text().split()[0])
    except OSError:
        return 0.0


def memory_bytes(root: Path = PROC) -> tuple[int, int]:
    """Total and available."""
    found: dict[str, int] = {}
    for line in (root / "meminfo").read_text().splitlines():
        name, _, rest = line.partition(":")
        found[name] = int(rest.split()[0]) * 1024
    total = found["MemTotal"]
    return total, found.get("MemAvailable", found.get("MemFree", total))


def anonymous_bytes(pid: int, root: Path = PROC) -> int:
    """Memory that a process has of its own, without what it maps; 0 for one that has ended."""
    try:
        text = (root / str(pid) / "status").read_text()
    except OSError:
        return 0
    for line in text.splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0


def disk_bytes(root: Path = PROC) -> tuple[int, int]:
    """Read and written since boot, over whole disks (not their partitions twice)."""
    read = written = 0
    try:
        lines = (root / "diskstats").read_text().splitlines()
    except OSError:
        return 0, 0
    for line in lines:
        fields = line.split()
        name = fields[2]
        if name.startswith(("loop", "ram", "dm-")) or (name[-1:].isdigit() and "nvme" not in name):
            continue
        read += int(fields[5]) * 512
        written += int(fields[9]) * 512
    return read, written


def network_bytes(root: Path = PROC) -> tuple[int, int]:
    """Received and sent since boot, over all interfaces but loopback."""
    received = sent = 0
    try:
        lines = (root / "net" / "dev").read_text().splitlines()[2:]
    except OSError:
        return 0, 0
    for line in lines:
        name, _, rest = line.partition(":")
        if name.strip() != "lo":
            fields = rest.split()
            received += int(fields[0])
            sent += int(fields[8])
    return received, sent


def cpu_model(root: Path = PROC) -> str:
    try:
        lines = (root / "cpuinfo").read_text().splitlines()
    except OSError:
        return "unknown"
    for line in lines:
        if line.startswith(("model name", "Model")):
            return line.partition(":")[2].strip()
    return "unknown"
