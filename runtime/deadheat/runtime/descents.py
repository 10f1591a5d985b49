"""The rules of a descent: what its operands are, what a state is, and the work of an epoch.

A state is one matrix. Its first row has all parameters, layer by layer, each weight (also that of
a convolution) row-major as its layer says, and then its bias; behind them a record of MEASURES for
each epoch of the training, as the bytes of float64. With momentum a second row has the velocities
of the parameters. So a state is all that a training needs to go on, and all that a report of it
says.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from deadheat.runtime import trained_layers
from deadheat.runtime.errors import InvalidInput
from deadheat.runtime.operations import (
    Descent,
    GemmShape,
    LayerFunction,
    Loss,
    Operation,
    Weighted,
)
from deadheat.runtime.rectangles import MatrixType, Rectangle

#: What is measured of each epoch, in this order: the mean loss over its samples, each as it was
#: before its step; seconds; steps; the share of its threads' time that they waited for one another;
#: how far apart the first and the last thread ended a step, as a share of the step.
MEASURES: Final = ("loss", "seconds", "steps", "waiting", "spread")
RECORD_BYTES: Final = 8 * len(MEASURES)
#: Gradients of shorter floats vanish, unless losses are scaled, which this does not do.
DTYPES: Final = ("float32", "float64")
#: Numbers of samples in an order.
ORDER_DTYPE: Final = "uint32"
LABEL_DTYPE: Final = "int64"
MAX_LAYERS: Final = 1_024
#: What a step makes besides operands and result; of more, batches have to be smaller.
MAX_WORK_BYTES: Final = 8 << 30
#: Orders of all epochs are one matrix, which every device gets whole if it is small.
MAX_EPOCHS: Final = 10_000

Types = Mapping[str, MatrixType]


def weighted(kind: Descent) -> list[Weighted]:
    """The layers that have parameters."""
    return [layer for layer in kind.layers if isinstance(layer, Weighted)]


def size_of(layer: Weighted) -> int:
    """Parameters of a layer."""
    return math.prod(layer.weight) + (layer.weight[1] if layer.bias else 0)


def outputs(kind: Descent) -> int:
    """Columns of what the network makes."""
    return next(one.outputs for one in reversed(kind.layers) if not isinstance(one, LayerFunction))


def parameters(kind: Descent) -> int:
    """Parameters of the network."""
    return sum(size_of(layer) for layer in weighted(kind))


def state_type(kind: Descent, dtype: str) -> MatrixType:
    itemsize = MatrixType(1, 1, dtype).element.itemsize
    records = kind.epochs * RECORD_BYTES // itemsize
    return MatrixType(2 if kind.momentum else 1, parameters(kind) + records, dtype)


def records(parameters: int, state: Any) -> list[tuple[float, ...]]:
    """What was measured of all epochs, MEASURES for each, zeros for those to come. `state` is a
    NumPy array of a network with so many parameters."""
    flat = memoryview(state[0, parameters:].tobytes()).cast("d")
    width = len(MEASURES)
    return [tuple(flat[at : at + width]) for at in range(0, len(flat), width)]


def places(kind: Descent) -> Iterator[tuple[Weighted, int, int]]:
    """Each layer with parameters, where its weight begins in a state's row, and where its bias."""
    at = 0
    for layer in weighted(kind):
        yield layer, at, at + math.prod(layer.weight)
        at += size_of(layer)


# Types


def result_type(operation: Operation, kind: Descent, given: Sequence[MatrixType]) -> MatrixType:
    """The type of the state behind it; raises InvalidInput for operands that do not fit."""
    name = operation.result
    if len(given) != 4:
        raise InvalidInput(f"{name!r}: a descent has 4 operands, not {len(given)}")
    samples, targets, order, before = given
    _check_numbers(name, kind)
    _check_layers(name, kind, samples)
    wanted = MatrixType(samples.rows, 1, LABEL_DTYPE)
    if kind.loss is Loss.MEAN_SQUARES:
        wanted = MatrixType(samples.rows, outputs(kind), samples.dtype)
    if (size_bytes := work_bytes(kind, samples)) > MAX_WORK_BYTES:
        raise InvalidInput(
            f"{name!r}: a step on {min(kind.batch_size, samples.rows)} rows makes {size_bytes} "
            f"bytes; the limit is {MAX_WORK_BYTES}, so take a smaller batch_size",
            field="batch_size",
        )
    made = state_type(kind, samples.dtype)
    expected = (wanted, MatrixType(kind.epochs, samples.rows, ORDER_DTYPE), made)
    for operand, found, right in zip(operation.operands[1:], (targets, order, before), expected):
        if found != right:
            raise InvalidInput(f"{operand!r} is {found}; for this training it must be {right}")
    return made


def _check_numbers(name: str, kind: Descent) -> None:
    if not 1 <= kind.epochs <= MAX_EPOCHS or not 0 <= kind.epoch < kind.epochs:
        raise InvalidInput(
            f"{name!r}: epoch {kind.epoch} of {kind.epochs}; there may be 1 to {MAX_EPOCHS}, "
            "counted from 0",
            field="epochs",
        )
    if kind.batch_size < 1:
        raise InvalidInput(f"{name!r}: batch_size is {kind.batch_size}; it must be 1 or more")
    if not 0 < kind.learning_rate < math.inf:
        raise InvalidInput(f"{name!r}: learning_rate is {kind.learning_rate}; it must be above 0")
    if not 0 <= kind.momentum < 1:
        raise InvalidInput(f"{name!r}: momentum is {kind.momentum}; it goes from 0 up to 1")


def _check_layers(name: str, kind: Descent, samples: MatrixType) -> None:
    if samples.dtype not in DTYPES:
        raise InvalidInput(f"{name!r}: samples are {samples.dtype}; {' and '.join(DTYPES)} train")
    if not samples.rows:
        raise InvalidInput(f"{name!r}: there are no samples")
    if not weighted(kind) or len(kind.layers) > MAX_LAYERS:
        raise InvalidInput(
            f"{name!r}: there are {len(kind.layers)} layers; a network has 1 to {MAX_LAYERS}, one "
            "with parameters at least",
            field="layers",
        )
    columns = samples.columns
    for number, layer in enumerate(kind.layers):
        columns = trained_layers.check(f"{name!r}: layer {number}", layer, columns)


# Blocks


def needed_blocks(
    operation: Operation, kind: Descent, types: Types
) -> Iterator[tuple[str, Rectangle]]:
    """All of every operand, but of the orders only that of this epoch."""
    samples, targets, order, before = operation.operands
    yield samples, types[samples].whole()
    yield targets, types[targets].whole()
    yield order, types[order].whole().with_rows(kind.epoch, kind.epoch + 1)
    yield before, types[before].whole()


# Work


def first_weighted(kind: Descent) -> int:
    """The number of the first layer that has parameters: nobody asks for the gradient of what
    comes to it, nor of anything before."""
    return next(n for n, one in enumerate(kind.layers) if isinstance(one, Weighted))


def row_shapes(kind: Descent, batch: int, dtype: str) -> Iterator[GemmShape]:
    """The work on rows of a batch: all but the gradients of weights."""
    first = first_weighted(kind)
    for number, layer in enumerate(kind.layers):
        yield from trained_layers.row_shapes(layer, batch, dtype, goes_back=number > first)


def work_shape(kind: Descent, samples: MatrixType, result: MatrixType) -> GemmShape:
    """The work of a step, forward and backward, as often as there are steps."""
    batch, dtype = min(kind.batch_size, samples.rows), samples.dtype
    parts = [*row_shapes(kind, batch, dtype)]
    for layer in weighted(kind):
        parts += trained_layers.weight_shapes(layer, batch, dtype)
    steps = -(-samples.rows // batch)
    return GemmShape(result.rows, 1, result.columns, result.dtype, parts=tuple(parts), times=steps)


def work_bytes(kind: Descent, samples: MatrixType) -> int:
    """Memory for what a step makes, besides operands and result: samples of the batch, for each
    layer what comes out and its gradient, the gradients of the parameters, and windows."""
    rows, itemsize = min(kind.batch_size, samples.rows), samples.element.itemsize
    columns = widths = samples.columns
    for number, layer in enumerate(kind.layers):
        if isinstance(layer, LayerFunction):
            widths += 0 if trained_layers.is_in_place(kind.layers, number) else columns
        else:
            columns = layer.outputs
            widths += 2 * columns
    windows = max(trained_layers.window_bytes(layer, itemsize) for layer in kind.layers)
    return (rows * widths + parameters(kind)) * itemsize + windows


def shared_bytes(kind: Descent, state: MatrixType) -> int:
    """What a device needs besides where others share its epoch: a state of its own, its gradient
    and the sum of all."""
    return (state.rows + 2) * parameters(kind) * state.element.itemsize


def check_values(kind: Descent, targets: Any, order: Any, samples: int) -> None:
    """Raises InvalidInput for labels and sample numbers that are none: what reads them would read
    something else. Both are arrays."""
    if kind.loss is Loss.CROSS_ENTROPY:
        least, most, last = int(targets.min()), int(targets.max()), outputs(kind) - 1
        if least < 0 or most > last:
            wrong = least if least < 0 else most
            raise InvalidInput(
                f"label {wrong} is out of range; labels go from 0 to {last}", field="y"
            )
    last = int(order.max())
    if last >= samples:
        raise InvalidInput(f"the order names sample {last}; there are {samples}", field="order")
