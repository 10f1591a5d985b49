"""The promise under a quota: two agents of one core each, one held to a part of its core."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack

from benchmarks import available
from benchmarks.checking import Checker, operands
from benchmarks.limits import held
from benchmarks.measuring import REPEATS, Figure, LeftOut, summary, two_cores
from benchmarks.versus import HELD, NOTICED_S
from deadheat.client import Client, LocalCluster


def run(
    *,
    size: int,
    repeats: int = REPEATS,
    share: float = HELD,
    target: float | None = None,
    spread_target: float | None = None,
) -> Iterator[Figure]:
    free, narrow = cores = two_cores()
    if free == narrow:
        raise LeftOut("it takes two cores")
    a, b = operands(size)
    check = Checker(a, b)
    used, spreads, makespans, resplits, sums = [], [], [], [], []
    with ExitStack() as stack:
        # Two groups of one quota, so that what an idle agent does is not taken from the loop.
        agent_group, loop_group = (stack.enter_context(held(share)) for _ in range(2))
        agents = [{"name": "free", "cpus": [free]}, {"name": "held", "cpus": [narrow]}]
        cluster = stack.enter_context(LocalCluster(agents))
        client = stack.enter_context(Client(cluster.address))
        agent_group.add_tree(cluster.agents[1].process.pid)
        time.sleep(NOTICED_S)
        check(client.matmul(a, b, where="cluster"))
        before = available.speeds_flops(cores, {narrow: loop_group})
        for _ in range(repeats):
            # Not submitted: results of that stay with the cluster, each in new memory.
            check(client.matmul(a, b, where="cluster"))
            report = client.report("last")
            after = available.speeds_flops(cores, {narrow: loop_group})
            speed = available.between(before, after)
            before = after
            makespan_s = report.makespan_s or 0.0
            used.append(available.efficiency(2.0 * size**3, makespan_s, [(0.0, speed)]))
            spreads.append(report.finish_spread or 0.0)
            makespans.append(makespan_s)
            resplits.append(float(report.resplits))
            sums.append(speed / 1e9)
    case = f"one agent at {100 * share:.0f} %, n = {size}"
    yield summary(case, "efficiency, measured", used, target=target, at_least=True)
    yield summary(case, "finish spread", spreads, target=spread_target)
    yield summary(case, "makespan", makespans, "s")
    yield summary(case, "available", sums, "GFLOP/s")
    yield summary(case, "re-balances", resplits)
