"""Serving: many clients, each a process of its own with one row at a time, on one stored model.

One at a time is one client that calls the same model the same way, with nobody else there: then
nothing waits for company. Each row that comes back is compared with NumPy's.
"""

from __future__ import annotations

import multiprocessing
import sqlite3
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from multiprocessing.connection import Connection, wait
from typing import Any, Self

import numpy as np

from benchmarks.checking import Array
from benchmarks.measuring import REPEATS, Figure, summary
from deadheat.client import Client, LocalCluster, nn

SIZES = (784, 256, 10)
MODEL = "served"
CLIENTS = 64
ROWS = 256
CALLS_ALONE, CALLS_EACH = 100, 20
READY_S = 120.0


def run(*, target: float | None = None, repeats: int = REPEATS) -> Iterator[Figure]:
    case = f"serving, {CLIENTS} clients"
    network = nn.MLP(SIZES, "relu", seed=1)
    rows = np.random.default_rng(2).standard_normal((ROWS, SIZES[0]), np.float32)
    with LocalCluster() as cluster:
        with Client(cluster.address) as client:
            client.models.save(MODEL, network)
        with _Callers(cluster.address, rows, _expected(network, rows)) as callers:
            callers.rate(callers.all[:1], CALLS_ALONE)
            callers.rate(callers.all, 4)
            ratios, alone, together = [], [], []
            latencies: list[list[float]] = [[], []]
            jobs = 0
            for _ in range(repeats):
                alone.append(callers.rate(callers.all[:1], CALLS_ALONE))
                latencies[0] += callers.latencies_s
                before = _batches(cluster)
                together.append(callers.rate(callers.all, CALLS_EACH))
                jobs += _batches(cluster) - before
                latencies[1] += callers.latencies_s
                ratios.append(together[-1] / alone[-1])
    name = "calls a second, batched / one at a time"
    yield summary(case, name, ratios, target=target, at_least=True)
    yield summary(case, "one at a time", alone, "/s")
    yield summary(case, "batched", together, "/s")
    yield Figure(case, "rows in a batch, mean", repeats * CLIENTS * CALLS_EACH / jobs)
    for who, found in zip(("one at a time", "batched"), latencies):
        yield Figure(case, f"latency, {who}: median", 1e3 * statistics.median(found), "ms")
        p95_ms = 1e3 * float(np.percentile(found, 95))
        yield Figure(case, f"latency, {who}: 95th percentile", p95_ms, "ms")


def _expected(network: nn.Sequential, rows: Array) -> Array:
    first, second = network.linear
    assert first.bias is not None
    assert second.bias is not None
    hidden = np.maximum(rows @ first.weight + first.bias, 0)
    made: Array = hidden @ second.weight + second.bias
    return made


def _batches(cluster: LocalCluster) -> int:
    """Jobs that computed calls."""
    with closing(sqlite3.connect(cluster.state_dir / "deadheat.db")) as database:
        query = "select count(*) from jobs where model is not null"
        return int(database.execute(query).fetchone()[0])


class _Callers:
    """Processes that call when they are told to."""

    def __init__(self, address: str, rows: Array, expected: Array) -> None:
        # Each is forked from a server that has imported everything and started nothing.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["benchmarks.serving"])
        self.all: list[Connection] = []
        self._processes = []
        self.latencies_s: list[float] = []
        for number in range(CLIENTS):
            ours, theirs = context.Pipe()
            given = (address, rows, expected, number, theirs)
            process = context.Process(target=_call, args=given, daemon=True)
            process.start()
            theirs.close()
            self._processes.append(process)
            self.all.append(ours)
        for caller in self.all:
            if not caller.poll(READY_S):
                raise TimeoutError("a client did not come up")
            caller.recv()

    def rate(self, who: Sequence[Connection], times: int) -> float:
        """Calls a second, if each of these callers calls so often."""
        self.latencies_s = []
        started_s = time.perf_counter()
        for caller in who:
            caller.send(times)
        left = list(who)
        while left:
            for ready in wait(left):
                assert isinstance(ready, Connection)
                found: Any = ready.recv()
                wrong, latencies_s = found
                if wrong:
                    raise RuntimeError(wrong)
                self.latencies_s += latencies_s
                left.remove(ready)
        return len(who) * times / (time.perf_counter() - started_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for caller in self.all:
            caller.close()
        for process in self._processes:
            process.join(10)
            process.kill()


def _call(address: str, rows: Array, expected: Array, number: int, orders: Connection) -> None:
    """A client: so many calls for each order, until nobody orders any more."""
    most = 1e-5 * float(np.abs(expected).max())
    at = number
    with Client(address) as client:
        client.models.forward(MODEL, rows[0])
        orders.send("ready")
        while True:
            try:
                times = orders.recv()
            except EOFError:
                return
            latencies_s = []
            for _ in range(times):
                at = (at + 1) % len(rows)
                started_s = time.perf_counter()
                made = client.models.forward(MODEL, rows[at])
                latencies_s.append(time.perf_counter() - started_s)
                if not np.abs(made - expected[at]).max() <= most:
                    orders.send((f"row {at} is wrong", []))
                    return
            orders.send(("", latencies_s))
