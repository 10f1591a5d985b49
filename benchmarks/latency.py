"""Small jobs, forced to the cluster: their latency, and how many a second many clients get."""

from __future__ import annotations

import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from benchmarks import echo
from benchmarks.measuring import REPEATS, Figure, alternate, summary
from deadheat.client import Client, LocalCluster

CASE = "small jobs, cluster"
SIZE = 64
CALLS = 30
CLIENTS = 64
JOBS_EACH, ECHOES_EACH = 4, 40


class DurableCommits:
    """A database like ours, one row for each commit."""

    def __init__(self, directory: str) -> None:
        self._connection = sqlite3.connect(Path(directory) / "bare.db", isolation_level=None)
        for pragma in ("journal_mode=WAL", "synchronous=FULL"):
            self._connection.execute(f"PRAGMA {pragma}")
        self._connection.execute("CREATE TABLE rows (payload BLOB)")

    def __call__(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.execute("INSERT INTO rows VALUES (?)", (b"x" * 200,))
        self._connection.execute("COMMIT")


def run() -> Iterator[Figure]:
    with ExitStack() as stack:
        address = stack.enter_context(echo.running())
        # The same file system as the cluster's database.
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="deadheat-"))
        cluster = stack.enter_context(LocalCluster())
        yield from _latency(cluster, address, DurableCommits(directory))
        yield from _throughput(cluster, address)


def _latency(cluster: LocalCluster, address: str, commit: DurableCommits) -> Iterator[Figure]:
    a = np.random.default_rng(1).standard_normal((SIZE, SIZE))
    call, payload = echo.Caller(address), b"echo"
    with Client(cluster.address) as client:

        def ours() -> None:
            client.matmul(a, a, where="cluster")

        def bare() -> None:
            call(payload)
            commit()

        alternate(ours, bare, repeats=CALLS)
        ratios, found = [], []
        for _ in range(REPEATS):
            medians = [statistics.median(side) for side in alternate(ours, bare, repeats=CALLS)]
            found.append(medians)
            ratios.append(medians[0] / medians[1])
    call.close()
    name = f"{SIZE} x {SIZE}: latency / (echo + durable commit)"
    yield summary(CASE, name, ratios, target=8.0)
    yield summary(CASE, "latency", [1e3 * ours_s for ours_s, _ in found], "ms")
    yield summary(CASE, "echo + durable commit", [1e3 * bare_s for _, bare_s in found], "ms")


def _throughput(cluster: LocalCluster, address: str) -> Iterator[Figure]:
    a = np.random.default_rng(1).standard_normal((SIZE, SIZE))
    payload = b"echo"
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(cluster.address)) for _ in range(CLIENTS)]
        callers = [echo.Caller(address) for _ in range(CLIENTS)]
        for caller in callers:
            stack.callback(caller.close)
        threads = stack.enter_context(ThreadPoolExecutor(CLIENTS))
        jobs = [lambda c=c: c.matmul(a, a, where="cluster") for c in clients]
        echoes = [lambda c=c: c(payload) for c in callers]
        _per_second(threads, jobs, 1)
        rates = [
            (_per_second(threads, jobs, JOBS_EACH), _per_second(threads, echoes, ECHOES_EACH))
            for _ in range(REPEATS)
        ]
    ratios = [ours / bare for ours, bare in rates]
    name = f"{CLIENTS} clients: jobs a second / echoes a second"
    yield summary(CASE, name, ratios, target=1 / 25, at_least=True)
    yield summary(CASE, "jobs a second", [ours for ours, _ in rates], "/s")
    yield summary(CASE, "echoes a second", [bare for _, bare in rates], "/s")


def _per_second(
    threads: ThreadPoolExecutor, calls: Sequence[Callable[[], object]], times: int
) -> float:
    def repeat(call: Callable[[], object]) -> None:
        for _ in range(times):
            call()

    started_s = time.perf_counter()
    list(threads.map(repeat, calls))
    return len(calls) * times / (time.perf_counter() - started_s)
