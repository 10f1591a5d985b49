"""A hog that comes when a part of the job is done, and stays: are all still done together?"""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections.abc import Iterator

from benchmarks import available
from benchmarks.checking import Checker, operands
from benchmarks.measuring import REPEATS, Figure, LeftOut, hog, summary, two_cores
from benchmarks.versus import NOTICED_S
from deadheat.client import Client, LocalCluster

#: Of its flops, as the job itself tells.
COMES_AT = 0.4
WAIT_S = 300.0


def run(
    *,
    size: int,
    repeats: int = REPEATS,
    target: float | None = None,
    spread_target: float | None = None,
) -> Iterator[Figure]:
    free, shared = cores = two_cores()
    if free == shared:
        raise LeftOut("it takes two cores")
    a, b = operands(size)
    check = Checker(a, b)
    used, spreads, makespans, came, resplits = [], [], [], [], []
    agents = [{"name": "free", "cpus": [free]}, {"name": "shared", "cpus": [shared]}]
    with LocalCluster(agents) as cluster, Client(cluster.address) as client:
        check(client.matmul(a, b, where="cluster"))
        for _ in range(repeats):
            # The last hog has gone, and its trace in the samples as well.
            time.sleep(NOTICED_S)
            alone = sum(available.speeds_flops(cores))
            is_time = threading.Event()
            job = client.submit_matmul(a, b)
            job.on_update(lambda update, now=is_time: update.progress >= COMES_AT and now.set())  # type: ignore[misc]
            if not is_time.wait(WAIT_S):
                raise TimeoutError(f"the job has not come to {COMES_AT:.0%} in {WAIT_S:g} s")
            with hog(shared):
                comes_at = dt.datetime.now(dt.UTC)
                product = job.result()
                burdened = sum(available.speeds_flops(cores))
            check(product)
            report = job.report()
            makespan_s = report.makespan_s or 0.0
            started_at = dt.datetime.fromisoformat(report.started_at or "")
            comes_s = (comes_at - started_at).total_seconds()
            spans = [(0.0, alone), (comes_s, burdened)]
            used.append(available.efficiency(2.0 * size**3, makespan_s, spans))
            spreads.append(report.finish_spread or 0.0)
            makespans.append(makespan_s)
            came.append(comes_s / makespan_s)
            resplits.append(float(report.resplits))
    case = f"hog from {100 * COMES_AT:.0f} % on, n = {size}"
    yield summary(case, "efficiency, measured", used, target=target, at_least=True)
    yield summary(case, "finish spread", spreads, target=spread_target)
    yield summary(case, "makespan", makespans, "s")
    yield summary(case, "hog's coming / makespan", came)
    yield summary(case, "re-balances", resplits)
