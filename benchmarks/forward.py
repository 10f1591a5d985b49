"""A network's forward pass on two agents, one of them half busy, against layer by layer.

The baseline is the same job with a barrier after each layer and the same rows for everybody.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack

import numpy as np

from benchmarks.checking import Array
from benchmarks.measuring import Figure, LeftOut, alternate, hog, summary, two_cores
from benchmarks.versus import NOTICED_S
from deadheat.client import Client, LocalCluster, nn

REPEATS = 7
LAYERS = 8
#: Rows that are compared with NumPy's.
COMPARED = 64


def run(*, size: int = 2048, batch: int = 8192, repeats: int = REPEATS) -> Iterator[Figure]:
    free, busy = two_cores()
    if free == busy:
        raise LeftOut("it takes two cores")
    case = f"forward, {LAYERS} x {size}, batch {batch}"
    mlp = nn.MLP([size] * (LAYERS + 1), activations="relu", dtype="float32", seed=1)
    rows = np.random.default_rng(1).standard_normal((batch, size), np.float32)
    ratios, spreads, barriers, makespans = [], [], [], []
    with ExitStack() as stack:
        agents = [{"name": "free", "cpus": [free]}, {"name": "busy", "cpus": [busy]}]
        cluster = stack.enter_context(LocalCluster(agents))
        client = stack.enter_context(Client(cluster.address))
        stack.enter_context(hog(busy))
        time.sleep(NOTICED_S)
        samples = client.put(rows)
        expected = _numpys(mlp, rows[:COMPARED])

        def ours() -> None:
            found = client.forward(mlp, samples, where="cluster")
            assert np.allclose(found[:COMPARED], expected, rtol=1e-3, atol=1e-4)

        def theirs() -> None:
            found = client.forward(mlp, samples, cut="equal")
            assert np.allclose(found[:COMPARED], expected, rtol=1e-3, atol=1e-4)

        ours()
        theirs()
        for _ in range(repeats):
            (ours_s,) = alternate(ours, repeats=1)
            report = client.report("last")
            spreads.append(report.finish_spread or 0.0)
            barriers.append(float(len({placement["operation"] for placement in report.placements})))
            makespans.append(report.makespan_s or 0.0)
            (theirs_s,) = alternate(theirs, repeats=1)
            ratios.append(ours_s[0] / theirs_s[0])
    yield summary(case, "our time / layer by layer, equal cut", ratios, target=0.80)
    yield summary(case, "finish spread", spreads, target=0.04)
    yield Figure(case, "barriers", max(barriers), target=1.0)
    yield summary(case, "makespan", makespans, "s")


def _numpys(mlp: nn.MLP, rows: Array) -> Array:
    for number, layer in enumerate(mlp.linear):
        rows = rows @ layer.weight + layer.bias
        if number < len(mlp.linear) - 1:
            rows = np.maximum(rows, 0.0)
    return rows
