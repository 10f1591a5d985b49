"""Joining: operations on the same rows become one segment, without barriers between them.

Rules of this file: pure, and deterministic; what may be joined is a matter of the program alone,
and whether it pays is one of the pool (see `segmenting`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from deadheat.runtime.programs import Operation, Program, Segment, Slice, is_row_local
from deadheat.runtime.segments import MAX_SEGMENT, outside, reads_rows


def segments(program: Program, apart: Collection[str] = ()) -> list[tuple[int, ...]]:
    """The numbers of operations that may be one segment each, two or more, ascending.

    From the last operation to the first: one joins the segment of those that use its result if

    - a row of its result needs of each operand the same row, or what all rows need (or it is a
      slice of what comes from outside of the segment, which only counts rows from elsewhere),
    - its result has the rows of the segment's result, of which there are several,
    - all that use it are in that one segment, and need of its row r only for their row r,
    - the user does not want its result.

    So what a segment makes besides its result is used nowhere else, and never leaves a device.
    Results of operations in `apart` are left alone. A segment ends where rows mix: those are the
    barriers that stay.

    >>> from deadheat.runtime.programs import Gemm, MatrixType, Operand
    >>> x, w = (Operand(name, MatrixType(9, 9, "float64"), name) for name in "xw")
    >>> h, y = Operation("h", ("x", "w"), Gemm()), Operation("y", ("h", "w"), Gemm())
    >>> segments(Program((x, w), (h, y), ("y",)))
    [(0, 1)]
    >>> segments(Program((x, w), (h, y), ("h", "y")))
    []
    """
    users: dict[str, list[int]] = {}
    for number, operation in enumerate(program.operations):
        for name in {*operation.operands}:
            users.setdefault(name, []).append(number)
    # The last operation of the segment that each one is in, and all of each segment.
    last_of: dict[int, int] = {}
    members: dict[int, list[int]] = {}
    for number in range(len(program.operations) - 1, -1, -1):
        operation = program.operations[number]
        if operation.result in apart:
            continue
        using = users.get(operation.result, [])
        lasts = {last_of.get(user) for user in using}
        last = lasts.pop() if len(lasts) == 1 else None
        is_inside = last is not None and _may_join(program, operation, using, last)
        if last is not None and is_inside and len(members[last]) < MAX_SEGMENT:
            last_of[number] = last
            members[last].append(number)
        elif is_row_local(operation):
            last_of[number] = number
            members[number] = [number]
    return [tuple(sorted(found)) for _, found in sorted(members.items()) if len(found) > 1]


def _may_join(program: Program, operation: Operation, users: Sequence[int], last: int) -> bool:
    """Whether an operation may be in the segment that ends with `last`, as all its users are."""
    rows = program.types[program.operations[last].result].rows
    if operation.result in program.results or rows < 2:
        return False
    if program.types[operation.result].rows != rows:
        return False
    if not (is_row_local(operation) or isinstance(operation.kind, Slice)):
        return False
    for user in (program.operations[number] for number in users):
        # What a slice is of comes from outside.
        is_slice = isinstance(user.kind, Slice)
        if is_slice or not reads_rows(user, program.types, operation.result):
            return False
    return True


def joined(program: Program, found: Sequence[Sequence[int]]) -> Program:
    """The program with each of these groups of operations as one segment, in the last one's place.

    That is late enough, since operands come before those that use them, and early enough, since
    only the last result is used outside.
    """
    inside = {number: group for group in found for number in group}
    made = []
    for number, operation in enumerate(program.operations):
        group = inside.get(number)
        if group is None:
            made.append(operation)
        elif number == group[-1]:
            operations = tuple(program.operations[member] for member in group)
            made.append(Operation(operation.result, outside(operations), Segment(operations)))
    return Program(program.operands, tuple(made), program.results)
