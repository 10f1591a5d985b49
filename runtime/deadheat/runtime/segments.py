"""Segments: operations on the same rows as one, so that no device waits for another in between.

Rules of this file: a segment is made of operations, so whatever is asked of it is asked of them, by
`rules`, which in turn asks here (the two modules are one set of rules). What a rectangle of the
result needs is found backwards, operation by operation, for any rectangle: a cut can make a segment
slow (columns are computed twice), but not wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from deadheat.runtime import rules
from deadheat.runtime.errors import InvalidInput
from deadheat.runtime.operations import Operation, Segment, Slice
from deadheat.runtime.rectangles import MatrixType, Rectangle

#: A device cannot stop in the middle of a segment's band, and keeps all of its operands.
MAX_SEGMENT: Final = 256

Types = Mapping[str, MatrixType]


def all_types(kind: Segment, types: Types) -> Types:
    """The types of the operands, and of what each operation makes."""
    found = dict(types)
    for one in kind.operations:
        found[one.result] = rules.result_type(one, found)
    return found


def result_type(operation: Operation, kind: Segment, types: Types) -> MatrixType:
    """The type of the last operation's result; raises InvalidInput where a row of some operation
    is not made of the same row, or of what all rows need."""
    name = operation.result
    if not 2 <= len(kind.operations) <= MAX_SEGMENT:
        raise InvalidInput(
            f"{name!r}: a segment has 2 to {MAX_SEGMENT} operations, not {len(kind.operations)}"
        )
    if kind.operations[-1].result != name or operation.operands != outside(kind.operations):
        raise InvalidInput(f"segment {name!r} does not name what its operations read and make")
    known = {operand: types[operand] for operand in operation.operands}
    for one in kind.operations:
        if one.result in known:
            raise InvalidInput(f"segment {name!r}: name {one.result!r} is assigned twice")
        # A slice may start at any row of what comes from outside: rows are counted from there.
        is_start = isinstance(one.kind, Slice) and one.operands[0] in operation.operands
        if not (is_start or rules.is_row_local(one)):
            raise InvalidInput(f"segment {name!r}: {one.result!r} does not go row by row")
        known[one.result] = rules.result_type(one, known)
        known[one.result].check(one.result)
    made = known[name]
    inner = {one.result for one in kind.operations}
    used = {part for one in kind.operations for part in one.operands}
    if len(used & inner) != len(inner) - 1 or any(known[part].rows != made.rows for part in inner):
        raise InvalidInput(f"segment {name!r}: its operations are not all on the same rows")
    for one in kind.operations:
        if not all(reads_rows(one, known, part) for part in {*one.operands} & inner):
            raise InvalidInput(f"segment {name!r}: {one.result!r} needs all rows of another")
    return made


def outside(operations: tuple[Operation, ...]) -> tuple[str, ...]:
    """What operations read that none of them makes, in the order of its first use."""
    made = {one.result for one in operations}
    names = (name for one in operations for name in one.operands)
    return tuple(dict.fromkeys(name for name in names if name not in made))


def reads_rows(operation: Operation, types: Types, name: str) -> bool:
    """Whether a row of an operation's result needs the same row of this operand, and no other."""
    made = types[operation.result].whole()
    rows = (made.row_start, min(1, made.row_stop))
    blocks = rules.needed_blocks(operation, types, made.with_rows(*rows))
    last = (max(0, made.row_stop - 1), made.row_stop)
    last_blocks = rules.needed_blocks(operation, types, made.with_rows(*last))
    return all(
        (first.row_start, first.row_stop, end.row_start, end.row_stop) == (*rows, *last)
        for (read, first), (_, end) in zip(blocks, last_blocks)
        if read == name
    )


def read_by_rows(operation: Operation, kind: Segment, types: Types) -> tuple[bool, ...]:
    """For each operand, whether a row of the result needs only the same row of it."""
    found = dict.fromkeys(operation.operands, True)
    known = all_types(kind, types)
    for one in kind.operations:
        for name, is_by_rows in zip(one.operands, rules.read_by_rows(one, known)):
            if not is_by_rows and name in found:
                found[name] = False
    return tuple(found.values())


def needs(kind: Segment, types: Types, rectangle: Rectangle) -> dict[str, Rectangle]:
    """What a rectangle of the result needs of everything; `types` are those of everything."""
    found = {kind.operations[-1].result: rectangle}
    for one in reversed(kind.operations):
        for name, part in rules.needed_blocks(one, types, found[one.result]):
            found[name] = _around(found[name], part) if name in found else part
    return found


def _around(one: Rectangle, other: Rectangle) -> Rectangle:
    """The smallest rectangle that holds both."""
    return Rectangle(
        min(one.row_start, other.row_start),
        max(one.row_stop, other.row_stop),
        min(one.column_start, other.column_start),
        max(one.column_stop, other.column_stop),
    )
