"""An epoch that several devices share: each works a part of every batch, all move alike.

A device's *part* is the columns of the state that it will write, as a share of the parameters: it
works the same share of each batch's rows. When it has the gradient of these, it waits for the sum
over all parts, and then moves all parameters by that. So weights stay where they are, and only
gradients travel. Losses and gradients are sums over rows divided by the rows of the whole batch:
whatever the parts, they come to what one device has, but for rounding.

Rules of this file: everybody moves by the same bytes in the same way, so that all have the same
state to the last bit. What the sum is, and how it comes here, is not this file's affair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

from deadheat.runtime import descents
from deadheat.runtime.descending import Pass, Piece
from deadheat.runtime.operations import Descent
from deadheat.runtime.rectangles import Rectangle

Array = Any

#: Parameters of a piece that moves them: about as much as a core's cache holds of what it needs.
MOVED: Final = 1 << 15


@dataclass(frozen=True, slots=True)
class Part:
    """Columns [start, stop) of a state; the last part has those behind the parameters, too."""

    start: int
    stop: int
    parameters: int

    @staticmethod
    def of(kind: Descent, rectangle: Rectangle) -> Part:
        """Of whoever makes this part of the result."""
        return Part(rectangle.column_start, rectangle.column_stop, descents.parameters(kind))

    def rows(self, count: int) -> tuple[int, int]:
        """Which of so many rows are worked here: parts that meet have rows that meet.

        >>> Part(0, 30, 100).rows(8), Part(30, 110, 100).rows(8)
        ((0, 2), (2, 8))
        """
        edges = (min(edge, self.parameters) for edge in (self.start, self.stop))
        first, last = (count * edge // self.parameters for edge in edges)
        return first, last


@dataclass(frozen=True, slots=True)
class Given:
    """What a device has of one step: its gradient is there, and this is the sum of its losses."""

    step: int
    loss: float


class _Phase(Enum):
    ROWS = "rows"
    GRADIENTS = "gradients"
    #: Of others: there are no pieces meanwhile.
    AWAITED = "awaited"
    MOVES = "moves"


@dataclass(eq=False)
class SharedPass(Pass):
    """`out` is the whole state, which nobody else has; at the end its columns of `part` go to
    `result`. `work.gradient` and `total` are where gradients leave and sums arrive. When it is
    `given`, there are no pieces until the sum has been `taken`."""

    part: Part
    result: Array
    total: Array
    given: Given | None = field(init=False, default=None)
    _phase: _Phase = field(init=False, default=_Phase.MOVES)
    _loss: float = field(init=False, default=0.0)

    @property
    def _rows(self) -> Array:
        first, last = self.part.rows(len(self._batch))
        return self._batch[first:last]

    @property
    def flops(self) -> float:
        """Of its own part of the epoch."""
        samples, size = len(self.parts[0]), self.kind.batch_size
        batches = [min(size, samples - at) for at in range(0, samples, size)]
        own = sum(last - first for first, last in map(self.part.rows, batches))
        return super().flops / samples * own

    def taken(self, loss: float) -> None:
        """The sum of all gradients is there, and that of all losses."""
        self.given, self._loss = None, loss

    def proceed(self) -> None:
        match self._phase:
            case _Phase.ROWS:
                self._phase, self.pieces = _Phase.GRADIENTS, self._weight_pieces()
            case _Phase.GRADIENTS:
                self._phase, self.pieces = _Phase.AWAITED, ()
                self.given = Given(self.steps, self._sum_of_losses())
            case _Phase.AWAITED:
                self._take_loss(self._loss)
                self._phase, self.pieces = _Phase.MOVES, self._move_pieces()
            case _Phase.MOVES:
                self._end_step()
                if not self.is_over:
                    self._next()

    def _next(self) -> None:
        self._phase, self.pieces = _Phase.ROWS, self._row_pieces()
        if not self.pieces:  # Of a small batch there may be no row for everybody.
            self.proceed()

    def _move_pieces(self) -> Sequence[Piece]:
        count = self.part.parameters
        return [Piece(None, at, min(count, at + MOVED), 0.0) for at in range(0, count, MOVED)]

    def do(self, piece: Piece) -> None:
        match self._phase:
            case _Phase.GRADIENTS:
                self._descend(piece)
            case _Phase.MOVES:
                self._move(piece.start, piece.stop, self.total)
            case _:
                super().do(piece)

    def record(self, seconds: float, waiting: float = 0.0, spread: float = 0.0) -> None:
        super().record(seconds, waiting, spread)
        self.result[...] = self.out[:, self.part.start : self.part.stop]
