"""Parameters of networks: NumPy arrays that are checked once and never change in place.

Rules of this file: a parameter is read-only, finite and of a real floating-point dtype. What has
been checked (and sent to a cluster) therefore stays what it was; a new value is a new array.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from deadheat.client import arrays
from deadheat.client.arrays import Array, ArrayLike
from deadheat.runtime.dtypes import BY_NAME, element_type, name_of, numpy_dtype
from deadheat.runtime.errors import InvalidInput

#: What networks are computed in.
FLOATS: Final = tuple(name for name, element in BY_NAME.items() if element.is_float)
#: Elements that are looked at in one go for NaN, so that a large matrix takes no second memory.
FINITE_CHUNK: Final = 1 << 20


def parameter(value: ArrayLike, name: str, *, ndim: int) -> Array:
    """A read-only copy of a weight (2 dimensions, of a convolution 4) or a bias (1).

    Raises InvalidInput naming parameter and value for other dimensions, for a dtype that is no
    floating-point one, and for NaN and infinity.
    """
    given = arrays.array_of(value, name)
    if given.ndim != ndim:
        raise InvalidInput(
            f"{name} has {given.ndim} dimensions {given.shape}; it must have {ndim}", field=name
        )
    dtype = float_name(given.dtype, name)
    check_finite(given, name)
    copy = np.array(given, numpy_dtype(dtype), order="C")
    copy.flags.writeable = False
    return copy


def matrix_of(array: Array) -> Array:
    """A parameter as programs have it: the weights of a convolution are one row."""
    return array if array.ndim <= 2 else array.reshape(1, -1)


def float_name(dtype: Any, name: str) -> str:
    """The element type called by anything that NumPy takes for a dtype (bfloat16 also by name)."""
    try:
        found = "bfloat16" if dtype == "bfloat16" else name_of(np.dtype(dtype), field=name)
    except TypeError:
        found = str(dtype)
    if found not in FLOATS:
        raise InvalidInput(
            f"{name} has dtype {found}; networks are computed in {', '.join(FLOATS)}", field=name
        )
    return found


def check_finite(array: Array, name: str) -> None:
    """Raises InvalidInput naming the first element that is NaN or infinite, and where it is."""
    if element_type(name_of(array.dtype, field=name)).is_exact or not array.size:
        return
    rows = max(1, FINITE_CHUNK * max(1, len(array)) // array.size)
    for start in range(0, len(array), rows):
        part = array[start : start + rows]
        is_finite = np.isfinite(part)
        if not is_finite.all():
            first, *rest = (int(at) for at in np.argwhere(~is_finite)[0])
            index = ", ".join(str(at) for at in (start + first, *rest))
            raise InvalidInput(
                f"{name}[{index}] is {part[(first, *rest)]}; it must be a finite number", field=name
            )


def taken_as(array: Array, dtype: np.dtype[Any], name: str) -> Array:
    """Finite elements in another dtype; raises InvalidInput naming the first one that is too large
    for it."""
    with np.errstate(over="ignore"):  # What overflows is said here.
        made = array.astype(dtype, copy=False)
    if made.dtype != array.dtype and array.size and not np.isfinite(made).all():
        at = tuple(int(one) for one in np.argwhere(~np.isfinite(made))[0])
        raise InvalidInput(
            f"{name}[{', '.join(map(str, at))}] is {array[at]}; the network is {dtype}, which goes "
            f"up to {np.finfo(dtype).max:.3g}",
            field=name,
        )
    return made
