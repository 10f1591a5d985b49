"""Ten products with the same second matrix, by an ordinary client, on agents that are far away."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.hosts import cluster
from benchmarks.measuring import Figure, summary

JOBS = 10


def run(*, size: int, jobs: int = JOBS, target: float | None = None) -> Iterator[Figure]:
    with cluster("1gbit") as far:
        first, *others = (job["bytes_moved"] for job in far.client("repeat", str(size), str(jobs)))
    case = f"same B, {jobs} jobs, n = {size}"
    name = "bytes moved after the first / by the first"
    yield summary(case, name, [moved / first for moved in others], target=target)
    yield Figure(case, "bytes moved by the first", first / 2**20, "MiB")
