"""Forward passes that can be served: rows of several callers go through one job.

Rules of this file: a row of the result must need the same row of the samples and no other, so that
no caller sees, or is changed by, what another one sends. That is proven from the program's rules
when the model is saved. A pass of several operations is one segment: no barrier, and no result in
between that would have to be kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from deadheat.runtime.errors import InvalidInput
from deadheat.runtime.programs import UNSENT, MatrixType, Operand, Operation, Program, Segment
from deadheat.runtime.rules import is_row_local
from deadheat.runtime.segments import all_types, outside, reads_rows
from deadheat.runtime.units import MIB, format_bytes

#: Samples, results and all that is between of one batch: they travel inline, and the message of a
#: sub-task may have 3 MiB.
MAX_BATCH_BYTES: Final = MIB
#: Beyond this, rows gain nothing from company: the product is bound by arithmetic.
MAX_BATCH_ROWS: Final = 1024
#: Numbers of rows with which a program is looked at: it must not depend on there being one.
_TRIED_ROWS: Final = (1, 3)


@dataclass(frozen=True)
class Pass:
    """A model's forward pass, for any number of rows."""

    program: Program
    #: Its operand that rows come as.
    samples: str
    #: Rows that fit into a batch.
    max_rows: int

    @property
    def row(self) -> MatrixType:
        """The type of one row of samples."""
        return replace(self.program.types[self.samples], rows=1)

    @property
    def outputs(self) -> MatrixType:
        """The type of one row of the result."""
        return replace(self.program.types[self.program.results[0]], rows=1)

    @property
    def stored(self) -> list[Operand]:
        """The parameters among the operands."""
        return [
            one for one in self.program.operands if one.inline is None and one.name != self.samples
        ]

    def of(self, rows: int, data: bytes) -> Program:
        """The program of a batch: so many rows, and their bytes."""
        return _with_samples(self.program, self.samples, rows, data)


def served(program: Program, samples: str) -> Pass:
    """The pass of a program whose operand `samples` are rows (of any number).

    Raises InvalidInput where rows of callers would mix, or one of them is too large.
    """
    if samples not in program.sources:
        raise InvalidInput(f"program has no operand {samples!r}", field="samples")
    if len(program.results) != 1:
        raise InvalidInput(f"program has {len(program.results)} results; it must have one")
    joined = _joined(program)
    for rows in _TRIED_ROWS:
        made = _with_samples(joined, samples, rows, None)
        (operation,) = made.operations
        if made.types[operation.result].rows != rows:
            raise InvalidInput(
                f"{rows} rows of samples make {made.types[operation.result].rows} rows; a model "
                "that is served makes one of each"
            )
        # With one row there is nothing to mix.
        if rows > 1 and not (_goes_by_rows(operation) and _reads(operation, made, samples)):
            raise InvalidInput("a row of the result needs other rows of the samples than its own")
    row_bytes = _row_bytes(_with_samples(joined, samples, 1, None), samples)
    if row_bytes > MAX_BATCH_BYTES:
        raise InvalidInput(
            f"one row of samples, and what it becomes, has {format_bytes(row_bytes)}; the limit "
            f"for a model that is served is {format_bytes(MAX_BATCH_BYTES)}"
        )
    max_rows = min(MAX_BATCH_ROWS, MAX_BATCH_BYTES // row_bytes)
    return Pass(_with_samples(joined, samples, 1, None), samples, max_rows)


def _joined(program: Program) -> Program:
    """All operations as one."""
    operations = program.operations
    if len(operations) == 1:
        return program
    if operations[-1].result != program.results[0]:
        raise InvalidInput(f"program ends with {operations[-1].result!r}, which is not its result")
    one = Operation(operations[-1].result, outside(operations), Segment(operations))
    return Program(program.operands, (one,), program.results)


def _with_samples(program: Program, samples: str, rows: int, data: bytes | None) -> Program:
    def changed(operand: Operand) -> Operand:
        if operand.name != samples:
            return operand
        matrix = replace(operand.type, rows=rows)
        if data is None:
            return Operand(samples, matrix, matrix_id=UNSENT)
        return Operand(samples, matrix, inline=data)

    operands = tuple(changed(operand) for operand in program.operands)
    return Program(operands, program.operations, program.results)


def _goes_by_rows(operation: Operation) -> bool:
    return isinstance(operation.kind, Segment) or is_row_local(operation)


def _reads(operation: Operation, program: Program, samples: str) -> bool:
    """Whether it needs the samples row by row, wherever it names them."""
    inner: Sequence[Operation] = (operation,)
    types = program.types
    if isinstance(operation.kind, Segment):
        inner, types = operation.kind.operations, all_types(operation.kind, types)
    users = [one for one in inner if samples in one.operands]
    return bool(users) and all(reads_rows(one, types, samples) for one in users)


def _row_bytes(program: Program, samples: str) -> int:
    """Bytes of one row and of all that it becomes."""
    (operation,) = program.operations
    types = program.types
    made = [operation.result]
    if isinstance(operation.kind, Segment):
        types = all_types(operation.kind, types)
        made = [one.result for one in operation.kind.operations]
    return max(1, sum(types[name].size_bytes for name in (samples, *made)))
