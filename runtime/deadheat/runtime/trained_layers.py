"""What the layers of a descent do with rows of a batch: one way forwards, one way back.

Rules of this file: whatever the kind of a layer, `forward` makes y of x, `backward` the gradient of
x of that of y, and `by_weight` and `by_bias` make gradients of parameters, over all rows that they
get. Rows are samples, and nothing outside those that were given is read or written, so that blocks
of rows, and blocks of a weight's rows, may be worked at the same time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any, Final, NamedTuple, assert_never

from deadheat.runtime import convolving
from deadheat.runtime.convolving_kernels import (
    LAID_OUT_BYTES,
    convolve,
    convolve_back,
    pool,
    pool_back,
    weight_rows,
)
from deadheat.runtime.errors import InvalidInput
from deadheat.runtime.layers import FUNCTIONS
from deadheat.runtime.operations import (
    Convolution,
    Dense,
    GemmShape,
    LayerFunction,
    Op,
    TrainedLayer,
    Weighted,
)
from deadheat.runtime.rounds import GRAIN, LEAST_ROWS
from deadheat.runtime.windows import Pooling, PoolingBack, Window

Array = Any

#: Rows of a convolution's weight that a thread takes at least: there are few, and much is done for
#: each, since all places of all images are summed up in it.
LEAST_WINDOW_ROWS: Final = 16


class Parameters(NamedTuple):
    """A layer's weight and bias, or the gradients of them."""

    weight: Array
    bias: Array | None


def forward(
    xp: ModuleType, layer: TrainedLayer, x: Array, parameters: Parameters | None, y: Array
) -> None:
    match layer:
        case Dense():
            assert parameters is not None
            xp.matmul(x, parameters.weight, out=y)
            if parameters.bias is not None:
                y += parameters.bias
        case Convolution(window=window):
            assert parameters is not None
            convolve(xp, window, x, parameters.weight.T, parameters.bias, y)
        case Pooling(window=window, function=function):
            pool(xp, window, function, x, y)
        case LayerFunction():
            FUNCTIONS[layer].apply(xp, x, y)
        case _:
            assert_never(layer)


def backward(
    xp: ModuleType,
    layer: TrainedLayer,
    x: Array,
    y: Array,
    parameters: Parameters | None,
    gradient: Array,
    out: Array,
) -> None:
    """The gradient of x into `out`; a function without parameters makes it of `gradient` in place,
    so both are one array there."""
    match layer:
        case Dense():
            assert parameters is not None
            xp.matmul(gradient, parameters.weight.T, out=out)
        case Convolution(window=window):
            assert parameters is not None
            convolve_back(xp, window, gradient, parameters.weight.T, out)
        case Pooling(window=window, function=function):
            pool_back(xp, window, function, x, gradient, out)
        case LayerFunction():
            FUNCTIONS[layer].derive(xp, out, x, y)
        case _:
            assert_never(layer)


def by_weight(
    xp: ModuleType, layer: Weighted, x: Array, gradient: Array, start: int, stop: int, out: Array
) -> None:
    """The gradient of the weight's rows [start, stop), from that of all that was made of x."""
    match layer:
        case Dense():
            xp.matmul(x[:, start:stop].T, gradient, out=out)
        case Convolution(window=window):
            weight_rows(xp, window, x, gradient, start, stop, out)
        case _:
            assert_never(layer)


def by_bias(layer: Weighted, gradient: Array, out: Array) -> None:
    match layer:
        case Dense():
            gradient.sum(axis=0, out=out)
        case Convolution():
            each = gradient.reshape(gradient.shape[0], layer.channels, layer.places)
            each.sum(axis=(0, 2), out=out)
        case _:
            assert_never(layer)


def is_in_place(layers: Sequence[TrainedLayer], number: int) -> bool:
    """Whether a layer makes y where x was: nobody reads x again, not even its own derivative."""
    layer = layers[number]
    if not isinstance(layer, LayerFunction) or not FUNCTIONS[layer].forgets:
        return False
    return number > 0 and not isinstance(layers[number - 1], LayerFunction)


# Sizes


def check(name: str, layer: TrainedLayer, columns: int) -> int:
    """Columns that a layer makes of so many; raises InvalidInput, which begins with `name`, for
    sizes that are none or that do not fit."""
    match layer:
        case LayerFunction():
            return columns
        case Dense(inputs, outputs):
            what, is_some = f"{name} is {inputs} x {outputs}", outputs > 0
        case Convolution(window, channels):
            window.check(name)
            what, is_some = f"{name} makes {channels} channels of {_image(window)}", channels > 0
        case Pooling(window=window):
            window.check(name)
            convolving.check_border(name, window)
            what, is_some = f"{name} takes {_image(window)}", True
        case _:
            assert_never(layer)
    if layer.inputs != columns or not is_some:
        raise InvalidInput(f"{what}, but what comes to it has {columns} columns", field="layers")
    return layer.outputs


def _image(window: Window) -> str:
    return f"{window.channels} x {window.height} x {window.width}"


def window_bytes(layer: TrainedLayer, itemsize: int) -> int:
    """Memory for the windows that one thread lays out at a time: those of one row of one sample's
    result at least, and the sample with its border."""
    if not isinstance(layer, Convolution | Pooling):
        return 0
    window = layer.window
    height, width = (
        side + 2 * border
        for side, border in zip((window.height, window.width), window.padding, strict=True)
    )
    row = 0 if isinstance(layer, Pooling) else window.depth * window.out_width
    return max(LAID_OUT_BYTES, (row + window.channels * height * width) * itemsize)


# Work


def least_rows(layers: Sequence[TrainedLayer]) -> tuple[int, int]:
    """Rows of a batch that a thread takes at least, and what their number is a multiple of. An
    image is work enough for itself, and its products are no larger beside another one."""
    has_images = any(isinstance(layer, Convolution) for layer in layers)
    return (1, 1) if has_images else (LEAST_ROWS, GRAIN)


def least_weight_rows(layer: Weighted) -> int:
    return LEAST_WINDOW_ROWS if isinstance(layer, Convolution) else LEAST_ROWS


def row_shapes(
    layer: TrainedLayer, batch: int, dtype: str, *, goes_back: bool
) -> Iterator[GemmShape]:
    """The work on rows of a batch, forwards and, where it `goes_back`, backwards."""
    match layer:
        case Dense() | Convolution():
            rows, columns = layer.weight
            yield GemmShape(batch, rows, layer.outputs, dtype)
            if goes_back:
                yield GemmShape(batch, columns, rows * layer.places, dtype)
            if isinstance(layer, Convolution):  # Back, windows are added up again.
                yield _laid_out((1 + goes_back) * batch, layer, dtype)
        case Pooling(window=window, function=function):
            passes = convolving.passes(layer)
            if goes_back:
                passes += convolving.passes(PoolingBack(window, function))
            yield GemmShape(batch, window.area * passes, layer.outputs, dtype, Op.SUM)
        case LayerFunction():
            return
        case _:
            assert_never(layer)


def weight_shapes(layer: Weighted, batch: int, dtype: str) -> Iterator[GemmShape]:
    """The work on the gradient of a weight, from rows of a batch."""
    rows, columns = layer.weight
    yield GemmShape(rows, batch * layer.places, columns, dtype)
    if isinstance(layer, Convolution):
        yield _laid_out(batch, layer, dtype)


def _laid_out(samples: int, layer: Convolution, dtype: str) -> GemmShape:
    window = layer.window
    return GemmShape(samples, window.area, window.channels * window.places, dtype, Op.SUM)
