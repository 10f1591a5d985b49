"""A program: operations in SSA form over named matrices, checked before anything is allocated.

Rules of this file: values only, no I/O and no NumPy; a `Program` that exists has been checked, so
its readers never check again; what is wrong is said with the field, the value and the limit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from deadheat.runtime.cores import only_on_cores
from deadheat.runtime.errors import InvalidInput
from deadheat.runtime.operations import (
    Activation,
    Batched,
    Binary,
    BinaryFunction,
    Cast,
    Chain,
    Dense,
    Descent,
    Gemm,
    GemmShape,
    Kind,
    LayerFunction,
    Loss,
    Op,
    Operation,
    Precision,
    Segment,
    Slice,
    Softmax,
    Sum,
    SumAlong,
    Transpose,
    Unary,
    UnaryFunction,
)
from deadheat.runtime.rectangles import MAX_BYTES, MatrixType, Rectangle, merged, uncovered
from deadheat.runtime.rules import (
    MAX_CHAIN,
    MAX_TERMS,
    is_row_local,
    is_symmetric,
    needed_blocks,
    needed_bytes,
    read_by_rows,
    result_type,
    work_flops,
    work_shape,
)

# What programs are made of, under one roof for those who read them.
__all__ = [
    "MAX_BYTES",
    "MAX_CHAIN",
    "MAX_NAME",
    "MAX_OPERATIONS",
    "MAX_TERMS",
    "Activation",
    "Batched",
    "Binary",
    "BinaryFunction",
    "Cast",
    "Chain",
    "Dense",
    "Descent",
    "Gemm",
    "GemmShape",
    "Kind",
    "LayerFunction",
    "Loss",
    "MatrixType",
    "Op",
    "Operand",
    "Operation",
    "Precision",
    "Program",
    "Rectangle",
    "Segment",
    "Slice",
    "Softmax",
    "Sum",
    "SumAlong",
    "Transpose",
    "Unary",
    "UnaryFunction",
    "chain_program",
    "gemm_program",
    "is_row_local",
    "is_symmetric",
    "merged",
    "needed_blocks",
    "needed_bytes",
    "read_by_rows",
    "uncovered",
    "unique",
    "work_shape",
]

#: A program is planned whole, so its length is bounded; a training step needs a few hundred.
MAX_OPERATIONS: Final = 10_000
#: Names are printed and logged; long or odd ones are somebody's mistake or attack.
MAX_NAME: Final = 128
#: Stands for the id of an operand that is in no store (yet): such a program is only looked at.
UNSENT: Final = "unsent"


@dataclass(frozen=True, slots=True)
class Operand:
    """An input: its bytes if it is small, else the id of a sealed matrix in the store."""

    name: str
    type: MatrixType
    matrix_id: str = ""
    inline: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Program:
    """Operations over operands; building one checks it whole (raises InvalidInput)."""

    operands: tuple[Operand, ...]
    operations: tuple[Operation, ...]
    results: tuple[str, ...]

    def __post_init__(self) -> None:
        # Computing the types is the check; the properties keep what it found.
        _ = self.types
        made = {operation.result for operation in self.operations}
        for name in self.results:
            if name not in made:
                raise InvalidInput(f"results names {name!r}, which no operation makes")
        if not self.results:
            raise InvalidInput("results is empty; name at least one operation's result")

    @cached_property
    def types(self) -> Mapping[str, MatrixType]:
        """The type of every name, operands and results."""
        if not 0 < len(self.operations) <= MAX_OPERATIONS:
            raise InvalidInput(
                f"operations has {len(self.operations)} entries; it may have 1 to {MAX_OPERATIONS}"
            )
        types: dict[str, MatrixType] = {}
        for operand in self.operands:
            _check_operand(operand)
            _define(types, operand.name, operand.type)
        for operation in self.operations:
            for name in operation.operands:
                if name not in types:
                    raise InvalidInput(
                        f"{operation.result!r} uses {name!r}, which is not defined before it"
                    )
            _define(types, operation.result, result_type(operation, types))
        made_bytes = sum(types[operation.result].size_bytes for operation in self.operations)
        if made_bytes > MAX_BYTES:
            raise InvalidInput(f"all results are {made_bytes} bytes; the limit is {MAX_BYTES}")
        return types

    @cached_property
    def sources(self) -> Mapping[str, Operand]:
        return {operand.name: operand for operand in self.operands}

    @cached_property
    def matrix_ids(self) -> frozenset[str]:
        """The matrices in a store that it reads."""
        return frozenset(one.matrix_id for one in self.operands if one.matrix_id)

    @cached_property
    def dtypes(self) -> frozenset[str]:
        """Of all operands and results."""
        return frozenset(matrix.dtype for matrix in self.types.values())

    @cached_property
    def only_on_cores(self) -> frozenset[str]:
        """Names of the kinds of its operations that no card computes."""
        return frozenset(name for one in self.operations for name in only_on_cores(one.kind))

    @cached_property
    def first_chain(self) -> int | None:
        """The number of the first operation that the planner has to rewrite as others."""
        chains = (n for n, one in enumerate(self.operations) if isinstance(one.kind, Chain))
        return next(chains, None)

    @cached_property
    def _shapes(self) -> dict[str, GemmShape]:
        return {}

    def shape_of(self, operation: Operation) -> GemmShape:
        """The shape by which a device's speed for this operation is looked up."""
        found = self._shapes.get(operation.result)
        if found is None:  # That of a segment is asked for with every report, and takes a while.
            found = self._shapes[operation.result] = work_shape(operation, self.types)
        return found

    def flops_of(self, operation: Operation) -> float:
        """The work of an operation; of a chain, that of its order with the fewest operations."""
        return work_flops(operation, self.types)

    @cached_property
    def flops(self) -> float:
        return sum(self.flops_of(operation) for operation in self.operations)


def gemm_program(operands: tuple[Operand, ...], kind: Gemm | Batched, result: str = "C") -> Program:
    """The program of one product, or of a stack of them; the result is called `result`."""
    names = tuple(operand.name for operand in operands)
    return Program(unique(operands), (Operation(result, names, kind),), (result,))


def chain_program(
    operands: tuple[Operand, ...], kind: Chain | None = None, result: str = "C"
) -> Program:
    """The program of one chain of products (job kind "chain"); the result is called `result`."""
    names = tuple(operand.name for operand in operands)
    return Program(unique(operands), (Operation(result, names, kind or Chain()),), (result,))


def unique(operands: tuple[Operand, ...]) -> tuple[Operand, ...]:
    """Operands without those that are there already: one may be used twice by an operation. Two
    that only have the same name are two, and somebody's mistake."""
    return tuple({id(operand): operand for operand in operands}.values())


def _check_operand(operand: Operand) -> None:
    operand.type.check(operand.name)
    if operand.inline is None and not operand.matrix_id:
        raise InvalidInput(f"operand {operand.name!r} has neither a matrix id nor bytes")
    if operand.inline is not None and len(operand.inline) != operand.type.size_bytes:
        raise InvalidInput(
            f"operand {operand.name!r} is {operand.type}: {operand.type.size_bytes} bytes, "
            f"but {len(operand.inline)} came"
        )


def _define(types: dict[str, MatrixType], name: str, matrix: MatrixType) -> None:
    if not name or len(name) > MAX_NAME or not name.isprintable():
        raise InvalidInput(f"name {name[:MAX_NAME]!r} must be 1 to {MAX_NAME} printable characters")
    if name in types:
        raise InvalidInput(f"name {name!r} is assigned twice")
    matrix.check(name)
    types[name] = matrix
