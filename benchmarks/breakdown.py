"""Where the time of one job goes, beside NumPy's time for the same product in turn.

One host, one agent with every core: what a job costs more than NumPy is one of these parts.
"""

from __future__ import annotations

import datetime as dt
import statistics
import time
from collections.abc import Iterator, Mapping

import numpy as np

from benchmarks.measuring import REPEATS, Figure, summary
from deadheat.client import Client, LocalCluster, Report

CASE = "where the time goes"
SIZE = 4096
PARTS = (
    "operands into shared memory, and Submit",
    "plan, commit, dispatch, first panel",
    "panels",
    "report, commit, news of the end",
)


def run() -> Iterator[Figure]:
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((SIZE, SIZE)), rng.standard_normal((SIZE, SIZE))
    numpy_s: list[float] = []
    parts: list[Mapping[str, float]] = []
    with LocalCluster() as cluster, Client(cluster.address) as client:
        for repeat in range(REPEATS + 2):
            started_s = time.perf_counter()
            expected = np.matmul(a, b)
            between_s = time.perf_counter()
            started_at = time.time()
            made = client.matmul(a, b, where="cluster")
            ended_at = time.time()
            assert np.allclose(made, expected)
            del made, expected
            if repeat >= 2:  # Before that memory and models are new.
                numpy_s.append(between_s - started_s)
                parts.append(_parts(client.report("last"), started_at, ended_at))
    base_s = statistics.median(numpy_s)
    yield Figure(CASE, f"NumPy, n = {SIZE}", base_s, "s", low=min(numpy_s), high=max(numpy_s))
    for name in PARTS:
        shares = [100 * part[name] / base_s for part in parts]
        yield summary(CASE, f"{name}, of NumPy's time", shares, "%")


def _parts(report: Report, started_at: float, ended_at: float) -> Mapping[str, float]:
    """Seconds of each part: the job's own times, between those of the caller's clock."""
    job_started_at, job_finished_at = _moment(report.started_at), _moment(report.finished_at)
    first_s = min(placement["start_s"] for placement in report.placements)
    last_s = max(placement["finish_s"] for placement in report.placements)
    seconds = (
        job_started_at - started_at,
        first_s,
        last_s - first_s,
        (job_finished_at - job_started_at - last_s) + (ended_at - job_finished_at),
    )
    return dict(zip(PARTS, seconds, strict=True))


def _moment(stamp: str | None) -> float:
    assert stamp is not None
    return dt.datetime.fromisoformat(stamp).timestamp()
