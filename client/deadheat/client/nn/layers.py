"""Layers: what each of them makes of a matrix whose rows are samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, Self

import numpy as np

from deadheat.client.arrays import Array, ArrayLike
from deadheat.client.choices import choice
from deadheat.client.nn.parameters import float_name, parameter
from deadheat.runtime.dtypes import numpy_dtype
from deadheat.runtime.errors import InvalidInput, LimitReached

ActivationName = Literal["none", "relu", "gelu", "gelu_tanh", "tanh", "sigmoid", "softmax"]
ACTIVATIONS: Final[Mapping[str, ActivationName]] = {
    "none": "none",
    "relu": "relu",
    "gelu": "gelu",
    "gelu_tanh": "gelu_tanh",
    "tanh": "tanh",
    "sigmoid": "sigmoid",
    "softmax": "softmax",
}
Seed = int | np.random.Generator | None
#: Columns of a layer. More is a mistake: two such layers would be of 10^14 parameters.
MAX_COLUMNS: Final = 1 << 24


class Weighted:
    """What layers that have parameters have in common: both are read-only arrays, and another one
    of the same shape and dtype may be assigned."""

    __slots__ = ("_bias", "_weight")

    _weight: Array
    _bias: Array | None

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._weight.dtype

    @property
    def weight(self) -> Array:
        return self._weight

    @weight.setter
    def weight(self, value: ArrayLike) -> None:
        self._weight = self._successor(self._weight, value, "weight")

    @property
    def bias(self) -> Array | None:
        return self._bias

    @bias.setter
    def bias(self, value: ArrayLike) -> None:
        if self._bias is None:
            raise InvalidInput(f"{self!r} has no bias", field="bias")
        self._bias = self._successor(self._bias, value, "bias")

    def _keep(self, weight: Array, bias: Array | None) -> None:
        self._weight, self._bias = weight, bias

    def _successor(self, before: Array, value: ArrayLike, name: str) -> Array:
        made = parameter(value, name, ndim=before.ndim)
        if (made.shape, made.dtype) != (before.shape, before.dtype):
            raise InvalidInput(
                f"{name} is {made.shape} {made.dtype}; in {self!r} it is "
                f"{before.shape} {before.dtype}",
                field=name,
            )
        return made

    @staticmethod
    def _fitting(weight: Array, bias: ArrayLike | None, outputs: int, name: str) -> Array | None:
        """A bias that fits a weight; raises InvalidInput for another."""
        if bias is None:
            return None
        added = parameter(bias, f"{name} bias", ndim=1)
        if len(added) != outputs:
            shape = " x ".join(str(length) for length in weight.shape)
            raise InvalidInput(
                f"{name} bias has {len(added)} elements, but its weight is {shape}", field="bias"
            )
        if added.dtype != weight.dtype:
            raise InvalidInput(
                f"{name} bias is {added.dtype}, but its weight is {weight.dtype}", field="bias"
            )
        return added


class Linear(Weighted):
    """`x @ weight + bias`, for n x `inputs` samples: n x `outputs`.

    New weights are drawn evenly from +-sqrt(6 / (inputs + outputs)) (Glorot and Bengio, 2010), the
    bias is zero. `weight` is inputs x outputs (the transpose of PyTorch's), `bias` has `outputs`
    elements or is None; both are read-only arrays, and another one of the same shape and dtype may
    be assigned.

    Args:
        inputs: Columns of the samples.
        outputs: Columns of the result.
        bias: Whether there is one.
        dtype: float16, bfloat16, float32 or float64.
        seed: Of the weights: a number or a NumPy generator; None draws others each time.

    Raises:
        InvalidInput: A size is none, or a dtype is none of these.
        LimitReached: There is no memory for the weights.

    """

    __slots__ = ()

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        bias: bool = True,
        dtype: Any = "float32",
        seed: Seed = None,
    ) -> None:
        sizes = size(inputs, "inputs"), size(outputs, "outputs")
        element = numpy_dtype(float_name(dtype, "dtype"))
        weight = drawn(sizes, np.sqrt(6 / sum(sizes)), element, seed)
        self._keep(
            parameter(weight, "weight", ndim=2),
            parameter(np.zeros(sizes[1], element), "bias", ndim=1) if bias else None,
        )

    @classmethod
    def of(cls, weight: ArrayLike, bias: ArrayLike | None = None, *, name: str = "Linear") -> Self:
        """A layer of given parameters: `weight` of inputs x outputs, `bias` of outputs elements.

        Both may also be paths of `.npy` files. Raises InvalidInput, which begins with `name`, for
        shapes and dtypes that do not fit each other, and for NaN and infinity.
        """
        made = cls.__new__(cls)
        checked = parameter(weight, f"{name} weight", ndim=2)
        inputs, outputs = checked.shape
        size(inputs, f"{name} inputs")
        size(outputs, f"{name} outputs")
        made._keep(checked, cls._fitting(checked, bias, outputs, name))  # noqa: SLF001 - ours.
        return made

    @property
    def inputs(self) -> int:
        return int(self._weight.shape[0])

    @property
    def outputs(self) -> int:
        return int(self._weight.shape[1])

    def __repr__(self) -> str:
        return f"Linear {self.inputs} x {self.outputs}"


@dataclass(frozen=True)
class Activation:
    """A function of each element (`gelu` is the exact one), or `softmax` along each row."""

    name: ActivationName

    def __post_init__(self) -> None:
        choice(self.name, "activation", ACTIVATIONS)

    def __repr__(self) -> str:
        return str(self.name)


@dataclass(frozen=True)
class Flatten:
    """Samples of any shape as rows: n x 28 x 28 becomes n x 784."""

    def __repr__(self) -> str:
        return "Flatten"


def drawn(shape: tuple[int, ...], limit: float, element: np.dtype[Any], seed: Seed) -> Array:
    """New weights, evenly from +-limit; raises LimitReached where there is no memory for them."""
    source = generator(seed)
    try:
        return source.uniform(-limit, limit, shape).astype(element)
    except MemoryError:
        sizes = " x ".join(str(length) for length in shape)
        raise LimitReached(f"no memory here for {sizes} weights") from None


def size(value: object, name: str, *, least: int = 1) -> int:
    """A number of columns; raises InvalidInput for what is none."""
    is_whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not is_whole or not least <= int(value) <= MAX_COLUMNS:  # type: ignore[call-overload]
        raise InvalidInput(
            f"{name} is {value!r}; it must be a whole number from {least} to {MAX_COLUMNS}",
            field=name,
        )
    return int(value)  # type: ignore[call-overload, no-any-return]


def generator(seed: Seed) -> np.random.Generator:
    try:
        return np.random.default_rng(seed)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"seed is {seed!r}: {error}", field="seed") from None
