"""Ten thousand simulated devices with a hundred jobs of five users, to the end."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import numpy as np

from benchmarks.measuring import Figure
from deadheat.scheduler.core.machine import JobState
from deadheat.scheduler.planner.inputs import Cut
from deadheat.scheduler.simulator.outcome import run_one
from deadheat.scheduler.simulator.parsing import parse
from deadheat.scheduler.simulator.scenario import Scenario

CASE = "planner, scale"
DEVICES, KINDS, JOBS, USERS, SEED = 10_000, 20, 100, 5, 1


def run() -> Iterator[Figure]:
    made = scenario()
    started_s = time.perf_counter()
    found = run_one(made, Cut.BALANCED, stopwatch=time.perf_counter)
    taken_s = time.perf_counter() - started_s
    done = sum(report.state is JobState.DONE for report in found.reports)
    yield Figure(CASE, f"jobs done, seed {SEED}", float(done), "", float(JOBS), at_least=True)
    yield Figure(CASE, f"to simulate {DEVICES} devices, {JOBS} jobs", taken_s, "s", 300.0)
    yield Figure(CASE, "makespan of it all, simulated", found.makespan_s or math.nan, "s")
    plans_s = found.planning_s
    yield Figure(CASE, f"plan(), p50 of {len(plans_s)}", 1e3 * float(np.median(plans_s)), "ms")
    yield Figure(CASE, "plan(), p99", 1e3 * float(np.percentile(plans_s, 99)), "ms")


def scenario() -> Scenario:
    rng = np.random.default_rng(SEED)
    devices = [
        {
            "name": f"kind{kind:02}",
            "count": DEVICES // KINDS,
            "speed_gflops": float(20.0 * 10.0 ** rng.uniform(0.0, 1.0)),
            "memory_gb": 64.0,
            "noise": 0.05,
            "foreign": [[0.0, float(rng.uniform(0.0, 0.3))]],
        }
        for kind in range(KINDS)
    ]
    jobs = []
    at_s = 1.0
    for number in range(JOBS):
        size = int(math.exp(rng.uniform(math.log(4_000), math.log(40_000))))
        jobs.append({"at_s": at_s, "m": size, "k": size, "n": size, "user": f"u{number % USERS}"})
        at_s += float(rng.exponential(1.0))
    return parse({"seed": SEED, "device": devices, "job": jobs})
