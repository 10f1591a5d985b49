"""Types of matrices and rectangles in them: values only, no I/O and no NumPy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from deadheat.runtime.dtypes import ElementType, element_type
from deadheat.runtime.errors import InvalidInput

#: Sizes and offsets travel as signed 64-bit numbers.
MAX_BYTES: Final = (1 << 63) - 1


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

    def relative_to(self, home: Rectangle) -> Rectangle:
        """The same place in a matrix that is `home` alone."""
        return Rectangle(
            self.row_start - home.row_start,
            self.row_stop - home.row_start,
            self.column_start - home.column_start,
            self.column_stop - home.column_start,
        )

    def is_within(self, matrix: MatrixType) -> bool:
        return (
            0 <= self.row_start <= self.row_stop <= matrix.rows
            and 0 <= self.column_start <= self.column_stop <= matrix.columns
        )

    def is_inside(self, other: Rectangle) -> bool:
        return (
            other.row_start <= self.row_start
            and self.row_stop <= other.row_stop
            and other.column_start <= self.column_start
            and self.column_stop <= other.column_stop
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
