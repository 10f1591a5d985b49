"""An epoch of training as phases of pieces, which several threads may work on.

A step has two phases. First each block of the batch's rows goes forwards and backwards through the
network, which leaves for each layer what came to it and the gradient of what it made. Then each
block of a weight's rows gets its gradient, one dot product over all rows of the batch (of a
convolution, over all their windows) for each element, and is moved at once. Between phases
everybody waits: the second reads what all rows made, the next step reads all weights.

Rules of this file: pieces of one phase touch nothing of one another, and where they are cut depends
on sizes and the number of threads alone, never on time, so that a training comes out the same to
the last bit each time. Sums are made in the order of the pieces. The state is moved in place in the
result, whose operand is left as it was.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Final

from deadheat.runtime import descents, trained_layers
from deadheat.runtime.errors import InvalidInput
from deadheat.runtime.layers import LOSSES
from deadheat.runtime.operations import Descent, LayerFunction, TrainedLayer, Weighted
from deadheat.runtime.rounds import FIRST, in_one_round, in_rounds
from deadheat.runtime.trained_layers import Parameters

Array = Any

#: To move a parameter takes about as long as so many flops of a product: memory is what it needs.
MOVE_EFFORT: Final = 100.0


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows [start, stop) of the batch, or of a layer's weight (`layer` is its number among those
    with parameters); an empty one stands for its bias. Without flops, parameters to be moved."""

    layer: int | None
    start: int
    stop: int
    flops: float

    @property
    def effort(self) -> float:
        """About how much work it is, in flops of a product."""
        return self.flops or MOVE_EFFORT * (self.stop - self.start)


@dataclass(frozen=True, slots=True)
class _Stage:
    """One layer: what comes to it, what it makes, and the gradients of both, each with a row for
    each row of a batch."""

    layer: TrainedLayer
    before: Array
    after: Array
    #: None where nobody asks for it. Functions make it where that of `after` was.
    delta_before: Array | None
    delta_after: Array | None
    #: Of one with parameters: its number among them.
    number: int | None = None


@dataclass(eq=False)
class Work:
    """The memory that steps of one training need; it may serve one epoch after the other."""

    inputs: Array
    stages: Sequence[_Stage]
    gradient: Array

    @property
    def size_bytes(self) -> int:
        arrays = [self.inputs, self.gradient]
        for stage in self.stages:
            if stage.after is not stage.before:
                arrays.append(stage.after)
            if stage.delta_after is not None and stage.delta_after is not stage.delta_before:
                arrays.append(stage.delta_after)
        return sum(int(array.nbytes) for array in arrays)

    @staticmethod
    def of(xp: ModuleType, kind: Descent, samples: Array, rows: int | None = None) -> Work:
        """For a batch of these samples, or for so many rows of it; raises MemoryError."""
        rows = min(kind.batch_size, len(samples)) if rows is None else rows
        dtype, columns = samples.dtype, samples.shape[1]
        inputs = before = xp.empty((rows, columns), dtype)
        first, weighted = descents.first_weighted(kind), 0
        stages: list[_Stage] = []
        delta: Array | None = None
        for at, layer in enumerate(kind.layers):
            number, delta_before, after = None, delta, before
            if not isinstance(layer, LayerFunction):
                columns = layer.outputs
                delta = xp.empty((rows, columns), dtype) if at >= first else None
            if not trained_layers.is_in_place(kind.layers, at):
                after = xp.empty((rows, columns), dtype)
            if isinstance(layer, Weighted):
                number, weighted = weighted, weighted + 1
            stages.append(_Stage(layer, before, after, delta_before, delta, number))
            before = after
        return Work(inputs, stages, xp.empty(descents.parameters(kind), dtype))


@dataclass(eq=False)
class Pass:
    """One epoch on its way. `parts` are the operands' blocks, in the order of the operation's;
    `out` is the whole result. Whoever drives it works all `pieces`, then asks to `proceed`, until
    there are none."""

    xp: ModuleType
    kind: Descent
    parts: Sequence[Array]
    out: Array
    threads: int
    work: Work
    pieces: Sequence[Piece] = field(init=False, default=())
    is_over: bool = field(init=False, default=False)
    #: Steps that are done.
    steps: int = field(init=False, default=0)
    loss: float = field(init=False, default=0.0)
    _losses: dict[int, float] = field(init=False, default_factory=dict)
    _places: Sequence[tuple[Weighted, int, int]] = field(init=False, default=())
    #: Those of the layers with parameters.
    _stages: Sequence[_Stage] = field(init=False, default=())
    _parameters: Sequence[Parameters] = field(init=False, default=())
    _gradients: Sequence[Parameters] = field(init=False, default=())
    #: Of one row of a batch: forwards and backwards, and for the gradient of each weight.
    _row_flops: float = field(init=False, default=0.0)
    _weight_flops: Sequence[float] = field(init=False, default=())
    _is_moving: bool = field(init=False, default=True)
    _is_finite: bool = field(init=False, default=True)

    def begin(self) -> None:
        """Raises InvalidInput for labels or sample numbers that are none."""
        samples, targets, order, before = self.parts
        descents.check_values(self.kind, targets, order, len(samples))
        count = descents.parameters(self.kind)
        self.out[:, count:] = before[:, count:]
        self._places = list(descents.places(self.kind))
        self._stages = [stage for stage in self.work.stages if stage.number is not None]
        self._gradients = self._views(self.work.gradient)
        dtype = samples.dtype.name
        self._row_flops = sum(shape.flops for shape in descents.row_shapes(self.kind, 1, dtype))
        self._weight_flops = [
            sum(shape.flops for shape in trained_layers.weight_shapes(layer, 1, dtype))
            for layer in descents.weighted(self.kind)
        ]
        self._read(before)
        self._next()

    def _read(self, state: Array) -> None:
        """From now on these parameters are read: what a step moves to need not be copied there."""
        self._parameters = self._views(state[0])

    def _views(self, row: Array) -> Sequence[Parameters]:
        return [
            Parameters(
                self._view(row, weight, layer.weight),
                self._view(row, bias, layer.weight[1:]) if layer.bias else None,
            )
            for layer, weight, bias in self._places
        ]

    @staticmethod
    def _view(row: Array, start: int, shape: tuple[int, ...]) -> Array:
        return row[start : start + math.prod(shape)].reshape(shape)

    @property
    def flops(self) -> float:
        """The work of the whole epoch."""
        return (self._row_flops + sum(self._weight_flops)) * len(self.parts[0])

    @property
    def steps_in_all(self) -> int:
        return -(-len(self.parts[0]) // self.kind.batch_size)

    @property
    def _batch(self) -> Array:
        """The sample numbers of this step."""
        start = self.steps * self.kind.batch_size
        return self.parts[2][0, start : start + self.kind.batch_size]

    @property
    def _rows(self) -> Array:
        """Those of them that are worked here."""
        return self._batch

    def proceed(self) -> None:
        """All pieces of a phase are done: on to the next. Raises InvalidInput where the loss, or a
        parameter at the end, is not finite any more."""
        if self._is_moving:
            self._end_step()
        else:
            self._take_loss(self._sum_of_losses())
        if not self.is_over:
            self._next()

    def _sum_of_losses(self) -> float:
        found = math.fsum(self._losses[start] for start in sorted(self._losses))
        self._losses.clear()
        return found

    def _take_loss(self, total: float) -> None:
        """The sum of the losses of all rows of the batch."""
        value = total / len(self._batch)
        if not math.isfinite(value):
            epoch = self.kind.epoch + 1
            raise self._diverged(f"the loss is {value} in step {self.steps + 1} of", epoch)
        self.loss += total

    def _end_step(self) -> None:
        self.steps += 1
        if self.steps == 1:
            self._read(self.out)
        if self.steps == self.steps_in_all:
            self.pieces = ()
            self.is_over = True
            self._end()

    def _end(self) -> None:
        if not self._is_finite:
            raise self._diverged("a parameter is not finite after", self.kind.epoch + 1)
        self.loss /= len(self.parts[0])

    def _diverged(self, what: str, epoch: int) -> InvalidInput:
        rate = self.kind.learning_rate
        return InvalidInput(
            f"{what} epoch {epoch}: learning_rate {rate:g} is too large", field="learning_rate"
        )

    def _next(self) -> None:
        self._is_moving = not self._is_moving
        self.pieces = self._weight_pieces() if self._is_moving else self._row_pieces()

    def _row_pieces(self) -> list[Piece]:
        flops = self._row_flops
        least, grain = trained_layers.least_rows(self.kind.layers)
        cuts = in_rounds(len(self._rows), self.threads, least=least, grain=grain)
        return [Piece(None, a, b, flops * (b - a)) for a, b in cuts]

    def _weight_pieces(self) -> list[Piece]:
        rows, found = len(self._rows), []
        for number, layer in enumerate(descents.weighted(self.kind)):
            flops = rows * self._weight_flops[number] / layer.weight[0]
            # Where others are as large, there are rounds enough.
            is_most = self._weight_flops[number] > FIRST * sum(self._weight_flops)
            cut = in_rounds if is_most else in_one_round
            least = trained_layers.least_weight_rows(layer)
            cuts = cut(layer.weight[0], self.threads, least=least)
            found += [Piece(number, a, b, flops * (b - a)) for a, b in cuts]
            if layer.bias:
                found.append(Piece(number, 0, 0, 0.0))
        # The largest first, so that the last ones end together; a bias takes time, but no flops.
        found.sort(key=lambda piece: (piece.start != piece.stop, -piece.flops))
        return found

    def record(self, seconds: float, waiting: float = 0.0, spread: float = 0.0) -> None:
        """What was measured of the epoch goes into the state."""
        values = (self.loss, seconds, float(self.steps), waiting, spread)
        wide = self.xp.asarray(values, self.xp.float64).view(self.xp.uint8)
        start = descents.parameters(self.kind) * self.out.dtype.itemsize
        start += self.kind.epoch * descents.RECORD_BYTES
        self.out[0].view(self.xp.uint8)[start : start + descents.RECORD_BYTES] = wide

    # Pieces

    def do(self, piece: Piece) -> None:
        """Works one piece of the present phase."""
        if piece.layer is None:
            self._losses[piece.start] = self._through(piece.start, piece.stop)
        else:
            self._move(*self._descend(piece))

    def _descend(self, piece: Piece) -> tuple[int, int]:
        """The gradient of a piece of weights; returns which parameters of the network that is."""
        assert piece.layer is not None
        if piece.start == piece.stop:
            return self._gradient_of_bias(piece.layer)
        return self._gradient_of_rows(piece.layer, piece.start, piece.stop)

    def _through(self, start: int, stop: int) -> float:
        """Rows of the batch forwards and backwards; returns the sum of their losses."""
        xp, work, rows = self.xp, self.work, self._rows
        samples, targets = self.parts[:2]
        chosen = rows[start:stop]
        _gather(xp, samples, chosen, work.inputs[start:stop])
        for stage in work.stages:
            x, y = stage.before[start:stop], stage.after[start:stop]
            trained_layers.forward(xp, stage.layer, x, self._of(stage), y)
        last = work.stages[-1]
        assert last.delta_after is not None
        output, g = last.after[start:stop], last.delta_after[start:stop]
        loss = LOSSES[self.kind.loss](xp, output, targets[chosen], g, len(self._batch))
        for stage in reversed(work.stages):
            if stage.delta_before is None:  # Nobody asks for the gradient of the samples.
                break
            x, y = stage.before[start:stop], stage.after[start:stop]
            before = stage.delta_before[start:stop]
            trained_layers.backward(xp, stage.layer, x, y, self._of(stage), g, before)
            g = before
        return loss

    def _of(self, stage: _Stage) -> Parameters | None:
        return None if stage.number is None else self._parameters[stage.number]

    def _gradient_of_rows(self, number: int, start: int, stop: int) -> tuple[int, int]:
        """Of some rows of a layer's weight."""
        layer, weight, _ = self._places[number]
        gradient = self._gradients[number].weight[start:stop]
        x, g = self._of_all_rows(number)
        trained_layers.by_weight(self.xp, layer, x, g, start, stop, gradient)
        at = weight + start * layer.weight[1]
        return at, at + gradient.size

    def _gradient_of_bias(self, number: int) -> tuple[int, int]:
        layer, _, bias = self._places[number]
        gradient = self._gradients[number].bias
        assert gradient is not None
        trained_layers.by_bias(layer, self._of_all_rows(number)[1], gradient)
        return bias, bias + gradient.size

    def _of_all_rows(self, number: int) -> tuple[Array, Array]:
        """What came to a layer with parameters, and the gradient of what it made of that."""
        stage, rows = self._stages[number], len(self._rows)
        assert stage.delta_after is not None
        return stage.before[:rows], stage.delta_after[:rows]

    def _move(self, start: int, stop: int, gradient: Array | None = None) -> None:
        """v = momentum * v + g and p = p - learning_rate * v, for some parameters. Without a
        gradient it is that of this step, which is not asked for again."""
        xp, some = self.xp, slice(start, stop)
        before = self.out if self.steps else self.parts[3]
        g = move = self.work.gradient[some] if gradient is None else gradient[some]
        if self.kind.momentum:
            move = self.out[1, some]
            xp.multiply(before[1, some], self.kind.momentum, out=move)
            move += g
        move = xp.multiply(move, self.kind.learning_rate, out=g if gradient is None else None)
        p = self.out[0, some]
        xp.subtract(before[0, some], move, out=p)
        if self.steps + 1 == self.steps_in_all and not bool(xp.isfinite(p).all()):
            self._is_finite = False  # Nor was the velocity, if that is what it moved by.


def run(
    xp: ModuleType, kind: Descent, parts: Sequence[Array], out: Array, work: Work | None = None
) -> None:
    """A whole epoch in this thread, with memory that may have served another one before."""
    started_s = time.perf_counter()
    made = Pass(xp, kind, parts, out, 1, work or Work.of(xp, kind, parts[0]))
    made.begin()
    while made.pieces:
        for piece in made.pieces:
            made.do(piece)
        made.proceed()
    made.record(time.perf_counter() - started_s)


def _gather(xp: ModuleType, samples: Array, chosen: Array, out: Array) -> None:
    if xp.__name__ == "numpy":
        # Numbers have been checked; looking at them again would cost a copy.
        xp.take(samples, chosen, axis=0, out=out, mode="clip")
    else:
        out[...] = samples[chosen]
