"""Builders for planning problems."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from deadheat.runtime.programs import (
    Chain,
    Gemm,
    GemmShape,
    MatrixType,
    Operand,
    Program,
    chain_program,
    gemm_program,
)
from deadheat.scheduler.planner.inputs import (
    Cut,
    Device,
    Link,
    PlanningInput,
    Policy,
    Pool,
    Work,
)
from deadheat.scheduler.planner.speed import SpeedModel, SpeedPoint

LOCAL = Link(is_local=True)
GIGABIT = Link(is_local=False, bandwidth_bytes_per_s=1.25e8, latency_s=0.0005)


def model(gflops: float, dtype: str = "float64") -> SpeedModel:
    """The same rate for every shape."""
    points = [
        SpeedPoint(shape, shape.flops / (gflops * 1e9))
        for size in (4, 64, 1024)
        for shape in (GemmShape(size, size, size, dtype),)
    ]
    return SpeedModel(tuple(points))


def device(name: str, gflops: float = 50.0, **changes: object) -> Device:
    values: dict[str, object] = {
        "id": f"{name}/cpu",
        "node": name,
        "kind": "cpu",
        "model": model(gflops),
        "availability": 1.0,
        "busy": 0.0,
        "bias": 1.0,
        "ready_s": 0.0,
        "launch_s": 0.001,
        "memory_bytes": 1 << 40,
        "link": LOCAL,
    }
    return Device(**{**values, **changes})  # type: ignore[arg-type]


def product(m: int, k: int, n: int, dtype: str = "float64") -> Program:
    a = Operand("A", MatrixType(m, k, dtype), matrix_id="ma")
    b = Operand("B", MatrixType(k, n, dtype), matrix_id="mb")
    return gemm_program((a, b), Gemm())


def chain(sizes: Sequence[int], dtype: str = "float64") -> Program:
    """M1 to Mn, where Mi is sizes[i - 1] x sizes[i]; their product is C."""
    operands = tuple(
        Operand(f"M{number}", MatrixType(rows, columns, dtype), matrix_id=f"m{number}")
        for number, (rows, columns) in enumerate(pairwise(sizes), start=1)
    )
    return chain_program(operands, Chain())


def problem(
    program: Program,
    devices: Sequence[Device],
    cut: Cut = Cut.BALANCED,
    *,
    min_subtask_s: float = 0.002,
    excluded: Sequence[tuple[str, str]] = (),
) -> PlanningInput:
    whole = program.types["C"].whole()
    policy = Policy(cut, min_subtask_s)
    return PlanningInput(program, (Work(0, whole),), Pool.of(devices), policy, excluded)
