"""What planning costs, in sorts of as many numbers as there are devices, and how it grows."""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from benchmarks.measuring import Figure
from deadheat.runtime.programs import Gemm, GemmShape, MatrixType, Operand, gemm_program
from deadheat.scheduler.planner.balance import balance
from deadheat.scheduler.planner.inputs import Device, Link, PlanningInput, Pool, Work
from deadheat.scheduler.planner.planner import plan
from deadheat.scheduler.planner.speed import SpeedModel, SpeedPoint

CASE = "planning time"
SEED = 3
#: Doublings down from 10,000, and the 100 that growth is counted from.
SIZES = (100, 156, 312, 625, 1250, 2500, 5000, 10_000)
MODELS = 32
SIDE = 36_000
#: The least of so many medians of so many calls: others' work only ever adds to a time.
ROUNDS, CALLS = 7, 5


def run() -> Iterator[Figure]:
    rng = np.random.default_rng(SEED)
    numbers = rng.random(SIZES[-1])
    sort_s = best_median_s(lambda: np.argsort(numbers), calls=50)
    yield Figure(CASE, f"numpy.argsort of {SIZES[-1]} numbers", 1e3 * sort_s, "ms")
    pool = problem(SIZES[-1], rng).pool
    unit_s = 1.0 / (pool.bias * pool.availability * np.geomspace(1.0, 10.0, len(pool)))
    solver_s = best_median_s(lambda: balance(SIDE, pool.ready_s, unit_s))
    yield Figure(CASE, f"balance() of {SIZES[-1]} devices", solver_s / sort_s, "sorts", 50.0)
    times_s = {count: _plan_s(problem(count, rng)) for count in SIZES}
    whole_s = times_s[SIZES[-1]]
    yield Figure(CASE, f"plan() of {SIZES[-1]} devices", whole_s / sort_s, "sorts", 300.0)
    yield Figure(CASE, f"plan() of {SIZES[-1]} devices", 1e3 * whole_s, "ms")
    growths = [
        (times_s[more] / times_s[less]) ** (1.0 / math.log2(more / less))
        for less, more in itertools.pairwise(SIZES)
        # What lies between 100 and 156 is less than a doubling: its noise would be magnified.
        if more >= 2 * less - 1
    ]
    yield Figure(CASE, "plan(), most growth of all doublings", max(growths), "fold", 2.4)
    overall = (whole_s / times_s[SIZES[0]]) ** (1.0 / math.log2(SIZES[-1] / SIZES[0]))
    yield Figure(CASE, "plan(), growth per doubling, 100 to 10,000", overall, "fold", 2.4)


def best_median_s(work: Callable[[], object], calls: int = CALLS) -> float:
    work()
    medians = []
    for _ in range(ROUNDS):
        taken = []
        for _ in range(calls):
            started_s = time.perf_counter()
            work()
            taken.append(time.perf_counter() - started_s)
        medians.append(statistics.median(taken))
    return min(medians)


def _plan_s(given: PlanningInput) -> float:
    return best_median_s(lambda: plan(given, now=0.0))


def problem(count: int, rng: np.random.Generator) -> PlanningInput:
    """One large product on so many devices of 32 kinds, each shared and busy in its own way."""
    models = [_model(gflops) for gflops in rng.uniform(10.0, 100.0, MODELS).tolist()]
    devices = [
        Device(
            id=f"d{number:05}/cpu",
            node=f"d{number:05}",
            kind="cpu",
            model=models[number % MODELS],
            availability=float(rng.uniform(0.1, 1.0)),
            busy=0.0,
            bias=1.0,
            ready_s=float(rng.uniform(0.0, 0.1)),
            launch_s=0.001,
            memory_bytes=1 << 40,
            link=Link(is_local=True),
        )
        for number in range(count)
    ]
    a = Operand("A", MatrixType(SIDE, SIDE, "float64"), matrix_id="a")
    program = gemm_program((a, replace(a, name="B", matrix_id="b")), Gemm())
    work = Work(0, program.types["C"].whole())
    return PlanningInput(program, (work,), Pool.of(devices), may_rewrite=True)


def _model(gflops: float) -> SpeedModel:
    shapes = [GemmShape(size, size, size, "float64") for size in (64, 1024)]
    return SpeedModel(tuple(SpeedPoint(shape, shape.flops / (gflops * 1e9)) for shape in shapes))
