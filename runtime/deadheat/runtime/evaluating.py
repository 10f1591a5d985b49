"""A program's results in one process, through the kernels that devices run: the reference for the
cluster, and the way to have a small program at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any

from deadheat.runtime.dtypes import numpy_dtype
from deadheat.runtime.kernels import compute_panel
from deadheat.runtime.programs import Operation, Program, Rectangle, needed_blocks
from deadheat.runtime.scratch import Scratch

Array = Any
#: The rectangles in which an operation's result is made; together they are all of it.
Cuts = Callable[[Operation, Rectangle], Iterable[Rectangle]]


def in_one_piece(operation: Operation, whole: Rectangle) -> Iterable[Rectangle]:
    del operation
    return (whole,)


def evaluate(
    xp: ModuleType, program: Program, operands: Mapping[str, Array], cuts: Cuts = in_one_piece
) -> dict[str, Array]:
    """The results that a program names, as 2-D arrays of the types it says.

    `operands` are 2-D arrays of the namespace `xp`, of the operands' types. Each is dropped when
    nothing needs it any more. Chains have to be rewritten as products before (TypeError).
    """
    values = dict(operands)
    scratch = Scratch(xp)
    last_use = {name: at for at, op in enumerate(program.operations) for name in op.operands}
    for at, operation in enumerate(program.operations):
        matrix = program.types[operation.result]
        dtype = numpy_dtype(matrix.dtype)
        if operation.result in program.results:
            made = xp.empty((matrix.rows, matrix.columns), dtype)
        else:
            made = scratch.take(matrix.rows, matrix.columns, dtype)
        for piece in cuts(operation, matrix.whole()):
            if not piece.area:
                continue
            needed = needed_blocks(operation, program.types, piece)
            parts = [_part(values[name], wanted) for name, wanted in needed]
            compute_panel(xp, operation, program.types, piece, parts, _part(made, piece))
        values[operation.result] = made
        for name in set(operation.operands):
            if last_use[name] == at and name not in program.results:
                scratch.give(values.pop(name))
    return {name: values[name] for name in program.results}


def _part(array: Array, r: Rectangle) -> Array:
    return array[r.row_start : r.row_stop, r.column_start : r.column_stop]
