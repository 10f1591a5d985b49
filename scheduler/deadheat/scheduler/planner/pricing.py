"""Prices: what a rectangle of an operation's result costs on each device, in seconds and bytes.

A device that makes h x w of a product fetches h rows of op(A) and w columns of op(B) (unless it has
them), computes h * w elements, and sends them back:

    finish = ready + launch + latency + transfer + compute

Where blocks travel while others are computed, columns of op(B) come before all else; then a device
computes as soon as the first rows are there, while the other rows come and results go:

    finish = ready + launch + latency + columns
             + max(rows and results, first rows + compute + last results)

All devices that are
not on the store's host share the store's one port: while all of them fetch each gets an equal part
of it, or as much as its own link takes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from deadheat.runtime import descents
from deadheat.runtime.programs import (
    Batched,
    Binary,
    Cast,
    Chain,
    Descent,
    Gemm,
    GemmShape,
    Operation,
    Program,
    Rectangle,
    Segment,
    Slice,
    Softmax,
    Sum,
    SumAlong,
    Transpose,
    Unary,
    needed_blocks,
    read_by_rows,
)
from deadheat.runtime.windows import Windowed
from deadheat.scheduler.planner.pool import Floats, Integers, Pool

#: So many rows are enough to begin with, and so many bytes of a result go when all is computed (the
#: agents' rules).
FIRST_ROWS: Final = 256
LAST_BYTES: Final = 4 << 20


@dataclass(frozen=True, eq=False)
class Costs:
    """Seconds and bytes of one rectangle for each device."""

    finish_s: Floats
    transfer_s: Floats
    compute_s: Floats
    bytes_in: Integers
    bytes_out: Integers


@dataclass(frozen=True, eq=False)
class Prices:
    """What each device asks for one piece of work. Bytes are 0 for what need not travel."""

    pool: Pool
    shape: GemmShape
    #: Bytes for each row, each column, each element that it gets and each that it sends.
    row_bytes: Floats
    column_bytes: Floats
    cell_bytes: Floats
    out_bytes: Floats
    #: The same as if it held nothing and were far away: what its memory has to take.
    memory_bytes: tuple[float, float, float]
    flops_per_element: float
    bandwidth: Floats

    @property
    def start_s(self) -> Floats:
        far = np.where(self.pool.is_local, 0.0, self.pool.latency_s)
        return self.pool.ready_s + self.pool.launch_s + far

    @property
    def is_far(self) -> bool:
        return not bool(self.pool.is_local.all())

    def costs(self, heights: Floats, widths: Floats, rates: Floats) -> Costs:
        return self.costs_from(self.start_s, heights, widths, self.pool.effective(rates))

    def costs_from(self, start_s: Floats, heights: Floats, widths: Floats, speeds: Floats) -> Costs:
        """The same for devices that begin then, at these speeds."""
        area = heights * widths
        columns = widths * self.column_bytes
        by_rows = heights * self.row_bytes + area * self.cell_bytes
        out = area * self.out_bytes
        compute_s = area * self.flops_per_element / speeds
        columns_s, along_s = columns / self.bandwidth, (by_rows + out) / self.bandwidth
        first_s = by_rows / self.bandwidth * np.minimum(1.0, FIRST_ROWS / np.maximum(heights, 1.0))
        edges_s = first_s + np.minimum(out, LAST_BYTES) / self.bandwidth
        together_s = np.where(
            self.pool.overlaps, np.maximum(along_s, edges_s + compute_s), along_s + compute_s
        )
        return Costs(
            start_s + columns_s + together_s,
            columns_s + along_s,
            compute_s,
            (columns + by_rows).astype(np.int64),
            out.astype(np.int64),
        )

    def cell_s(self, rates: Floats) -> tuple[Floats, Floats]:
        """Seconds of each device to move an element, and to compute it, its row and column being
        there."""
        move_s: Floats = (self.cell_bytes + self.out_bytes) / self.bandwidth
        return move_s, self.flops_per_element / self.pool.effective(rates)

    def of(self, used: Integers) -> Prices:
        """Those of some of the devices."""
        return Prices(
            self.pool.take(used),
            self.shape,
            self.row_bytes[used],
            self.column_bytes[used],
            self.cell_bytes[used],
            self.out_bytes[used],
            self.memory_bytes,
            self.flops_per_element,
            self.bandwidth[used],
        )

    def rates(self, heights: Floats, widths: Floats) -> Floats:
        return self.pool.rates_each(heights, widths, self.shape)

    def rows_that_fit(self, widths: Floats, devices: Integers | None = None) -> Integers:
        """How many rows of so many columns a device's memory holds, operands and result."""
        row, column, cell = self.memory_bytes
        memory = self.pool.memory_bytes
        room = (memory if devices is None else memory[devices]) - widths * column
        each = np.maximum(1.0, row + widths * cell)
        return np.clip(room // each, 0, self.shape.rows).astype(np.int64)

    def area_that_fits(self, most: int) -> Integers:
        """How large a square of the result a device's memory holds, operands and result: the side
        h solves cell * h^2 + (row + column) * h = memory."""
        row, column, cell = self.memory_bytes
        half, memory = (row + column) / 2, np.maximum(0, self.pool.memory_bytes).astype(np.float64)
        side = memory / (half + np.sqrt(half * half + cell * memory))
        return np.floor(np.minimum(side * side, float(most))).astype(np.int64)

    def shared_port(self, heights: Floats, widths: Floats) -> Prices:
        """The same when these rectangles (0 for none) are fetched at once through the store's one
        port: each device's link becomes as slow as it is on the average meanwhile."""
        links, port = self.pool.bandwidth_bytes_per_s, self.pool.store_bytes_per_s
        into = (heights * self.row_bytes + widths * self.column_bytes) * (heights > 0)
        into += heights * widths * self.cell_bytes
        far = into > 0
        if not far.any() or float(links[far].sum()) <= port:
            return replace(self, bandwidth=links)
        given = np.array(links, copy=True)
        given[far] = into[far] / shared_port_s(into[far], links[far], port)
        # One that is not used now would get a part like any other.
        rest = ~far & ~self.pool.is_local
        given[rest] = np.minimum(links[rest], port / (far.sum() + 1))
        return replace(self, bandwidth=given)


def shared_port_s(sizes: Floats, links: Floats, port: float) -> Floats:
    """Seconds of transfers that begin together and share a port evenly, none faster than its link.

    Processor sharing: in order of size, the k-th ends when all before it have got their bytes and
    those that are left have got as many as it.
    """
    order = np.argsort(sizes, kind="stable")
    rising = sizes[order]
    steps = np.diff(np.concatenate([[0.0], rising])) * (len(sizes) - np.arange(len(sizes)))
    found = np.empty_like(rising)
    found[order] = np.cumsum(steps) / port
    return np.maximum(found, sizes / links)


def price(program: Program, operation: Operation, rectangle: Rectangle, pool: Pool) -> Prices:
    """Prices of a rectangle of one operation's result."""
    if not read_by_rows(operation, program.types)[0]:  # No row of it is whole before all of it is.
        pool = pool.without_overlap()
    whole = program.shape_of(operation)
    shape = replace(whole, rows=rectangle.rows, columns=rectangle.columns)
    result = program.types[operation.result]
    by_row, by_column, by_cell = _operands(program, operation)
    far = ~pool.is_local
    out = float(result.element.itemsize)
    return Prices(
        pool=pool,
        shape=shape,
        row_bytes=_missing(program, by_row, pool),
        column_bytes=_missing(program, by_column, pool),
        cell_bytes=_missing(program, by_cell, pool),
        out_bytes=np.where(far, out, 0.0),
        memory_bytes=memory_sizes(program, operation),
        flops_per_element=whole.flops / max(1, whole.rows * whole.columns),
        bandwidth=pool.bandwidth_bytes_per_s,
    )


def memory_sizes(program: Program, operation: Operation) -> tuple[float, float, float]:
    """Bytes that a device needs for each row, each column and each element of a rectangle of an
    operation's result: operands and result, if it maps nothing of the store's."""
    row, column, cell = (sum(size for _, size in part) for part in _operands(program, operation))
    if isinstance(kind := operation.kind, Descent):
        work_bytes = descents.work_bytes(kind, program.types[operation.operands[0]])
        column += work_bytes / program.types[operation.result].columns
    return row, column, cell + program.types[operation.result].element.itemsize


_Part = list[tuple[str, float]]


def _operands(program: Program, operation: Operation) -> tuple[_Part, _Part, _Part]:
    """Bytes of each operand for a row, for a column, and for an element of the result."""
    names, types = operation.operands, program.types
    sizes = [float(types[name].element.itemsize) for name in names]
    match operation.kind:
        case Gemm():
            inner = program.shape_of(operation).inner
            by_row: _Part = [(names[0], inner * sizes[0])]
            by_column: _Part = [(names[1], inner * sizes[1]), *zip(names[2:], sizes[2:])]
            return by_row, by_column, []
        case Sum(bias=bias):
            terms = list(zip(names, sizes))
            return [], terms[-1:] if bias else [], terms[:-1] if bias else terms
        case Chain():
            raise AssertionError("a chain is rewritten as products before it is priced")
        case Binary():
            return _sides(program, operation)
        case Softmax() | SumAlong(axis=1):
            return [(names[0], types[names[0]].columns * sizes[0])], [], []
        case SumAlong(block=block):
            rows = types[names[0]].rows
            return [], [], [(names[0], min(rows, block or rows) * sizes[0])]
        case Unary() | Cast() | Transpose() | Slice():
            return [], [], [(names[0], sizes[0])]
        case kind:
            return _in_blocks(program, operation, kind)


def _in_blocks(
    program: Program, operation: Operation, kind: Batched | Windowed | Segment | Descent
) -> tuple[_Part, _Part, _Part]:
    match kind:
        case Batched():
            return _batched(program, operation)
        case Descent():
            return [], _whole_blocks(program, operation), []
        case _:
            return _along_rows(program, operation)


def _sides(program: Program, operation: Operation) -> tuple[_Part, _Part, _Part]:
    """Of an element-wise operation either side may be one row, one column, or one element."""
    by_row: _Part = []
    by_column: _Part = []
    by_cell: _Part = []
    for name in operation.operands:
        matrix = program.types[name]
        size = float(matrix.element.itemsize)
        if matrix.rows > 1 and matrix.columns > 1:
            by_cell.append((name, size))
        elif matrix.rows > 1:
            by_row.append((name, size))
        elif matrix.columns > 1:
            by_column.append((name, size))
    return by_row, by_column, by_cell


def _batched(program: Program, operation: Operation) -> tuple[_Part, _Part, _Part]:
    """Rows of A, and of each product's B: a product's rows share one, and whoever makes some of
    them needs all of it. So B is counted in parts of an element."""
    names, types = operation.operands, program.types
    rows = max(1, types[operation.result].rows)
    sizes = [types[name].element.itemsize for name in names]
    by_row: _Part = [(names[0], float(types[names[0]].columns * sizes[0]))]
    by_cell: _Part = [(names[1], types[names[1]].rows * sizes[1] / rows)]
    return by_row, [*zip(names[2:], map(float, sizes[2:]))], by_cell


def _along_rows(program: Program, operation: Operation) -> tuple[_Part, _Part, _Part]:
    """A segment or a convolution is cut in rows only: what all rows need is counted in parts of its
    columns, since whoever makes a row makes all of it."""
    types = program.types
    whole = types[operation.result].whole()
    by_row: _Part = []
    by_column: _Part = []
    first = needed_blocks(operation, types, whole.with_rows(0, 1))
    last = needed_blocks(operation, types, whole.with_rows(whole.row_stop - 1, whole.row_stop))
    for (name, part), (_, other) in zip(first, last):
        size = types[name].element.itemsize
        if part == other:
            by_column.append((name, part.area * size / whole.columns))
        else:
            by_row.append((name, float(part.area * size)))
    return by_row, by_column, []


def _whole_blocks(program: Program, operation: Operation) -> _Part:
    """What whoever makes the result needs, all of it, counted in parts of its columns."""
    types, result = program.types, program.types[operation.result]
    return [
        (name, part.area * types[name].element.itemsize / result.columns)
        for name, part in needed_blocks(operation, types, result.whole())
    ]


def _missing(program: Program, parts: Iterable[tuple[str, float]], pool: Pool) -> Floats:
    found = np.zeros(len(pool))
    for name, size in parts:
        found += np.where(pool.holds(id_of(program, name)), 0.0, size)
    return found


def id_of(program: Program, name: str) -> str:
    """The id by which a device knows a matrix of a program."""
    operand = program.sources.get(name)
    return operand.matrix_id if operand else name
