"""Small products left to choose where: they must cost what NumPy costs."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

import numpy as np

from benchmarks.measuring import Figure, alternate, summary
from deadheat.client import Client, LocalCluster

CASE = "small, where=auto"
REPEATS = 15
#: Multiply-adds for one measurement, so that each takes some milliseconds.
STEPS = 5e7
TINY = (2, 16, 64, 128, 192, 255)
SMALL = (256, 384, 512, 768, 1024)


def run() -> Iterator[Figure]:
    with LocalCluster() as cluster, Client(cluster.address) as client:
        for size in (*TINY, *SMALL):
            numpy_s, ours_s = _measured(client, size)
            if size in TINY:
                # The least of each side: what is added does not depend on who else runs.
                added_us = 1e6 * (min(ours_s) - min(numpy_s))
                yield Figure(CASE, f"n = {size}: added to NumPy's time", added_us, "us", 5.0)
            else:
                ratios = [theirs / ours for theirs, ours in zip(numpy_s, ours_s)]
                name = f"n = {size}: NumPy's time / ours"
                yield summary(CASE, name, ratios, target=0.95, at_least=True)
        jobs = len(client.reports())
        yield Figure(CASE, "products that became jobs", float(jobs), target=0.0)
        yield Figure(CASE, "NumPy, n = 1024", statistics.median(numpy_s), "s")


def _measured(client: Client, size: int) -> list[list[float]]:
    """Seconds for one product of each side, alternately."""
    rng = np.random.default_rng(size)
    a, b = rng.standard_normal((size, size)), rng.standard_normal((size, size))
    times = int(min(5_000, max(1.0, STEPS / size**3)))
    assert np.allclose(client.matmul(a, b), a @ b)

    def numpys() -> None:
        for _ in range(times):
            np.matmul(a, b)

    def ours() -> None:
        for _ in range(times):
            client.matmul(a, b)

    found = alternate(numpys, ours, repeats=REPEATS)
    return [[seconds / times for seconds in side] for side in found]
