"""The demonstration: photographs compared patch by patch, on one free core and one shared core."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from deadheat.runtime.errors import InvalidInput, TimedOut

if TYPE_CHECKING:
    from deadheat.client import Client
    from deadheat.client.arrays import Array
    from deadheat.client.reports import Report

#: What the sizes aim at.
TARGET_S: Final = 10.0
MAX_RESULT_BYTES: Final = 1_500_000_000
#: Patches of 32 x 32 pixels in three colours: 3,072 numbers each.
PATCH: Final = 32
#: How long the agent may take to notice the busy process.
NOTICE_TIMEOUT_S: Final = 20.0
#: The part of a core that it takes at least, and that others take at most of a free one.
NOTICED: Final = 0.8
ALONE: Final = 0.3
CHECK_ROWS: Final = 512

#: Runs until it is killed or its parent is gone.
_BUSY: Final = """
import os, sys
os.sched_setaffinity(0, {int(sys.argv[1])})
parent = os.getppid()
while os.getppid() == parent:
    for _ in range(1_000_000):
        pass
"""


@dataclass(frozen=True)
class Cores:
    """The core that is free, and the one that is shared with the busy process."""

    free: int
    shared: int

    @staticmethod
    def choose() -> Cores:
        allowed = sorted(os.sched_getaffinity(0))
        return Cores(allowed[0], allowed[-1])

    def agents(self) -> list[dict[str, Any]]:
        only_one = self.free == self.shared
        return [
            {"name": "free", "cpus": [self.free], "shares_cpus": only_one},
            {"name": "shared", "cpus": [self.shared], "shares_cpus": only_one},
        ]


@contextmanager
def busy_process(core: int) -> Iterator[int]:
    """Somebody else's work: a process that wants all of one core."""
    process = subprocess.Popen([sys.executable, "-c", _BUSY, str(core)])
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


def wait_until_noticed(client: Client, cores: Cores) -> str:
    """Until the agents' samples show the busy process, and nothing else. Others may be busy too:
    then, after a while, this goes on, and returns a line about them for the user."""
    deadline_s = time.monotonic() + NOTICE_TIMEOUT_S
    shared = free = None
    while time.monotonic() < deadline_s:
        loads = {node["name"]: node["devices"][0]["foreign"] for node in client.nodes()}
        shared, free = loads.get("shared"), loads.get("free")
        is_alone = cores.free == cores.shared or (free is not None and free < ALONE)
        if shared is not None and shared > NOTICED and is_alone:
            return ""
        time.sleep(0.25)
    if shared is None or free is None:
        raise TimedOut("the agents have not said in time what their cores do; see their logs")
    return (
        f"others are busy here too: {free:.0%} of core {cores.free} and {shared:.0%} of core "
        f"{cores.shared} are taken"
    )


def free_speed_flops(client: Client) -> float:
    """What the pool can give now, for float32."""
    devices = [device for node in client.nodes() for device in node["devices"]]
    speeds = [
        device["speed_flops"].get("float32", 0.0) * (device["availability"] or 1.0)
        for device in devices
    ]
    return float(sum(speeds))


def patches(speed_flops: float) -> tuple[Array, Array]:
    """Normalised patches of one photograph and, transposed, of the other.

    As many as keep the pool busy for about TARGET_S.
    """
    try:
        from sklearn.datasets import load_sample_images
    except ImportError:
        raise InvalidInput(
            "the demo compares photographs that scikit-learn ships: pip install 'deadheat[demo]'"
        ) from None
    import numpy as np

    first, second = load_sample_images().images[:2]
    length = PATCH * PATCH * 3
    count = math.isqrt(int(speed_flops * TARGET_S / (2 * length)))
    count = min(count, math.isqrt(MAX_RESULT_BYTES // 4))

    def cut(image: Any) -> Array:
        windows = np.lib.stride_tricks.sliding_window_view(image, (PATCH, PATCH), axis=(0, 1))
        rows, columns = windows.shape[:2]
        chosen = np.linspace(0, rows * columns - 1, count).astype(np.int64)
        found = windows[chosen // columns, chosen % columns].reshape(count, length)
        found = found.astype(np.float32)
        found -= found.mean(axis=1, keepdims=True)
        lengths = np.linalg.norm(found, axis=1, keepdims=True) + np.float32(1e-6)
        return np.asarray(found / lengths, dtype=np.float32)

    return cut(first), np.ascontiguousarray(cut(second).T)


def largest_error(a: Array, b: Array, product: Array) -> tuple[float, float]:
    """The largest difference from NumPy's product, and the largest that rounding may make.

    Rows and columns have length 1 here, so that |a| @ |b| is at most 1 everywhere.
    """
    import numpy as np

    worst = 0.0
    for start in range(0, a.shape[0], CHECK_ROWS):
        block = slice(start, start + CHECK_ROWS)
        worst = max(worst, float(np.abs(product[block] - a[block] @ b).max()))
    return worst, a.shape[1] * float(np.finfo(a.dtype).eps)


@dataclass(frozen=True)
class Outcome:
    """One run of the product under one cut."""

    cut: str
    seconds: float
    report: Report
    best_match: float


def run_once(client: Client, a: Array, b: Array, cut: Any) -> tuple[Outcome, Array]:
    from deadheat.client.progress import shown

    started_s = time.perf_counter()
    job = client.submit_matmul(a, b, cut=cut)
    with shown(job):
        product = job.result()
    seconds = time.perf_counter() - started_s
    return Outcome(cut, seconds, job.report(), float(product.max())), product
