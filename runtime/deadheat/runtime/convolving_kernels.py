"""Panels of convolutions and pooling, written against the array namespace of their operands.

Rules of this file: windows are laid out (im2col) for a few samples, or for a few rows of one
sample's result, at a time, so that memory is bounded whatever the batch; each sample's windows are
then one matrix, and a convolution is a product for each sample. No result depends on how many
samples are taken at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any, Final, assert_never

from deadheat.runtime.dtypes import element_type, numpy_dtype
from deadheat.runtime.rectangles import Rectangle
from deadheat.runtime.windows import (
    Convolve,
    ConvolveBack,
    ConvolveWeights,
    PoolFunction,
    Pooling,
    PoolingBack,
    Window,
    Windowed,
)

Array = Any

#: Windows that are laid out at once, for each thread, if the namespace likes no other blocks (as
#: measured on a core for five layers, float32: 1 MiB is 16 % slower for large images and 19 %
#: faster for small ones with many channels, 16 MiB is up to 20 % slower for most).
LAID_OUT_BYTES: Final = 4 << 20


def windowed_panel(
    xp: ModuleType,
    kind: Windowed,
    dtype: str,
    rectangle: Rectangle,
    parts: Sequence[Array],
    out: Array,
) -> None:
    """`rectangle` of a result into `out`, from what `convolving.needed_blocks` says. All are of
    `dtype`; float16 and bfloat16 are computed in float32 and rounded once."""
    compute = numpy_dtype(element_type(dtype).compute)
    wide = [part.astype(compute, copy=False) for part in parts]
    columns = _columns(kind, wide)
    is_whole = (rectangle.column_start, rectangle.column_stop) == (0, columns)
    if is_whole and out.dtype == compute and out.flags.c_contiguous:
        _whole_rows(xp, kind, wide, out)
        return
    # All columns of these rows, of which some are asked for.
    made = xp.empty((rectangle.rows, columns), compute)
    _whole_rows(xp, kind, wide, made)
    out[...] = made[:, rectangle.column_start : rectangle.column_stop].astype(out.dtype, copy=False)


def _columns(kind: Windowed, parts: Sequence[Array]) -> int:
    window = kind.window
    match kind:
        case Convolve():
            return int(parts[1].shape[1]) // window.depth * window.places
        case ConvolveWeights(bias=has_bias):
            return int(parts[1].shape[1]) // window.places * (window.depth + has_bias)
        case Pooling():
            return window.channels * window.places
        case ConvolveBack() | PoolingBack():
            return window.inputs
        case other:
            assert_never(other)


def _whole_rows(xp: ModuleType, kind: Windowed, parts: Sequence[Array], out: Array) -> None:
    window = kind.window
    match kind:
        case Convolve():
            bias = parts[2] if len(parts) == 3 else None
            convolve(xp, window, parts[0], _matrix(window, parts[1]), bias, out)
        case ConvolveBack():
            convolve_back(xp, window, parts[0], _matrix(window, parts[1]), out)
        case ConvolveWeights(block=block):
            for row in range(out.shape[0]):
                rows = slice(row * block, (row + 1) * block)
                _weights(xp, window, parts[0][rows], parts[1][rows], out[row])
        case Pooling(function=function):
            pool(xp, window, function, parts[0], out)
        case PoolingBack(function=function):
            pool_back(xp, window, function, parts[0], parts[-1], out)
        case other:
            assert_never(other)


# Convolution


def _matrix(window: Window, weights: Array) -> Array:
    """Weights of one row as outputs x depth."""
    return weights.reshape(-1, window.depth)


def convolve(
    xp: ModuleType, window: Window, x: Array, matrix: Array, bias: Array | None, out: Array
) -> None:
    """Samples to n x (outputs * places), by a matrix of outputs x depth."""
    made = _images(out, matrix.shape[0], window.out_height, window.out_width)
    for samples in _samples(xp, window, x.shape[0], x.dtype.itemsize):
        padded = _padded(xp, window, x[samples], 0)
        for rows in _row_bands(xp, window, x.dtype.itemsize):
            shape = (padded.shape[0], window.depth, -1)
            laid = _laid_out(xp, window, padded, rows).reshape(shape)
            part = made[samples, :, rows]
            if part.flags.c_contiguous:  # All rows: where the result is.
                xp.matmul(matrix, laid, out=part.reshape(part.shape[0], part.shape[1], -1))
            else:
                part[...] = xp.matmul(matrix, laid).reshape(part.shape)
            if bias is not None:
                part += bias.reshape(-1, 1, 1)


def convolve_back(xp: ModuleType, window: Window, g: Array, matrix: Array, out: Array) -> None:
    """The gradient by samples, by a matrix of outputs x depth."""
    gradient = _images(g, matrix.shape[0], window.out_height, window.out_width)
    for samples in _samples(xp, window, g.shape[0], g.dtype.itemsize):
        padded = _bordered(xp, window, gradient[samples].shape[0], g.dtype)
        for rows in _row_bands(xp, window, g.dtype.itemsize):
            part = gradient[samples, :, rows]
            count, _, height, width = part.shape
            laid = xp.matmul(matrix.T, part.reshape(count, -1, height * width))
            laid = laid.reshape(count, window.channels, *window.kernel, height, width)
            for i, j, there in _places(window, rows):
                padded[:, :, there[0], there[1]] += laid[:, :, i, j]
        _unbordered(window, padded, out[samples])


def _weights(xp: ModuleType, window: Window, x: Array, g: Array, out: Array) -> None:
    """The gradient of one block of samples: a product over all places of a few samples at a time,
    one added to the other. Blocks begin where they do whoever makes them, and so do these."""
    outputs = g.shape[1] // window.places
    gradient = _images(g, outputs, window.out_height, window.out_width)
    size = outputs * window.depth
    total, bias = out[:size].reshape(outputs, window.depth), out[size:]
    out[...] = 0
    for samples in _samples(xp, window, x.shape[0], x.dtype.itemsize):
        padded = _padded(xp, window, x[samples], 0)
        for rows in _row_bands(xp, window, x.dtype.itemsize):
            laid = _joined(xp, window, padded, rows, 0, window.depth)
            total += xp.matmul(_by_channel(gradient[samples, :, rows]), laid.T)
        if bias.shape[0]:
            bias += gradient[samples].sum(axis=(0, 2, 3))


def weight_rows(
    xp: ModuleType, window: Window, x: Array, g: Array, start: int, stop: int, out: Array
) -> None:
    """Of the gradient by a weight of depth x outputs the rows [start, stop), over all samples: a
    product with these elements of all windows. Channels that have none of them are not read."""
    first, last = start // window.area, -(-stop // window.area)
    seen = slice(first * window.height * window.width, last * window.height * window.width)
    window, begins = replace(window, channels=last - first), first * window.area
    outputs = g.shape[1] // window.places
    gradient = _images(g, outputs, window.out_height, window.out_width)
    out[...] = 0
    for samples in _samples(xp, window, x.shape[0], x.dtype.itemsize):
        padded = _padded(xp, window, x[samples, seen], 0)
        for rows in _row_bands(xp, window, x.dtype.itemsize):
            laid = _joined(xp, window, padded, rows, start - begins, stop - begins)
            out += xp.matmul(laid, _by_channel(gradient[samples, :, rows]).T)


def _by_channel(gradient: Array) -> Array:
    """n x outputs x rows x columns as one matrix: a row for each output."""
    return gradient.transpose(1, 0, 2, 3).reshape(gradient.shape[1], -1)


# Pooling


def pool(xp: ModuleType, window: Window, function: PoolFunction, x: Array, out: Array) -> None:
    """Samples to n x (channels * places)."""
    made = _images(out, window.channels, window.out_height, window.out_width)
    fill = -xp.inf if function is PoolFunction.MAX else 0
    for samples in _samples(xp, window, x.shape[0], x.dtype.itemsize, copies=3):
        padded = _padded(xp, window, x[samples], fill)
        part = made[samples]
        for i, j, there in _places(window, slice(0, window.out_height)):
            seen = padded[:, :, there[0], there[1]]
            if i == j == 0:
                part[...] = seen
            elif function is PoolFunction.MAX:
                xp.maximum(part, seen, out=part)  # NaN stays NaN, as in NumPy.
            else:
                part += seen
        if function is PoolFunction.MEAN:
            part /= window.area


def pool_back(
    xp: ModuleType, window: Window, function: PoolFunction, x: Array, g: Array, out: Array
) -> None:
    """The gradient by samples; of a mean they are not read."""
    gradient = _images(g, window.channels, window.out_height, window.out_width)
    rows = slice(0, window.out_height)
    for samples in _samples(xp, window, g.shape[0], g.dtype.itemsize, copies=5):
        part = gradient[samples]
        padded = _bordered(xp, window, part.shape[0], g.dtype)
        if function is PoolFunction.MEAN:
            part = part / window.area
            for _, _, there in _places(window, rows):
                padded[:, :, there[0], there[1]] += part
        else:
            _to_largest(xp, window, x[samples], part, padded)
        _unbordered(window, padded, out[samples])


def _to_largest(xp: ModuleType, window: Window, x: Array, gradient: Array, out: Array) -> None:
    """Adds each place's gradient where the first largest element of its window is (NaN is the
    largest of all)."""
    seen = _padded(xp, window, x, -xp.inf)
    places = list(_places(window, slice(0, window.out_height)))
    largest = xp.full(gradient.shape, -xp.inf, gradient.dtype)
    for _, _, there in places:
        xp.maximum(largest, seen[:, :, there[0], there[1]], out=largest)
    is_left = xp.ones(gradient.shape, bool)
    nothing = gradient.dtype.type(0)
    for _, _, there in places:
        one = seen[:, :, there[0], there[1]]
        is_it = ((one == largest) | (one != one)) & is_left  # noqa: PLR0124 - NaN.
        is_left ^= is_it
        out[:, :, there[0], there[1]] += xp.where(is_it, gradient, nothing)


# Windows


def _laid_out_bytes(xp: ModuleType) -> int:
    return int(getattr(xp, "block_bytes", LAID_OUT_BYTES))


def _images(rows: Array, channels: int, height: int, width: int) -> Array:
    return rows.reshape(rows.shape[0], channels, height, width)


def _samples(
    xp: ModuleType, window: Window, count: int, itemsize: int, copies: int = 0
) -> Iterator[slice]:
    """Samples, as many at a time as may be laid out: their windows, or so many `copies` of them."""
    elements = window.depth * window.places
    if copies:
        elements = copies * window.inputs
    step = max(1, _laid_out_bytes(xp) // max(1, elements * itemsize))
    for start in range(0, count, step):
        yield slice(start, min(count, start + step))


def _row_bands(xp: ModuleType, window: Window, itemsize: int) -> Iterator[slice]:
    """Rows of a sample's result: all, unless the windows of a single sample are too many."""
    step = max(1, _laid_out_bytes(xp) // (window.depth * window.out_width * itemsize))
    for start in range(0, window.out_height, step):
        yield slice(start, min(window.out_height, start + step))


def _places(window: Window, rows: slice) -> Iterator[tuple[int, int, tuple[slice, slice]]]:
    """For each element (i, j) of the kernel, where it looks at the bordered image from all places
    in some rows of the result."""
    (step_i, step_j), width = window.stride, window.out_width
    for i in range(window.kernel[0]):
        top, bottom = i + step_i * rows.start, i + step_i * (rows.stop - 1) + 1
        for j in range(window.kernel[1]):
            columns = slice(j, j + step_j * (width - 1) + 1, step_j)
            yield i, j, (slice(top, bottom, step_i), columns)


def _laid_out(xp: ModuleType, window: Window, padded: Array, rows: slice) -> Array:
    """The windows of bordered samples at some rows of the result: samples x channels x kernel x
    rows x columns of the result."""
    count, height = padded.shape[0], rows.stop - rows.start
    shape = (count, window.channels, *window.kernel, height, window.out_width)
    made = xp.empty(shape, padded.dtype)
    for i, j, there in _places(window, rows):
        made[:, :, i, j] = padded[:, :, there[0], there[1]]
    return made


def _joined(
    xp: ModuleType, window: Window, padded: Array, rows: slice, start: int, stop: int
) -> Array:
    """The elements [start, stop) of windows as one matrix, a row for each, the samples beside one
    another: elements x (samples * rows * columns of the result)."""
    count, height, area = padded.shape[0], rows.stop - rows.start, window.area
    made = xp.empty((stop - start, count, height, window.out_width), padded.dtype)
    for i, j, there in _places(window, rows):
        # Of each channel one element; some of the first and the last are not asked for.
        at = i * window.kernel[1] + j
        first, last = (max(0, -(-(edge - at) // area)) for edge in (start, stop))
        seen = padded[:, first:last, there[0], there[1]].transpose(1, 0, 2, 3)
        made[first * area + at - start :: area] = seen
    return made.reshape(stop - start, -1)


def _padded(xp: ModuleType, window: Window, x: Array, fill: float) -> Array:
    """Samples as images, with their border; without a copy where there is none."""
    images = _images(x, window.channels, window.height, window.width)
    if window.padding == (0, 0):
        return images
    made = _bordered(xp, window, x.shape[0], x.dtype)
    if fill:
        made[...] = fill
    inner = _inner(window)
    made[:, :, inner[0], inner[1]] = images
    return made


def _bordered(xp: ModuleType, window: Window, count: int, dtype: Any) -> Array:
    height, width = (
        side + 2 * border
        for side, border in zip((window.height, window.width), window.padding, strict=True)
    )
    return xp.zeros((count, window.channels, height, width), dtype)


def _inner(window: Window) -> tuple[slice, slice]:
    top, left = window.padding
    return slice(top, top + window.height), slice(left, left + window.width)


def _unbordered(window: Window, padded: Array, out: Array) -> None:
    inner = _inner(window)
    made = _images(out, window.channels, window.height, window.width)
    made[...] = padded[:, :, inner[0], inner[1]]
