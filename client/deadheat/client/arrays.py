"""What users hand over, as matrices: checked, and described by how their bytes get to the store.

NumPy's semantics or a clear error: one dimension becomes a row or a column and is dropped from
the result again; any strides, byte order and Fortran order are taken (a transposed matrix costs
nothing); what NumPy would refuse to multiply, or multiplies only as Python objects, is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from deadheat.client.stacks import dimensions as _dimensions
from deadheat.client.stacks import stacked
from deadheat.runtime import dtypes
from deadheat.runtime.errors import InvalidInput
from deadheat.runtime.programs import (
    MAX_CHAIN,
    UNSENT,
    Batched,
    Gemm,
    MatrixType,
    Operand,
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

    def is_same_as(self, other: Source) -> bool:
        """Whether both are stored from the very same elements: one of them need not be moved."""
        return _layout(self.array) == _layout(other.array)


@dataclass(frozen=True)
class Product:
    """A checked product: its operands, the dtype it is computed in, and the result's shape; of
    stacks of matrices also the batch dimensions of both."""

    a: Source
    b: Source
    bias: Source | None
    dtype: str
    result_shape: tuple[int, ...]
    batches: tuple[tuple[int, ...], tuple[int, ...]] | None = None

    @property
    def sources(self) -> Sequence[Source]:
        return [self.a, self.b, *([self.bias] if self.bias else [])]

    def placeholders(self) -> tuple[Operand, ...]:
        return _placeholders(self.sources, self.dtype)

    def kind(self, epilogue: Gemm) -> Gemm | Batched:
        """What it is in a program, with this epilogue."""
        if self.batches is not None:
            return Batched(epilogue, *self.batches)
        return replace(epilogue, transpose_a=self.a.is_transposed, transpose_b=self.b.is_transposed)


@dataclass(frozen=True)
class ChainOfMatrices:
    """A checked chain: its operands, the dtype it is computed in, and the result's shape."""

    sources: Sequence[Source]
    dtype: str
    result_shape: tuple[int, ...]

    def placeholders(self) -> tuple[Operand, ...]:
        return _placeholders(self.sources, self.dtype)


Checked = Product | ChainOfMatrices


def _layout(array: Array) -> tuple[object, ...]:
    pointer, _ = array.__array_interface__["data"]
    return pointer, array.shape, array.strides, array.dtype


def is_symmetric(checked: Checked) -> bool:
    """Whether it is the product of a matrix and its own transpose, of which NumPy computes half."""
    if len(checked.sources) != 2:
        return False
    a, b = checked.sources
    return a.is_transposed != b.is_transposed and a.is_same_as(b)


def _placeholders(sources: Sequence[Source], dtype: str) -> tuple[Operand, ...]:
    """Operands with everything but their bytes, to check a program before they are moved."""
    return tuple(
        Operand(source.name, source.stored_type(dtype), matrix_id=UNSENT) for source in sources
    )


def product(a: ArrayLike, b: ArrayLike, bias: ArrayLike | None = None) -> Product:
    """Checks `a @ b + bias`; raises InvalidInput naming operand and value."""
    first, second = _as_array(a, "A"), _as_array(b, "B")
    if max(first[0].ndim, second[0].ndim) > 2:
        return _stacks(first[0], second[0], bias)
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


def _stacks(a: Array, b: Array, bias: ArrayLike | None) -> Product:
    """A product of stacks of matrices, or of a stack and a matrix."""
    for name, array in (("A", a), ("B", b)):
        dtypes.name_of(array.dtype, field=name)
        _check_dimensions(array, name)
    stacks = stacked(a, b)
    left, right = _matrix((stacks.a, None), "A", column=False), Source("B", stacks.b)
    left = replace(left, array=np.ascontiguousarray(stacks.a), is_transposed=False)
    given = [a.dtype, b.dtype]
    added = None
    if bias is not None:
        added = _bias(_as_array(bias, "bias"), stacks.b.shape[1])
        given.append(added.array.dtype)
    dtype = dtypes.name_of(_promote(given), field="A @ B")
    return Product(left, right, added, dtype, stacks.result_shape, stacks.batches)


def chain(matrices: Iterable[ArrayLike]) -> ChainOfMatrices:
    """Checks a chain as `numpy.linalg.multi_dot` does: the first may be 1-D (a row) and the last
    (a column). Raises InvalidInput naming operand and value."""
    given = [_as_array(value, f"M{n}") for n, value in enumerate(listed(matrices), 1)]
    if not 2 <= len(given) <= MAX_CHAIN:
        raise InvalidInput(
            f"matrices has {len(given)} entries; a chain has 2 to {MAX_CHAIN}", field="matrices"
        )
    for number, (array, _) in enumerate(given[1:-1], 2):
        if array.ndim != 2:
            raise InvalidInput(
                f"M{number} has {array.ndim} dimensions ({_dimensions(array)}); in the middle of a "
                "chain it must have 2",
                field=f"M{number}",
            )
    last = len(given) - 1
    sources = [
        _matrix(entry, f"M{index + 1}", column=index == last) for index, entry in enumerate(given)
    ]
    for (left, right), ((a, _), (b, _)) in zip(pairwise(sources), pairwise(given)):
        if left.shape[1] != right.shape[0]:
            raise InvalidInput(
                f"{left.name} is {_dimensions(a)} and {right.name} is {_dimensions(b)}: inner "
                f"sizes {left.shape[1]} and {right.shape[0]} differ",
                field=right.name,
            )
    whole = f"M1 @ ... @ M{len(given)}"
    dtype = dtypes.name_of(_promote([array.dtype for array, _ in given]), field=whole)
    shape: tuple[int, ...] = (sources[0].shape[0], sources[-1].shape[1])
    MatrixType(shape[0], shape[1], dtype).check(whole)
    if given[0][0].ndim == 1:
        shape = shape[1:]
    if given[-1][0].ndim == 1:
        shape = shape[:-1]
    return ChainOfMatrices(sources, dtype, shape)


def operand(value: ArrayLike) -> tuple[Source, tuple[int, ...]]:
    """Any matrix, as it is stored, and NumPy's shape of it: of one dimension it is one row, of
    none it is 1 x 1. Raises InvalidInput naming what is wrong."""
    array, file = _as_array(value, "the matrix")
    shape = array.shape
    if not shape:
        array = array.reshape(1)
    return _matrix((array, file), "the matrix", column=False), shape


def array_of(value: ArrayLike, name: str) -> Array:
    """Any array, of any dimensions, without copying it if that can be; the file's if it is a path.
    Raises InvalidInput naming what is wrong."""
    return _as_array(value, name)[0]


def listed(matrices: Iterable[ArrayLike]) -> Sequence[ArrayLike]:
    """The matrices of a chain, which may come from a generator; raises InvalidInput for a path."""
    if isinstance(matrices, (str, Path)):
        raise InvalidInput(f"matrices is {str(matrices)!r}; it must be a list", field="matrices")
    return list(matrices)


def _as_array(value: ArrayLike, name: str) -> tuple[Array, NpyFile | None]:
    """The array behind a value or a path, without copying it if that can be."""
    if isinstance(value, (str, Path)):
        file = read_header(Path(value).expanduser().absolute())
        dtypes.name_of(file.dtype, field=name)
        try:
            array = np.load(file.path, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError) as error:
            raise InvalidInput(f"{name} is {file.path}: {error}", field=name) from None
        return array, file
    refusal: Exception | None = None
    if hasattr(value, "__dlpack__") and not isinstance(value, np.ndarray):
        try:
            return _checked(np.from_dlpack(value), name), None
        except (BufferError, RuntimeError, TypeError) as error:
            refusal = error  # Not in this memory, or of a type DLPack cannot say.
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, OverflowError, RuntimeError) as error:
        raise InvalidInput(f"{name} is no matrix: {error}", field=name) from None
    if refusal is not None and array.dtype == object:
        kind = type(value).__name__
        raise InvalidInput(
            f"{name} is a {kind} that cannot be read here: {refusal}; copy it to this host's "
            "memory, in a dtype that NumPy has",
            field=name,
        ) from None
    return _checked(array, name), None


def _checked(array: Array, name: str) -> Array:
    """Raises InvalidInput for a dtype that cannot be multiplied."""
    dtypes.name_of(array.dtype, field=name)
    return array


def _matrix(given: tuple[Array, NpyFile | None], name: str, *, column: bool) -> Source:
    array, file = given
    _check_dimensions(array, name)
    if array.ndim > 2:
        raise InvalidInput(
            f"{name} has {array.ndim} dimensions ({_dimensions(array)}); it may have 1 or 2",
            field=name,
        )
    if array.ndim == 1:
        array = array.reshape(-1, 1) if column else array.reshape(1, -1)
    is_transposed = not array.flags.c_contiguous and array.flags.f_contiguous
    stored = array.T if is_transposed else array
    dtypes.name_of(array.dtype, field=name)
    can_map = file is not None and array.dtype.isnative and stored.flags.c_contiguous
    return Source(name, stored, is_transposed, file if can_map else None)


def _check_dimensions(array: Array, name: str) -> None:
    if array.ndim == 0:
        raise InvalidInput(f"{name} is a scalar; a product needs 1 or 2 dimensions", field=name)


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
