"""What a scheduler must not do when much changes at once: herd, and thrash.

No herd: 50 jobs come within one sample period, so that none of them shows in any sample yet. Each
would take 430 ms on one of ten equal devices. No thrash: every device's load by others jumps every
second, by up to 20 % of the device to either side.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from benchmarks.measuring import Figure, in_processes, percentile
from deadheat.scheduler.planner.inputs import Cut
from deadheat.scheduler.simulator.outcome import run_one
from deadheat.scheduler.simulator.parsing import parse
from deadheat.scheduler.simulator.simulation import SAMPLE_S

CASE = "planner, crowds"
DEVICES = 10
JOBS = 50
GFLOPS = 50.0
#: float64; 430 ms alone on one device of this speed.
SIZE = 2208
HERDS = range(10)
UNRULY = range(50)
LOAD, SWING = 0.2, 0.2


def run() -> Iterator[Figure]:
    apart = in_processes(busy_apart, HERDS)
    name = f"{JOBS} jobs at once: busiest - idlest, worst"
    yield percentile(CASE, name, apart, 100, target=0.10)
    moved = in_processes(rebalances, UNRULY)
    name = f"re-balances, load noise 20 %, most of {len(UNRULY)}"
    yield percentile(CASE, name, moved, 100, target=3.0)
    yield percentile(CASE, "re-balances, load noise 20 %, p50", moved, 50)


def busy_apart(seed: int) -> float:
    """How far apart equal devices are in the work that they were given, over its mean."""
    rng = np.random.default_rng(seed)
    moments_s = np.sort(rng.uniform(2.1, 2.1 + 0.8 * SAMPLE_S, JOBS)).tolist()
    jobs = [
        {"at_s": at_s, "m": SIZE, "k": SIZE, "n": SIZE, "user": f"u{number % 5}"}
        for number, at_s in enumerate(moments_s)
    ]
    devices = [{"name": "d", "count": DEVICES, "speed_gflops": GFLOPS, "noise": 0.05}]
    found = run_one(parse({"seed": seed, "device": devices, "job": jobs}), Cut.BALANCED)
    flops: defaultdict[str, float] = defaultdict(float)
    for report in found.reports:
        for device in report.devices:
            flops[device.device] += device.flops
    done = [flops[f"d-{number}"] for number in range(DEVICES)]
    return (max(done) - min(done)) / (sum(done) / DEVICES)


def rebalances(seed: int) -> float:
    """How often one job of 20 to 60 s is re-balanced where every load is noise."""
    rng = np.random.default_rng(seed)
    count, takes_s = int(rng.integers(3, 25)), float(rng.uniform(20.0, 60.0))
    gflops = GFLOPS * np.exp(rng.uniform(0.0, np.log(4.0), count))
    devices = [
        {
            "name": f"d{number}",
            "speed_gflops": float(gflops[number]),
            "memory_gb": 64.0,
            "noise": 0.05,
            "foreign": [
                [float(second), float(LOAD + rng.uniform(-SWING, SWING))] for second in range(180)
            ],
        }
        for number in range(count)
    ]
    size = round((takes_s * float(gflops.sum()) * (1.0 - LOAD) * 1e9 / 2.0) ** (1.0 / 3.0))
    jobs = [{"at_s": 3.0, "m": size, "k": size, "n": size}]
    found = run_one(parse({"seed": seed, "device": devices, "job": jobs}), Cut.BALANCED)
    return float(found.resplits)
