"""The program of a simulated job. No matrix exists; small operands are zeros, as they would travel
inline, and larger ones are names."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from deadheat.runtime.dtypes import element_type
from deadheat.runtime.programs import Gemm, MatrixType, Operand, Operation, Program
from deadheat.runtime.units import KIB
from deadheat.scheduler.simulator.scenario import JobSpec

#: What travels inside of messages rather than through the store (see runtime/rpc.py).
INLINE_LIMIT_BYTES: Final = 256 * KIB


@lru_cache(maxsize=64)
def _zeros(size_bytes: int) -> bytes:
    return bytes(size_bytes)


def program_of(job: JobSpec, name: str = "job") -> Program:
    """A product, or a chain of them from the left; raises InvalidInput for impossible sizes."""
    types = [MatrixType(rows, columns, job.dtype) for rows, columns in zip(job.dims, job.dims[1:])]
    is_small = sum(matrix.size_bytes for matrix in types) <= INLINE_LIMIT_BYTES
    operands = tuple(
        Operand(
            f"M{index}",
            matrix,
            matrix_id="" if is_small else f"{name}.M{index}",
            inline=_zeros(matrix.size_bytes) if is_small else None,
        )
        for index, matrix in enumerate(types)
    )
    return _from_the_left(operands)


def _from_the_left(operands: tuple[Operand, ...]) -> Program:
    operations: list[Operation] = []
    left = operands[0].name
    for index, operand in enumerate(operands[1:], start=1):
        result = "C" if index == len(operands) - 1 else f"P{index}"
        operations.append(Operation(result, (left, operand.name), Gemm()))
        left = result
    return Program(operands, tuple(operations), ("C",))


def result_ids(program: Program, name: str) -> list[str]:
    """An id in the store for each result that does not travel inline (as the job service does)."""
    results = [program.types[operation.result] for operation in program.operations]
    is_small = sum(matrix.size_bytes for matrix in results) <= INLINE_LIMIT_BYTES
    return ["" if is_small else f"{name}.{operation.result}" for operation in program.operations]


def least_flops(job: JobSpec) -> float:
    """The work of the cheapest order of a chain: no run can do with less (for the oracle).

    The textbook dynamic program over intervals, O(n^3) for n matrices.
    """
    dims = job.dims
    count = len(dims) - 1
    least = [[0.0] * count for _ in range(count)]
    for length in range(2, count + 1):
        for i in range(count - length + 1):
            j = i + length - 1
            least[i][j] = min(
                least[i][k] + least[k + 1][j] + float(dims[i]) * dims[k + 1] * dims[j + 1]
                for k in range(i, j)
            )
    return least[0][count - 1] * element_type(job.dtype).flops_per_step
