"""Small products left to choose where: they must cost what NumPy costs."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

import numpy as np

from benchmarks.measuring import Figure, alternate, summary
from deadheat.client import Client, LocalCluster

CASE = "small, where=auto"
REPEATS = 15
#: Multiply-adds for one repeat, so that each takes some milliseconds.
STEPS = 2e8
#: The fastest of fewer calls on two threads is not the same twice to 5 microseconds.
TINY_CALLS = 100
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
    """Seconds for one product of each side: call by call in turn, so that whoever else runs meets
    both; of very small ones the fastest call counts, since what is added does not depend on it."""
    rng = np.random.default_rng(size)
    a, b = rng.standard_normal((size, size)), rng.standard_normal((size, size))
    least = TINY_CALLS if size in TINY else 2
    calls = int(min(2_000, max(least, STEPS / size**3)))
    assert np.allclose(client.matmul(a, b), a @ b)
    of_a_repeat = min if size in TINY else statistics.mean
    found: list[list[float]] = [[], []]
    for _ in range(REPEATS):
        sides = alternate(lambda: np.matmul(a, b), lambda: client.matmul(a, b), repeats=calls)
        for side, seconds in zip(found, sides):
            side.append(of_a_repeat(seconds))
    return found
