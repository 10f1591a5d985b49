"""A program: operations in SSA form over named matrices, checked before anything is allocated.

Rules of this file: values only, no I/O and no NumPy; a `Program` that exists has been checked, so
its readers never check again; what is wrong is said with the field, the value and the limit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import Final

from deadheat.runtime.dtypes import ElementType, element_type
from deadheat.runtime.errors import InvalidInput

#: A program is planned whole, so its length is bounded; a training step needs a few hundred.
MAX_OPERATIONS: Final = 10_000
#: Sizes and offsets travel as signed 64-bit numbers.
MAX_BYTES: Final = (1 << 63) - 1
#: Names are printed and logged; long or odd ones are somebody's mistake or attack.
MAX_NAME: Final = 128
#: Stands for the id of an operand that is in no store (yet): such a program is only looked at.
UNSENT: Final = "unsent"


@dataclass(frozen=True, slots=True)
class MatrixType:
    """A row-major matrix without gaps: `rows` by `columns` elements of `dtype`."""

    rows: int
    columns: int
    dtype: str

    @property
    def element(self) -> ElementType:
        return element_type(self.dtype)

    @property
    def size_bytes(self) -> int:
        return self.rows * self.columns * self.element.itemsize

    @property
    def row_bytes(self) -> int:
        return self.columns * self.element.itemsize

    def transposed(self) -> MatrixType:
        return MatrixType(self.columns, self.rows, self.dtype)

    def whole(self) -> Rectangle:
        return Rectangle(0, self.rows, 0, self.columns)

    def check(self, name: str) -> None:
        """Raises InvalidInput for negative sizes and for more than 2^63 - 1 bytes."""
        element_type(self.dtype, field=name)
        if self.rows < 0 or self.columns < 0:
            raise InvalidInput(f"{name} is {self}; sizes cannot be negative", field=name)
        if self.size_bytes > MAX_BYTES:
            raise InvalidInput(
                f"{name} is {self}: {self.size_bytes} bytes; the limit is {MAX_BYTES}", field=name
            )

    def __str__(self) -> str:
        return f"{self.rows} x {self.columns} {self.dtype}"


@dataclass(frozen=True, slots=True, order=True)
class Rectangle:
    """Rows [row_start, row_stop) and columns [column_start, column_stop)."""

    row_start: int
    row_stop: int
    column_start: int
    column_stop: int

    @property
    def rows(self) -> int:
        return self.row_stop - self.row_start

    @property
    def columns(self) -> int:
        return self.column_stop - self.column_start

    @property
    def area(self) -> int:
        return self.rows * self.columns

    def with_rows(self, row_start: int, row_stop: int) -> Rectangle:
        return Rectangle(row_start, row_stop, self.column_start, self.column_stop)

    def is_within(self, matrix: MatrixType) -> bool:
        return (
            0 <= self.row_start <= self.row_stop <= matrix.rows
            and 0 <= self.column_start <= self.column_stop <= matrix.columns
        )

    def __str__(self) -> str:
        columns = f"{self.column_start}:{self.column_stop}"
        return f"[{self.row_start}:{self.row_stop}, {columns}]"


def uncovered(whole: Rectangle, taken: Iterable[Rectangle]) -> list[Rectangle]:
    """What is left of a rectangle when others (that may reach beyond it) are taken out of it."""
    left = [whole] if whole.area else []
    for hole in taken:
        left = [piece for rectangle in left for piece in _without(rectangle, hole)]
    return left


def merged(pieces: Iterable[Rectangle]) -> tuple[Rectangle, ...]:
    """The same area in fewer rectangles: neighbours with the same columns become one."""
    found: list[Rectangle] = []
    for piece in sorted(pieces, key=lambda r: (r.column_start, r.column_stop, r.row_start)):
        last = found[-1] if found else None
        same = last and (last.column_start, last.column_stop) == (
            piece.column_start,
            piece.column_stop,
        )
        if last and same and last.row_stop == piece.row_start:
            found[-1] = last.with_rows(last.row_start, piece.row_stop)
        else:
            found.append(piece)
    return tuple(sorted(found))


def _without(r: Rectangle, hole: Rectangle) -> Iterator[Rectangle]:
    top, bottom = max(r.row_start, hole.row_start), min(r.row_stop, hole.row_stop)
    left = max(r.column_start, hole.column_start)
    right = min(r.column_stop, hole.column_stop)
    if top >= bottom or left >= right:
        yield r
        return
    pieces = (
        r.with_rows(r.row_start, top),
        Rectangle(top, bottom, r.column_start, left),
        Rectangle(top, bottom, right, r.column_stop),
        r.with_rows(bottom, r.row_stop),
    )
    yield from (piece for piece in pieces if piece.area)


class Activation(Enum):
    """What is applied to each element of a product; `GELU` is the exact form, with erf."""

    NONE = "none"
    RELU = "relu"
    GELU = "gelu"
    GELU_TANH = "gelu_tanh"
    TANH = "tanh"
    SIGMOID = "sigmoid"


@dataclass(frozen=True, slots=True)
class Gemm:
    """`activation(alpha * op(A) @ op(B) + bias)`; operands in the order A, B[, bias]."""

    transpose_a: bool = False
    transpose_b: bool = False
    alpha: float = 1.0
    activation: Activation = Activation.NONE


@dataclass(frozen=True, slots=True)
class Operation:
    """One step: `result = kind(*operands)`."""

    result: str
    operands: tuple[str, ...]
    kind: Gemm


@dataclass(frozen=True, slots=True)
class Operand:
    """An input: its bytes if it is small, else the id of a sealed matrix in the store."""

    name: str
    type: MatrixType
    matrix_id: str = ""
    inline: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class GemmShape:
    """The sizes of one product, C (rows x columns) = A (rows x inner) @ B (inner x columns)."""

    rows: int
    inner: int
    columns: int
    dtype: str

    @property
    def flops(self) -> float:
        steps = float(self.rows) * self.inner * self.columns
        return steps * element_type(self.dtype).flops_per_step

    def with_rows(self, rows: int) -> GemmShape:
        return GemmShape(rows, self.inner, self.columns, self.dtype)


@dataclass(frozen=True)
class Program:
    """Operations over operands; building one checks it whole (raises InvalidInput)."""

    operands: tuple[Operand, ...]
    operations: tuple[Operation, ...]
    results: tuple[str, ...]

    def __post_init__(self) -> None:
        # Computing the types is the check; the properties keep what it found.
        _ = self.types
        for name in self.results:
            if name not in {operation.result for operation in self.operations}:
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
            given = [types[name] for name in operation.operands]
            _define(types, operation.result, _gemm_type(operation, given))
        return types

    @cached_property
    def sources(self) -> Mapping[str, Operand]:
        return {operand.name: operand for operand in self.operands}

    def shape_of(self, operation: Operation) -> GemmShape:
        result = self.types[operation.result]
        first = self.types[operation.operands[0]]
        inner = first.rows if operation.kind.transpose_a else first.columns
        return GemmShape(result.rows, inner, result.columns, result.dtype)

    @cached_property
    def flops(self) -> float:
        return sum(self.shape_of(operation).flops for operation in self.operations)


def gemm_program(operands: tuple[Operand, ...], kind: Gemm, result: str = "C") -> Program:
    """The program of one product; the result is called `result`."""
    names = tuple(operand.name for operand in operands)
    return Program(operands, (Operation(result, names, kind),), (result,))


def needed_blocks(
    operation: Operation, types: Mapping[str, MatrixType], rectangle: Rectangle
) -> Iterator[tuple[str, Rectangle]]:
    """The part of each operand that `rectangle` of the operation's result needs."""
    kind, names = operation.kind, operation.operands
    rows = (rectangle.row_start, rectangle.row_stop)
    columns = (rectangle.column_start, rectangle.column_stop)
    a, b = types[names[0]], types[names[1]]
    whole_a = (0, a.rows) if kind.transpose_a else (0, a.columns)
    whole_b = (0, b.columns) if kind.transpose_b else (0, b.rows)
    yield names[0], Rectangle(*whole_a, *rows) if kind.transpose_a else Rectangle(*rows, *whole_a)
    yield (
        names[1],
        Rectangle(*columns, *whole_b) if kind.transpose_b else Rectangle(*whole_b, *columns),
    )
    if len(names) == 3:
        yield names[2], Rectangle(0, 1, *columns)


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


def _gemm_type(operation: Operation, given: list[MatrixType]) -> MatrixType:
    kind, names = operation.kind, operation.operands
    if len(given) not in (2, 3):
        raise InvalidInput(f"{operation.result!r}: a product has 2 or 3 operands, not {len(given)}")
    a = given[0].transposed() if kind.transpose_a else given[0]
    b = given[1].transposed() if kind.transpose_b else given[1]
    if a.columns != b.rows:
        raise InvalidInput(
            f"{names[0]!r} is {a.rows} x {a.columns} and {names[1]!r} is {b.rows} x {b.columns}: "
            f"inner sizes {a.columns} and {b.rows} differ"
        )
    if len({matrix.dtype for matrix in given}) > 1:
        dtypes = ", ".join(f"{name!r} {matrix.dtype}" for name, matrix in zip(names, given))
        raise InvalidInput(f"operands of {operation.result!r} must share one dtype: {dtypes}")
    if len(given) == 3 and (given[2].rows, given[2].columns) != (1, b.columns):
        raise InvalidInput(
            f"bias {names[2]!r} is {given[2].rows} x {given[2].columns}; it must be 1 x {b.columns}"
        )
    if kind.alpha != 1.0 and a.element.is_exact:
        raise InvalidInput(f"alpha is {kind.alpha}; products of {a.dtype} take alpha = 1 only")
    if kind.activation is not Activation.NONE and not a.element.is_float:
        raise InvalidInput(f"activation {kind.activation.value} needs a real float, not {a.dtype}")
    return MatrixType(a.rows, b.columns, a.dtype)
