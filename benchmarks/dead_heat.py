"""The promise itself, on real processes: one free core, one shared with a hog."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks.measuring import Figure, hog, summary, two_cores
from deadheat.cli.demo import Cores, wait_until_noticed
from deadheat.client import Client, LocalCluster, Report

CASE = "dead heat, one hog"
#: float64, so many rows: about ten seconds on one and a half cores of 50 GFLOP/s.
SIZE = 7000
REPEATS = 3


def run() -> Iterator[Figure]:
    free, shared = two_cores()
    agents = [{"name": "free", "cpus": [free]}, {"name": "shared", "cpus": [shared]}]
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((SIZE, SIZE)), rng.standard_normal((SIZE, SIZE))
    balanced: list[Report] = []
    equal: list[Report] = []
    with LocalCluster(agents) as cluster, Client(cluster.address) as client, hog(shared):
        for _ in range(REPEATS):
            for cut, reports in (("balanced", balanced), ("equal", equal)):
                wait_until_noticed(client, Cores(free, shared))
                job = client.submit_matmul(a, b, cut=cut)  # type: ignore[arg-type]
                product = job.result()
                reports.append(job.report())
                rows = slice(0, SIZE, SIZE // 50)
                assert np.allclose(product[rows], a[rows] @ b)
                del product
    spreads = [report.finish_spread or 0.0 for report in balanced]
    yield summary(CASE, "finish spread, balanced", spreads, target=0.05)
    equal_spreads = [report.finish_spread or 0.0 for report in equal]
    yield summary(CASE, "finish spread, cut equally", equal_spreads, target=0.25, at_least=True)
    ratios = [(e.makespan_s or 0) / (b.makespan_s or 1) for e, b in zip(equal, balanced)]
    yield summary(CASE, "equal cut's makespan / ours", ratios)
    yield summary(CASE, "makespan, balanced", [r.makespan_s or 0 for r in balanced], "s")
    yield summary(CASE, "re-balances", [float(r.resplits) for r in balanced])
