"""What each layer makes of a sample's shape, and whether layers fit one another.

Rules of this file: a sample is a row, (columns,), or an image, (channels, height, width). Numbers
of channels and columns are checked when a network is put together; heights and widths as soon as
they are known, which is then if it begins with `Unflatten`, else when it gets its samples. What
does not fit is said with the layer's name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from deadheat.client.nn.images import Conv2d, Layer, Pooling, Unflatten, by
from deadheat.client.nn.layers import Activation, Flatten, Linear
from deadheat.runtime.errors import InvalidInput

Shape = tuple[int, ...]
#: An unknown number.
SOME = -1


def first_shape(layers: Sequence[Layer]) -> Shape | None:
    """The shape of samples that a network takes; None where it takes images of any size."""
    for layer in layers:
        match layer:
            case Linear():
                return (layer.inputs,)
            case Unflatten():
                return (math.prod(layer.image),)
            case Conv2d() | Pooling():
                return None
            case Flatten() | Activation():
                continue
    return None


def takes_images(layers: Sequence[Layer]) -> bool:
    """Whether a network takes n x C x H x W: a layer for images comes before all that says
    otherwise."""
    shaping = (layer for layer in layers if not isinstance(layer, Activation))
    return isinstance(next(shaping, None), Conv2d | Pooling)


def check_order(layers: Sequence[Layer], name: Callable[[int], str]) -> None:
    """Raises InvalidInput where a layer gets an image instead of rows or the other way round, or
    images of a wrong number of channels."""
    channels: int | None = SOME if takes_images(layers) else None
    for number, layer in enumerate(layers):
        match layer:
            case Linear():
                _check_rows(channels is None, layer, name(number))
            case Flatten():
                channels = None
            case Unflatten():
                channels = layer.image[0]
            case Activation(name="softmax") if channels is not None:
                raise InvalidInput(
                    f"{name(number)} goes along rows, but gets images; put nn.Flatten() before it",
                    field="layers",
                )
            case Pooling():
                _check_image(channels is not None, name(number))
            case Conv2d():
                _check_image(channels is not None, name(number))
                if channels not in (SOME, layer.in_channels):
                    raise InvalidInput(
                        f"{name(number)} takes {layer.in_channels} channels, but gets {channels}",
                        field="layers",
                    )
                channels = layer.out_channels


def after(layer: Layer, shape: Shape, name: str) -> Shape:
    """What a layer makes of a sample's shape; raises InvalidInput where it cannot take it."""
    match layer:
        case Activation():
            return shape
        case Flatten():
            return (math.prod(shape),)
        case Linear():
            _check_rows(len(shape) == 1, layer, name)
            if shape != (layer.inputs,):
                raise InvalidInput(
                    f"{name} takes {layer.inputs} columns, but gets {shape[0]}", field="layers"
                )
            return (layer.outputs,)
        case Unflatten():
            if shape != (math.prod(layer.image),):
                raise InvalidInput(
                    f"{name} takes {math.prod(layer.image)} columns, but gets {by(shape)}",
                    field="layers",
                )
            return layer.image
        case Conv2d() | Pooling():
            _check_image(len(shape) == 3, name)
            channels, height, width = shape
            if isinstance(layer, Conv2d) and channels != layer.in_channels:
                raise InvalidInput(
                    f"{name} takes {layer.in_channels} channels, but gets images of {by(shape)}",
                    field="layers",
                )
            window = layer.window((channels, height, width))
            window.check(name)
            outputs = layer.out_channels if isinstance(layer, Conv2d) else channels
            return (outputs, window.out_height, window.out_width)


def _check_rows(is_rows: bool, layer: Linear, name: str) -> None:
    if not is_rows:
        raise InvalidInput(
            f"{name} takes rows of {layer.inputs}, but gets images; put nn.Flatten() before it",
            field="layers",
        )


def _check_image(is_image: bool, name: str) -> None:
    if not is_image:
        raise InvalidInput(
            f"{name} takes images, but gets rows; put nn.Unflatten(1, (channels, height, width)) "
            "before it",
            field="layers",
        )
