"""Convolutions and pooling: the kinds, and the geometry of the windows that they look through.

Rules of this file: values only. A sample is one row, its elements in the order channel, row,
column (C x H x W), so that each sample is made of one row and these operations go row by row like
any layer. Weights are one row too, in the order output, channel, row, column: then a gradient by
weights is a sum of rows, which many devices can make.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from deadheat.runtime.errors import InvalidInput

Pair = tuple[int, int]

#: Elements of a window in one channel; kernels go through them one by one.
MAX_WINDOW: Final = 1 << 16
#: Sizes and offsets travel as signed 64-bit numbers, and products of them are made in such.
MAX_LENGTH: Final = 1 << 31


class PoolFunction(Enum):
    """What becomes of the elements in a window; padding counts as zeros in a mean."""

    MAX = "max"
    MEAN = "mean"


@dataclass(frozen=True, slots=True)
class Window:
    """A kernel that goes over images of `channels` x `height` x `width`, each with a border of
    `padding` (rows, columns) on all sides, in steps of `stride`."""

    channels: int
    height: int
    width: int
    kernel: Pair
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)

    @property
    def inputs(self) -> int:
        """Elements of a sample."""
        return self.channels * self.height * self.width

    @property
    def area(self) -> int:
        """Elements of a window in one channel."""
        return self.kernel[0] * self.kernel[1]

    @property
    def depth(self) -> int:
        """Elements of a window in all channels: the inner size of a convolution's product."""
        return self.channels * self.area

    @property
    def out_height(self) -> int:
        return (self.height + 2 * self.padding[0] - self.kernel[0]) // self.stride[0] + 1

    @property
    def out_width(self) -> int:
        return (self.width + 2 * self.padding[1] - self.kernel[1]) // self.stride[1] + 1

    @property
    def places(self) -> int:
        """How many windows there are in an image."""
        return self.out_height * self.out_width

    def check(self, name: str) -> None:
        """Raises InvalidInput for a window that is not inside its image, or absurdly large."""
        image = (self.channels, self.height, self.width)
        for what, values in (("image", image), ("kernel", self.kernel), ("stride", self.stride)):
            if not all(0 < value <= MAX_LENGTH for value in values):
                raise InvalidInput(
                    f"{name}: {what} is {_by(values)}; sizes go from 1 to {MAX_LENGTH}", field=what
                )
        if self.area > MAX_WINDOW:
            raise InvalidInput(
                f"{name}: kernel {_by(self.kernel)} has {self.area} elements; the limit is "
                f"{MAX_WINDOW}",
                field="kernel",
            )
        if not all(0 <= border <= MAX_LENGTH for border in self.padding):
            raise InvalidInput(
                f"{name}: padding is {_by(self.padding)}; it goes from 0 to {MAX_LENGTH}",
                field="padding",
            )
        if self.out_height < 1 or self.out_width < 1:
            raise InvalidInput(
                f"{name}: kernel {_by(self.kernel)} does not fit into an image of "
                f"{self.height} x {self.width} with padding {_by(self.padding)}",
                field="kernel",
            )


def _by(values: tuple[int, ...]) -> str:
    return " x ".join(str(value) for value in values)


@dataclass(frozen=True, slots=True)
class Convolve:
    """A convolution (as networks have it: the kernel is not turned around), as one product with
    the windows of each sample. Operands: samples n x inputs, weights 1 x (outputs * depth)[, a
    bias of 1 x outputs]; the result is n x (outputs * places)."""

    window: Window


@dataclass(frozen=True, slots=True)
class ConvolveBack:
    """The adjoint by samples: from a gradient of n x (outputs * places) and the weights that of the
    samples, n x inputs."""

    window: Window


@dataclass(frozen=True, slots=True)
class ConvolveWeights:
    """The adjoint by weights: from samples and a gradient one row of 1 x (outputs * depth) for each
    `block` samples, the last block being what is left. Their sum is the gradient by weights. With
    `bias` that by the bias stands behind it, in `outputs` more elements."""

    window: Window
    block: int
    bias: bool = False


@dataclass(frozen=True, slots=True)
class Pooling:
    """The largest element, or the mean, of each window, channel by channel: from n x inputs
    n x outputs."""

    window: Window
    function: PoolFunction

    @property
    def inputs(self) -> int:
        return self.window.inputs

    @property
    def outputs(self) -> int:
        return self.window.channels * self.window.places


@dataclass(frozen=True, slots=True)
class PoolingBack:
    """The adjoint of `Pooling`. Operands: the samples (for MAX only; of equal elements the first
    has the gradient) and a gradient of n x (channels * places); the result is n x inputs."""

    window: Window
    function: PoolFunction


Windowed = Convolve | ConvolveBack | ConvolveWeights | Pooling | PoolingBack
