"""Products whose factors may be TF32: asked for, carried, refused, and full precision elsewhere."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from deadheat.runtime import wire
from deadheat.runtime.errors import InvalidInput
from deadheat.runtime.precisions import precision_of, with_precision
from deadheat.runtime.programs import (
    Batched,
    Chain,
    Gemm,
    MatrixType,
    Op,
    Operand,
    Operation,
    Precision,
    Program,
    Segment,
    Transpose,
)
from deadheat.v1 import types_pb2

KINDS = [Gemm(), Gemm(transpose_a=True), Batched(Gemm(), (2,), (2,)), Chain(), Chain((1,))]


def program(kind: Any, dtype: str = "float32") -> Program:
    matrix = MatrixType(8, 8, dtype)
    if isinstance(kind, Batched):
        matrix = MatrixType(16, 8, dtype)
    operands = tuple(Operand(name, matrix, matrix_id=f"m{name}") for name in "AB")
    steps = (Operation("T", ("A",), Transpose()), Operation("C", ("A", "B"), kind))
    return Program(operands, steps, ("C", "T"))


@pytest.mark.parametrize("kind", KINDS, ids=repr)
def test_every_product_of_a_program_has_it_also_on_the_other_side_of_the_wire(kind: Any) -> None:
    plain = program(kind)
    assert precision_of(plain) is Precision.STRICT
    assert with_precision(plain, Precision.STRICT) is plain
    asked = with_precision(plain, Precision.TF32)
    assert precision_of(asked) is Precision.TF32
    assert asked.types == plain.types
    assert asked.operations[0] == plain.operations[0]
    assert asked.shape_of(asked.operations[1]) == replace(
        plain.shape_of(plain.operations[1]), op=Op.TF32_PRODUCT
    )
    assert asked.flops == plain.flops
    there = types_pb2.Program.FromString(wire.program_to_wire(asked).SerializeToString())
    assert wire.program_from_wire(there) == asked


def test_one_inside_a_segment_is_found() -> None:
    steps = (
        Operation("H", ("A", "B"), Gemm(precision=Precision.TF32)),
        Operation("C", ("H", "B"), Gemm()),
    )
    matrix = MatrixType(8, 8, "float32")
    operands = tuple(Operand(name, matrix, matrix_id=name) for name in "AB")
    found = Program(operands, (Operation("C", ("A", "B"), Segment(steps)),), ("C",))
    assert precision_of(found) is Precision.TF32
    back = wire.program_from_wire(wire.program_to_wire(found))
    assert back == found
    parts = found.shape_of(found.operations[0]).parts
    assert [part.op for part in parts] == [Op.TF32_PRODUCT, Op.PRODUCT]


@pytest.mark.parametrize("kind", KINDS, ids=repr)
@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16", "complex64", "int32", "bool"])
def test_other_dtypes_are_refused_by_name(kind: Any, dtype: str) -> None:
    with pytest.raises(InvalidInput, match=f"'C'.*'tf32'.*float32.*not those of {dtype}"):
        with_precision(program(kind, dtype), Precision.TF32)


def test_what_only_a_newer_version_knows_is_refused() -> None:
    message = wire.program_to_wire(program(Gemm()))
    message.operations[1].gemm.precision = types_pb2.Precision.ValueType(9)
    with pytest.raises(InvalidInput, match="precision 9 is unknown"):
        wire.program_from_wire(message)
