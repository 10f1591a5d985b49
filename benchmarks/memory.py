"""The scheduler's own memory while a large matrix passes through the cluster."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from benchmarks.checking import Checker, operands
from benchmarks.measuring import Figure, LeftOut
from deadheat.agent.probes import procfs
from deadheat.client import Client, LocalCluster
from deadheat.runtime.units import MIB

INNER, COLUMNS = 8192, 256
EVERY_S = 0.02
#: The operand here and in shared memory, its magnitudes for the check, and room for the rest.
TIMES_OPERAND = 3.5


def run(*, gib: float, target_mib: float | None = None) -> Iterator[Figure]:
    rows = round(gib * 2**30 / 8 / INNER)
    free_gib = psutil.virtual_memory().available / 2**30
    if free_gib < TIMES_OPERAND * gib:
        raise LeftOut(f"{TIMES_OPERAND * gib:g} GiB of memory are not free, {free_gib:.1f} are")
    a, b = operands(rows, INNER, COLUMNS)
    with LocalCluster() as cluster, Client(cluster.address) as client:
        # What the first job of a scheduler imports is not what this is about.
        client.matmul(b.T, b, where="cluster")
        pid = cluster.scheduler.process.pid
        with watched(pid) as seen:
            product = client.matmul(a, b, where="cluster")
    Checker(a, b)(product)
    case = f"scheduler, {gib:g} GiB matrix"
    yield Figure(case, "growth of RssAnon", max(seen) - seen[0], "MiB", target_mib)
    yield Figure(case, "RssAnon before", seen[0], "MiB")
    yield Figure(case, "samples", float(len(seen)))


def anonymous_bytes(pid: int) -> int:
    """Resident memory that is no file's: what is mapped from shared memory does not count."""
    if found := procfs.anonymous_bytes(pid):
        return found
    raise LeftOut("this kernel does not say RssAnon")


@contextmanager
def watched(pid: int) -> Iterator[list[float]]:
    """Samples of a process's memory, the first from before the block."""
    seen = [anonymous_bytes(pid) / MIB]
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(EVERY_S):
            seen.append(anonymous_bytes(pid) / MIB)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield seen
    finally:
        is_over.set()
        watcher.join()
