"""The element types that deadheat multiplies, in one table.

The table itself needs no NumPy, so that the planner and the command line can read it for free.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

from deadheat.runtime.errors import InvalidInput
from deadheat.v1 import types_pb2 as pb

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, slots=True)
class ElementType:
    """One element type: its NumPy name, its size, and how products of it are computed."""

    name: str
    itemsize: int
    wire: pb.DataType.ValueType
    #: The type in which blocks are multiplied and summed (float16 in float32, bool in bool).
    compute: str
    #: Real floating-point operations for one multiply and add.
    flops_per_step: int = 2

    @property
    def flops_per_add(self) -> int:
        """Real floating-point operations for one addition."""
        return 2 if self.compute.startswith("complex") else 1

    @property
    def is_float(self) -> bool:
        return self.compute.startswith("float")

    @property
    def is_exact(self) -> bool:
        return not (self.is_float or self.compute.startswith("complex"))


_TABLE: Final = (
    ElementType("bool", 1, pb.DATA_TYPE_BOOL, "bool"),
    ElementType("int8", 1, pb.DATA_TYPE_INT8, "int8"),
    ElementType("int16", 2, pb.DATA_TYPE_INT16, "int16"),
    ElementType("int32", 4, pb.DATA_TYPE_INT32, "int32"),
    ElementType("int64", 8, pb.DATA_TYPE_INT64, "int64"),
    ElementType("uint8", 1, pb.DATA_TYPE_UINT8, "uint8"),
    ElementType("uint16", 2, pb.DATA_TYPE_UINT16, "uint16"),
    ElementType("uint32", 4, pb.DATA_TYPE_UINT32, "uint32"),
    ElementType("uint64", 8, pb.DATA_TYPE_UINT64, "uint64"),
    ElementType("float16", 2, pb.DATA_TYPE_FLOAT16, "float32"),
    ElementType("bfloat16", 2, pb.DATA_TYPE_BFLOAT16, "float32"),
    ElementType("float32", 4, pb.DATA_TYPE_FLOAT32, "float32"),
    ElementType("float64", 8, pb.DATA_TYPE_FLOAT64, "float64"),
    ElementType("complex64", 8, pb.DATA_TYPE_COMPLEX64, "complex64", flops_per_step=8),
    ElementType("complex128", 16, pb.DATA_TYPE_COMPLEX128, "complex128", flops_per_step=8),
)

BY_NAME: Final[dict[str, ElementType]] = {element.name: element for element in _TABLE}
BY_WIRE: Final[dict[int, ElementType]] = {element.wire: element for element in _TABLE}


def element_type(name: str, *, field: str = "dtype") -> ElementType:
    """The element type called `name`; raises InvalidInput that lists those there are."""
    try:
        return BY_NAME[name]
    except KeyError:
        raise InvalidInput(
            f"{field} is {name!r}; it may be {', '.join(BY_NAME)}", field=field
        ) from None


def from_wire(value: int, *, field: str) -> ElementType:
    try:
        return BY_WIRE[value]
    except KeyError:
        raise InvalidInput(f"{field}.data_type {value} is unknown", field=field) from None


def promoted(a: str, b: str) -> str:
    """NumPy's result type of two arrays, `numpy.result_type`; raises InvalidInput for a pair that
    has none (bfloat16 with float16 and with wider integers)."""
    if b in (a, "bool"):
        return a
    if a == "bool":
        return b
    first, second = element_type(a), element_type(b)
    if first.is_exact and second.is_exact:
        return _promoted_integers(first, second)
    found = _FLOATS[max(_float_rank(first), _float_rank(second))]
    if "complex" in a or "complex" in b:
        return "complex128" if found == "float64" else "complex64"
    if "bfloat16" in (a, b):
        other = second if a == "bfloat16" else first
        if other.itemsize == 1:
            return "bfloat16"
        if other.name not in ("float32", "float64"):
            raise InvalidInput(f"{a} and {b} have no common type; cast one of them", field="dtype")
    return found


def float_for(name: str) -> str:
    """What NumPy's functions of real numbers (exp, tanh) make of a type."""
    element = element_type(name)
    return _FLOATS[_float_rank(element)] if element.is_exact else name


#: Floats by rank: that of an integer is the least whose numbers hold all of its.
_FLOATS: Final = ("float16", "float32", "float64")


def _float_rank(element: ElementType) -> int:
    if element.is_exact:
        return {1: 0, 2: 1}.get(element.itemsize, 2)
    real_bytes = element.itemsize // (2 if element.name.startswith("complex") else 1)
    return {2: 0, 4: 1}.get(real_bytes, 2)


def _promoted_integers(first: ElementType, second: ElementType) -> str:
    if first.name.startswith("u") == second.name.startswith("u"):
        return max(first, second, key=lambda element: element.itemsize).name
    signed, unsigned = (second, first) if first.name.startswith("u") else (first, second)
    if signed.itemsize > unsigned.itemsize:
        return signed.name
    return "float64" if unsigned.itemsize == 8 else f"int{16 * unsigned.itemsize}"


def numpy_dtype(name: str) -> np.dtype[np.generic]:
    """The NumPy dtype for an element type; bfloat16 comes from ml_dtypes."""
    import numpy as np

    if name == "bfloat16":
        import ml_dtypes

        return cast("np.dtype[np.generic]", np.dtype(ml_dtypes.bfloat16))
    return np.dtype(element_type(name).name)


#: Names that were asked for: NumPy takes microseconds for one. Two byte orders of each at most.
_names: dict[np.dtype[np.generic], str] = {}


def name_of(dtype: np.dtype[np.generic], *, field: str) -> str:
    """The element type for a NumPy dtype of either byte order.

    Raises InvalidInput for what cannot be multiplied (object, str, datetime, longdouble, ...).
    """
    if known := _names.get(dtype):
        return known
    name = dtype.name
    if name not in BY_NAME:
        raise InvalidInput(
            f"{field} has dtype {dtype}; it may be {', '.join(BY_NAME)}", field=field
        )
    _names[dtype] = name
    return name
