"""Whole jobs on simulated pools: how close all finish together, and how much of the pool is used.

Three families of seeded scenarios, each with noise in every panel: nothing happens; others load a
third of the devices in mid-run; a device is lost in mid-run. Those with a load step are run again
under each baseline.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.measuring import Figure, in_processes, percentile
from deadheat.scheduler.planner.inputs import Cut
from deadheat.scheduler.simulator.oracle import capacity, oracle_makespan_s
from deadheat.scheduler.simulator.outcome import BASELINES, run_one
from deadheat.scheduler.simulator.parsing import parse
from deadheat.scheduler.simulator.scenario import Scenario

SEEDS = range(200)
FAMILIES = ("steady", "step", "lost")
NOISE = 0.05
SLOWEST_GFLOPS = 20.0
#: Samples of every device are known by then.
JOB_AT_S = 3.0
#: In mid-run: between these parts of the time that the job would take undisturbed.
MIDDLE = (0.2, 0.8)
MOST_LOAD = 0.9


@dataclass(frozen=True)
class Run:
    makespan_s: float
    spread: float
    efficiency: float
    #: Our makespan over that of each baseline, by name.
    ratios: dict[str, float]


def scenario(family: str, seed: int) -> Scenario:
    """2 to 64 devices (log-uniform), speeds within a factor of 10, others' load of up to 30 % on
    half of them, and a square product that takes 10 to 60 s on what is free."""
    rng = np.random.default_rng([FAMILIES.index(family), seed])
    count = round(math.exp(rng.uniform(math.log(2), math.log(64))))
    gflops = SLOWEST_GFLOPS * np.exp(rng.uniform(0.0, math.log(10.0), count))
    foreign = rng.uniform(0.0, 0.3, count) * (rng.random(count) < 0.5)
    takes_s = rng.uniform(10.0, 60.0)
    size = round((takes_s * float((gflops * (1.0 - foreign)).sum()) * 1e9 / 2.0) ** (1.0 / 3.0))
    loads = [[[0.0, float(load)]] for load in foreign]
    faults: list[dict[str, Any]] = []
    at_s = JOB_AT_S + takes_s * rng.uniform(*MIDDLE)
    match family:
        case "step":
            for number in rng.choice(count, max(1, count // 3), replace=False).tolist():
                load = min(MOST_LOAD, float(foreign[number] + rng.uniform(0.1, 0.6)))
                loads[number].append([at_s, load])
        case "lost":
            victim = f"d{int(rng.integers(count)):02}"
            faults.append({"at_s": at_s, "device": victim, "kind": "lost"})
    devices = [
        {
            "name": f"d{number:02}",
            "kind": "cpu",
            "speed_gflops": float(gflops[number]),
            "memory_gb": 64.0,
            "noise": NOISE,
            "foreign": loads[number],
            "sharing": "taken",
        }
        for number in range(count)
    ]
    job = {"at_s": JOB_AT_S, "kind": "matmul", "m": size, "k": size, "n": size}
    return parse({"seed": seed, "device": devices, "job": [job], "fault": faults})


def measure(given: tuple[str, int]) -> Run:
    family, seed = given
    made = scenario(family, seed)
    found = run_one(made, Cut.BALANCED)
    assert found.makespan_s is not None, f"{family} {seed} did not get done"
    ratios: dict[str, float] = {}
    if family == "step":
        for name, cut in BASELINES.items():
            ratios[name] = found.makespan_s / (run_one(made, cut).makespan_s or math.inf)
        best_s = oracle_makespan_s(made, capacity(made))
        ratios["oracle"] = found.makespan_s / (best_s or math.inf)
    return Run(found.makespan_s, found.spread or 0.0, found.efficiency or 0.0, ratios)


def run() -> Iterator[Figure]:
    runs = {
        family: in_processes(measure, [(family, seed) for seed in SEEDS]) for family in FAMILIES
    }
    for family, found in runs.items():
        name = f"{family}: makespan, s, seeds {SEEDS[0]} to {SEEDS[-1]}"
        yield percentile(_case(family), name, [run.makespan_s for run in found], 50)
        yield from _targets(family, found)
    for name, target in (
        ("equal", 0.75),
        ("peak", 0.90),
        ("one_minus_utilization", 0.90),
        ("oracle", 1.07),
    ):
        ratios = [run.ratios[name] for run in runs["step"]]
        yield percentile(_case("step"), f"makespan / {name}, p50", ratios, 50, target=target)
        yield percentile(_case("step"), f"makespan / {name}, p95", ratios, 95)


def _targets(family: str, found: list[Run]) -> Iterator[Figure]:
    case = _case(family)
    spreads = [run.spread for run in found]
    used = [run.efficiency for run in found]
    match family:
        case "steady":
            yield percentile(case, "finish spread, p50", spreads, 50, target=0.02)
            yield percentile(case, "finish spread, p95", spreads, 95, target=0.04)
            yield percentile(case, "efficiency, p50", used, 50, target=0.97, at_least=True)
        case "step":
            yield percentile(case, "finish spread, p95", spreads, 95, target=0.06)
            yield percentile(case, "efficiency, p50", used, 50, target=0.93, at_least=True)
        case "lost":
            name = "efficiency of the pool that remains"
            yield percentile(case, f"{name}, p50", used, 50, target=0.90, at_least=True)
            yield percentile(case, f"{name}, least", used, 0, target=0.90, at_least=True)


def _case(family: str) -> str:
    return f"{len(SEEDS)} pools, {family}"
