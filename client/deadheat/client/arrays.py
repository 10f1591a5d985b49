"""What users hand over, as matrices: checked, and described by how their bytes get to the store.

NumPy's semantics or a clear error: one dimension becomes a row or a column and is dropped from
the result again; any strides, byte order and Fortran order are taken (a transposed matrix costs
nothing); what NumPy would refuse to multiply, or multiplies only as Python objects, is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from deadheat.runtime import dtypes
from deadheat.runtime.errors import InvalidInput
from deadheat.runtime.programs import (
    UNSENT,
    Gemm,
    MatrixType,
    Operand,
    Program,
    gemm_program,
)
from deadheat.store.npyfiles import NpyFile, read_header

ArrayLike = Any
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Source:
    """One operand as its user gave it. `array` is 2-D and, but for `is_transposed`, the operand;
    `file` says that the array is a whole `.npy` file that can be read in place."""

    name: str
    array: Array
    is_transposed: bool = False
    file: NpyFile | None = None

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self.array.shape
        return (columns, rows) if self.is_transposed else (rows, columns)

    def stored_type(self, dtype: str) -> MatrixType:
        rows, columns = self.array.shape
        return MatrixType(rows, columns, dtype)


@dataclass(frozen=True)
class Product:
    """A checked product: its operands, the dtype it is computed in, and the result's shape."""

    a: Source
    b: Source
    bias: Source | None
    dtype: str
    result_shape: tuple[int, ...]

    @property
    def sources(self) -> Sequence[Source]:
        return [self.a, self.b, *([self.bias] if self.bias else [])]

    def outline(self, kind: Gemm) -> Program:
        """Its program without any bytes, to be checked before they are moved; raises
        InvalidInput."""
        operands = [
            Operand(source.name, source.stored_type(self.dtype), matrix_id=UNSENT)
            for source in self.sources
        ]
        return gemm_program(tuple(operands), kind)


def product(a: ArrayLike, b: ArrayLike, bias: ArrayLike | None = None) -> Product:
    """Checks `a @ b + bias`; raises InvalidInput naming operand and value."""
    first, second = _as_array(a, "A"), _as_array(b, "B")
    left, right = _matrix(first, "A", column=False), _matrix(second, "B", column=True)
    if left.shape[1] != right.shape[0]:
        raise InvalidInput(
            f"A is {_dimensions(first[0])} and B is {_dimensions(second[0])}: inner sizes "
            f"{left.shape[1]} and {right.shape[0]} differ",
            field="B",
        )
    shape: tuple[int, ...] = (left.shape[0], right.shape[1])
    given = [left.array.dtype, right.array.dtype]
    added = None
    if bias is not None:
        added = _bias(_as_array(bias, "bias"), shape[1])
        given.append(added.array.dtype)
    dtype = dtypes.name_of(_promote(given), field="A @ B")
    MatrixType(left.shape[0], right.shape[1], dtype).check("A @ B")
    if first[0].ndim == 1:
        shape = shape[1:]
    if second[0].ndim == 1:
        shape = shape[:-1]
    return Product(left, right, added, dtype, shape)


def _as_array(value: ArrayLike, name: str) -> tuple[Array, NpyFile | None]:
    """The array behind a value or a path, without copying it if that can be."""
    if isinstance(value, (str, Path)):
        file = read_header(Path(value).expanduser().absolute())
        dtypes.name_of(file.dtype, field=name)
        array = np.load(file.path, mmap_mode="r", allow_pickle=False)
        return array, file
    if hasattr(value, "__dlpack__") and not isinstance(value, np.ndarray):
        try:
            return np.from_dlpack(value), None
        except (BufferError, RuntimeError, TypeError):
            pass  # Not in this memory, or of a type DLPack cannot say: NumPy copies it.
    array = np.asarray(value)
    dtypes.name_of(array.dtype, field=name)
    return array, None


def _matrix(given: tuple[Array, NpyFile | None], name: str, *, column: bool) -> Source:
    array, file = given
    if array.ndim == 0:
        raise InvalidInput(f"{name} is a scalar; matmul needs 1 or 2 dimensions", field=name)
    if array.ndim > 2:
        raise InvalidInput(
            f"{name} has {array.ndim} dimensions ({_dimensions(array)}); deadheat multiplies "
            "arrays of 1 or 2",
            field=name,
        )
    if array.ndim == 1:
        array = array.reshape(-1, 1) if column else array.reshape(1, -1)
    is_transposed = not array.flags.c_contiguous and array.flags.f_contiguous
    stored = array.T if is_transposed else array
    dtypes.name_of(array.dtype, field=name)
    can_map = file is not None and array.dtype.isnative and stored.flags.c_contiguous
    return Source(name, stored, is_transposed, file if can_map else None)


def _bias(given: tuple[Array, NpyFile | None], columns: int) -> Source:
    array, file = given
    if array.ndim not in (1, 2) or array.size != columns or array.shape[-1] != columns:
        raise InvalidInput(
            f"bias is {_dimensions(array)}; it must have {columns} elements in one row",
            field="bias",
        )
    return _matrix((array.reshape(1, -1), None if array.ndim == 1 else file), "bias", column=False)


def _promote(given: list[np.dtype[Any]]) -> np.dtype[Any]:
    try:
        return np.result_type(*given)
    except TypeError:
        names = ", ".join(str(dtype) for dtype in given)
        raise InvalidInput(f"operands have dtypes {names}, which have no common type") from None


def _dimensions(array: Array) -> str:
    return " x ".join(str(length) for length in array.shape) or "a scalar"
