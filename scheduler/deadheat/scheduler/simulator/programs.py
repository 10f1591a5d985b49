"""The program of a simulated job. No matrix exists; small operands are zeros, as they would travel
inline, and larger ones are names."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from deadheat.runtime.programs import (
    Gemm,
    MatrixType,
    Operand,
    Program,
    chain_program,
    gemm_program,
)
from deadheat.runtime.units import KIB
from deadheat.scheduler.simulator.scenario import JobSpec

#: What travels inside of messages rather than through the store (see runtime/rpc.py).
INLINE_LIMIT_BYTES: Final = 256 * KIB


@lru_cache(maxsize=64)
def _zeros(size_bytes: int) -> bytes:
    return bytes(size_bytes)


def program_of(job: JobSpec, name: str = "job") -> Program:
    """One product, or one chain of them; raises InvalidInput for impossible sizes."""
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
    return gemm_program(operands, Gemm()) if len(operands) == 2 else chain_program(operands)


def result_ids(program: Program, name: str) -> list[str]:
    """An id in the store for each result that does not travel inline (as the job service does)."""
    results = [program.types[operation.result] for operation in program.operations]
    is_small = sum(matrix.size_bytes for matrix in results) <= INLINE_LIMIT_BYTES
    return ["" if is_small else f"{name}.{operation.result}" for operation in program.operations]
