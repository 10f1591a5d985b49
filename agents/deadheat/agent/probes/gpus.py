"""What is known of GPUs, as values, and whose load it is.

None stands for what NVML does not say: a GPU that cannot say something is unknown, never idle.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

#: The number of the first namespace of process ids (PROC_PID_INIT_INO in the kernel).
FIRST_PID_NAMESPACE: Final = "pid:[4026531836]"


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """A process with a context on a GPU; `share` is of its multiprocessors, 0 to 1."""

    pid: int
    memory_bytes: int | None = None
    share: float | None = None


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU, or one MIG instance (then `parent_uuid` is its GPU's), at one moment.

    `busy` is the share of time in which some kernel ran, however small, and `memory_busy` that in
    which memory was read or written. `throttle` names what keeps clocks down, in words. PCIe rates
    are over 20 ms, seen from the GPU. `problem` says why the figures are not to be trusted.
    """

    uuid: str
    name: str
    parent_uuid: str = ""
    at_s: float = 0.0
    busy: float | None = None
    memory_busy: float | None = None
    memory_total_bytes: int = 0
    memory_used_bytes: int = 0
    power_watts: float | None = None
    power_limit_watts: float | None = None
    temperature_celsius: float | None = None
    clock_hz: float | None = None
    clock_max_hz: float | None = None
    throttle: tuple[str, ...] | None = None
    pcie_generation: int | None = None
    pcie_generation_max: int | None = None
    pcie_lanes: int | None = None
    pcie_in_bytes_per_s: float | None = None
    pcie_out_bytes_per_s: float | None = None
    processes: tuple[GpuProcess, ...] | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Gpus:
    """All GPUs that were ever seen, and why there may be more (or none): empty if all is well."""

    at_s: float
    devices: tuple[Gpu, ...] = ()
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Load:
    """Fractions of a GPU: our processes' and those of others."""

    own: float
    foreign: float


def sees_all_pids(proc: Path = Path("/proc")) -> bool:
    """Whether ids of processes mean here what they mean to the driver: not in most containers."""
    try:
        return str((proc / "self/ns/pid").readlink()) == FIRST_PID_NAMESPACE
    except OSError:
        return False


def load_of(gpu: Gpu, own_pids: Collection[int], *, pids_match: bool) -> Load | None:
    """Whose load it is; None if nobody can say, and then the stopwatch has to.

    `own_pids` are our processes that use this GPU. With shares for each process the load is split
    in proportion (shares of time overlap, so that their sum may exceed the load). Without them it
    is all ours or all theirs, if only one side is there.
    """
    if gpu.problem or gpu.busy is None:
        return None
    if not own_pids or gpu.busy == 0.0:
        return Load(0.0, gpu.busy)
    if not pids_match or gpu.processes is None:
        return None
    ours = [process for process in gpu.processes if process.pid in own_pids]
    theirs = [process for process in gpu.processes if process.pid not in own_pids]
    if not ours:
        return Load(0.0, gpu.busy)
    if not theirs:
        return Load(gpu.busy, 0.0)
    shares = [process.share for process in (*ours, *theirs)]
    known = [share for share in shares if share is not None]
    if len(known) < len(shares) or sum(known) == 0.0:
        return None
    own = gpu.busy * sum(known[: len(ours)]) / sum(known)
    return Load(own, gpu.busy - own)
