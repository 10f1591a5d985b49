"""The precision of a whole program: asked for at once, and found again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from deadheat.runtime.programs import (
    Batched,
    Chain,
    Gemm,
    Kind,
    Operation,
    Precision,
    Program,
    Segment,
)


def with_precision(program: Program, precision: Precision) -> Program:
    """The program with all its products in this precision; convolutions and trainings have one
    only. Raises InvalidInput that names a product of a type that has not."""
    if precision is Precision.STRICT:
        return program
    operations = tuple(
        replace(one, kind=_with_precision(one.kind, precision)) for one in program.operations
    )
    return Program(program.operands, operations, program.results)


def _with_precision(kind: Kind, precision: Precision) -> Kind:
    match kind:
        case Gemm() | Chain():
            return replace(kind, precision=precision)
        case Batched(gemm):
            return replace(kind, gemm=replace(gemm, precision=precision))
        case _:
            return kind


def precision_of(program: Program) -> Precision:
    """The least that one of its products was asked for."""
    return _least(program.operations)


def _least(operations: Iterable[Operation]) -> Precision:
    for operation in operations:
        match operation.kind:
            case Gemm(precision=Precision.TF32) | Chain(precision=Precision.TF32):
                return Precision.TF32
            case Batched(gemm=Gemm(precision=Precision.TF32)):
                return Precision.TF32
            case Segment(steps) if _least(steps) is Precision.TF32:
                return Precision.TF32
    return Precision.STRICT
