"""Layers for images: convolution and pooling, with PyTorch's names and semantics.

Rules of this file: images are n x channels x height x width. On the cluster a sample is one row in
that order, so that these layers go row by row like the others. What a layer makes of a size is
said here; sizes are checked when they are known (`shapes`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Self

import numpy as np

from deadheat.client.arrays import ArrayLike
from deadheat.client.nn.layers import Activation, Flatten, Linear, Seed, Weighted, drawn, size
from deadheat.client.nn.parameters import float_name, parameter
from deadheat.runtime.dtypes import numpy_dtype
from deadheat.runtime.errors import InvalidInput
from deadheat.runtime.windows import PoolFunction, Window

#: Channels, height and width.
Image = tuple[int, int, int]
Sides = int | Sequence[int]


class Conv2d(Weighted):
    """A convolution of n x `in_channels` x H x W images, as `torch.nn.Conv2d` has it.

    The result is n x `out_channels` x H' x W' with H' = (H + 2 * padding - kernel) // stride + 1.
    New weights are drawn evenly from +-sqrt(6 / (inputs + outputs)), inputs and outputs being those
    of one place (Glorot and Bengio, 2010); the bias is zero. `weight` is out_channels x in_channels
    x kernel height x kernel width, `bias` has out_channels elements or is None; both are read-only
    arrays, and another one of the same shape and dtype may be assigned.

    Args:
        in_channels: Channels of the images.
        out_channels: Channels of the result.
        kernel_size: One side for both, or height and width.
        stride: Steps of the kernel, likewise.
        padding: Rows and columns of zeros on all sides, likewise.
        bias: Whether there is one.
        dtype: float16, bfloat16, float32 or float64.
        seed: Of the weights: a number or a NumPy generator; None draws others each time.

    Raises:
        InvalidInput: A size is none, or a dtype is none of these.
        LimitReached: There is no memory for the weights.

    """

    __slots__ = ("_padding", "_stride")

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sides,
        stride: Sides = 1,
        padding: Sides = 0,
        bias: bool = True,
        *,
        dtype: Any = "float32",
        seed: Seed = None,
    ) -> None:
        channels = size(in_channels, "in_channels"), size(out_channels, "out_channels")
        kernel = pair(kernel_size, "kernel_size")
        self._stride, self._padding = pair(stride, "stride"), pair(padding, "padding", least=0)
        element = numpy_dtype(float_name(dtype, "dtype"))
        area = math.prod(kernel)
        limit = math.sqrt(6 / (sum(channels) * area))
        weight = drawn((channels[1], channels[0], *kernel), limit, element, seed)
        self._weight = parameter(weight, "weight", ndim=4)
        self._bias = parameter(np.zeros(channels[1], element), "bias", ndim=1) if bias else None

    @classmethod
    def of(
        cls,
        weight: ArrayLike,
        bias: ArrayLike | None = None,
        *,
        stride: Sides = 1,
        padding: Sides = 0,
        name: str = "Conv2d",
    ) -> Self:
        """A layer of given parameters: `weight` of out_channels x in_channels x kernel height x
        kernel width, `bias` of out_channels elements.

        Raises InvalidInput, which begins with `name`, for shapes and dtypes that do not fit each
        other, and for NaN and infinity.
        """
        made = cls.__new__(cls)
        checked = parameter(weight, f"{name} weight", ndim=4)
        for length, what in zip(checked.shape, ("outputs", "inputs", "height", "width")):
            size(length, f"{name} {what}")
        made._keep(checked, cls._fitting(checked, bias, len(checked), name))  # noqa: SLF001 - ours.
        made._go(  # noqa: SLF001 - ours.
            pair(stride, f"{name} stride"), pair(padding, f"{name} padding", least=0)
        )
        return made

    def _go(self, stride: tuple[int, int], padding: tuple[int, int]) -> None:
        self._stride, self._padding = stride, padding

    @property
    def in_channels(self) -> int:
        return int(self._weight.shape[1])

    @property
    def out_channels(self) -> int:
        return int(self._weight.shape[0])

    @property
    def kernel_size(self) -> tuple[int, int]:
        return int(self._weight.shape[2]), int(self._weight.shape[3])

    @property
    def stride(self) -> tuple[int, int]:
        return self._stride

    @property
    def padding(self) -> tuple[int, int]:
        return self._padding

    def window(self, image: Image) -> Window:
        """How it looks at images of this size."""
        return Window(*image, self.kernel_size, self.stride, self.padding)

    def __repr__(self) -> str:
        more = _more(self.stride, self.padding, (1, 1))
        kernel = "{} x {}".format(*self.kernel_size)
        return f"Conv2d {self.in_channels} to {self.out_channels}, {kernel}{more}"


class Pooling:
    """What `MaxPool2d` and `AvgPool2d` have in common."""

    __slots__ = ("_kernel_size", "_padding", "_stride")
    function: PoolFunction

    def __init__(self, kernel_size: Sides, stride: Sides | None = None, padding: Sides = 0) -> None:
        self._kernel_size = pair(kernel_size, "kernel_size")
        self._stride = self._kernel_size if stride is None else pair(stride, "stride")
        self._padding = pair(padding, "padding", least=0)
        for border, side in zip(self._padding, self._kernel_size):
            if 2 * border > side:
                raise InvalidInput(
                    f"padding is {border}; it may be half of the kernel, {side}, at most",
                    field="padding",
                )

    @property
    def kernel_size(self) -> tuple[int, int]:
        return self._kernel_size

    @property
    def stride(self) -> tuple[int, int]:
        return self._stride

    @property
    def padding(self) -> tuple[int, int]:
        return self._padding

    def window(self, image: Image) -> Window:
        """How it looks at images of this size."""
        return Window(*image, self.kernel_size, self.stride, self.padding)

    def __repr__(self) -> str:
        more = _more(self.stride, self.padding, self.kernel_size)
        return f"{type(self).__name__} {self.kernel_size[0]} x {self.kernel_size[1]}{more}"


class MaxPool2d(Pooling):
    """The largest element of each window of n x C x H x W images, channel by channel, as
    `torch.nn.MaxPool2d` has it. Sizes are one side for both, or height and width; `stride` is the
    kernel's size unless it is given, and `padding` at most half of it. Raises InvalidInput for
    others."""

    __slots__ = ()
    function = PoolFunction.MAX


class AvgPool2d(Pooling):
    """The mean of each window, as `torch.nn.AvgPool2d` has it: padding counts as zeros. Otherwise
    like `MaxPool2d`."""

    __slots__ = ()
    function = PoolFunction.MEAN


class Unflatten:
    """Rows as images: n x 784 becomes n x 1 x 28 x 28 with `Unflatten(1, (1, 28, 28))`, as
    `torch.nn.Unflatten` has it. With it a network of images takes rows, and knows its sizes.

    Raises InvalidInput for another dimension than 1, and for what is no image.
    """

    __slots__ = ("image",)

    def __init__(self, dim: int, unflattened_size: Sequence[int]) -> None:
        if dim != 1:
            raise InvalidInput(f"dim is {dim!r}; a sample's elements are dimension 1", field="dim")
        is_list = isinstance(unflattened_size, Iterable) and not isinstance(unflattened_size, str)
        if not is_list or len(tuple(unflattened_size)) != 3:
            raise InvalidInput(
                f"unflattened_size is {unflattened_size!r}; it must be channels, height, width",
                field="unflattened_size",
            )
        channels, height, width = (size(one, "unflattened_size") for one in unflattened_size)
        self.image: Image = (channels, height, width)

    def __repr__(self) -> str:
        return f"Unflatten {by(self.image)}"


Layer = Linear | Conv2d | Pooling | Activation | Flatten | Unflatten


def pair(value: Any, name: str, *, least: int = 1) -> tuple[int, int]:
    """One number for both directions, or one for each; raises InvalidInput for others."""
    given = (value, value) if np.ndim(value) == 0 else tuple(value)
    if len(given) != 2:
        raise InvalidInput(f"{name} is {value!r}; it must be one number or two", field=name)
    rows, columns = (size(one, name, least=least) for one in given)
    return rows, columns


def by(sizes: Sequence[int]) -> str:
    return " x ".join(str(one) for one in sizes)


def _more(stride: tuple[int, int], padding: tuple[int, int], usual: tuple[int, int]) -> str:
    said = f", stride {by(stride)}" if stride != usual else ""
    return said + (f", padding {by(padding)}" if padding != (0, 0) else "")
