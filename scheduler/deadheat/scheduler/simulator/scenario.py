"""A scenario: which devices there are, what befalls them, and what they are given to do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from deadheat.scheduler.planner.inputs import Cut


class Sharing(Enum):
    """What others' load on a device leaves to us.

    TAKEN: they take that fraction whatever we do (a real-time task, a quota); we get the rest.
    FAIR: they are so many cores' worth of runnable threads beside our one; the kernel shares
    evenly, so we get what they leave free or an even share, whichever is more.
    """

    TAKEN = "taken"
    FAIR = "fair"


class FaultKind(Enum):
    """LOST: the node is gone, with all that it had. STOPPED: as by SIGSTOP; nothing is said or
    done, the connection stays. SLOW: its speed is multiplied by a factor, and no counter tells.
    BACK: whatever it was, it is as new."""

    LOST = "lost"
    STOPPED = "stopped"
    SLOW = "slow"
    BACK = "back"


class JobKind(Enum):
    MATMUL = "matmul"
    CHAIN = "chain"


@dataclass(frozen=True, slots=True)
class DeviceSpec:
    """One device, alone on its node. `bandwidth_bytes_per_s` is None where it shares the memory
    of the store. `speed_flops` is its idle speed for every shape and dtype."""

    name: str
    kind: str
    speed_flops: float
    memory_bytes: int
    bandwidth_bytes_per_s: float | None
    latency_s: float
    noise: float
    #: From each second on, the load of others: a step function, nothing before its first step.
    foreign: tuple[tuple[float, float], ...]
    sharing: Sharing


@dataclass(frozen=True, slots=True)
class JobSpec:
    """A product or chain of matrices with these sizes: `dims` of n + 1 numbers name n matrices."""

    at_s: float
    kind: JobKind
    dims: tuple[int, ...]
    dtype: str
    user: str
    priority: int
    timeout_s: float | None


@dataclass(frozen=True, slots=True)
class Fault:
    at_s: float
    device: str
    kind: FaultKind
    factor: float = 1.0


@dataclass(frozen=True, slots=True)
class Scenario:
    """Built by `parsing.parse`, which checks it whole; or by hand, by who knows what he does."""

    seed: int
    devices: tuple[DeviceSpec, ...]
    jobs: tuple[JobSpec, ...]
    faults: tuple[Fault, ...] = ()
    #: The store's one port, shared by all devices that do not share its memory; None: as fast as
    #: the fastest of their links.
    store_bandwidth_bytes_per_s: float | None = None
    #: When the store is away, and for how many seconds, in order of time.
    store_away: tuple[tuple[float, float], ...] = ()
    cut: Cut = Cut.BALANCED

    @property
    def port_bytes_per_s(self) -> float:
        if self.store_bandwidth_bytes_per_s is not None:
            return self.store_bandwidth_bytes_per_s
        links = (device.bandwidth_bytes_per_s or 0.0 for device in self.devices)
        return max(links, default=0.0)
