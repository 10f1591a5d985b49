"""What users hand over: NumPy's semantics, or a clear error before anything is moved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deadheat.client import arrays
from deadheat.runtime.errors import InvalidInput

A = np.arange(12.0).reshape(3, 4)


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        (A, A, "A is 3 x 4 and B is 3 x 4: inner sizes 4 and 3 differ"),
        (A, np.ones(3), "inner sizes 4 and 3 differ"),
        (3.0, A, "A is a scalar"),
        (A, np.float64(1), "B is a scalar"),
        (np.ones((2, 2, 2)), A, "A is 2 x 2 x 2 and B is 3 x 4: inner sizes 2 and 3 differ"),
        (np.array([[{}]]), A, "A has dtype object"),
        (np.array([["a"]]), A, "A has dtype <U1"),
        (np.array([["2020-01-01"]], dtype="M8[D]"), A, "A has dtype datetime64"),
        (A.astype(np.longdouble), A.T, "A has dtype float128"),
        (A, np.zeros((4, 2), dtype=[("x", "f8")]), "B has dtype"),
        ([[1, 2], [3]], A, "inhomogeneous"),
    ],
)
def test_what_cannot_be_multiplied_is_named(a: Any, b: Any, words: str) -> None:
    with pytest.raises(ValueError, match="(?s)" + words.replace("(", r"\(").replace(")", r"\)")):
        arrays.product(a, b)


def test_a_result_beyond_two_to_the_63_is_refused_without_being_made() -> None:
    wide = np.broadcast_to(1.0, (2**40, 1))
    with pytest.raises(InvalidInput, match=r"A @ B is .* bytes; the limit is 9223372036854775807"):
        arrays.product(wide, wide.T)


@pytest.mark.parametrize(
    ("a", "b", "shape"),
    [
        (A, A.T, (3, 3)),
        (A, np.ones(4), (3,)),
        (np.ones(3), A, (4,)),
        (np.ones(4), np.ones(4), ()),
        (np.ones((0, 4)), np.ones((4, 5)), (0, 5)),
        (np.ones((3, 0)), np.ones((0, 5)), (3, 5)),
    ],
)
def test_shapes_are_numpys(a: Any, b: Any, shape: tuple[int, ...]) -> None:
    assert arrays.product(a, b).result_shape == shape == np.matmul(a, b).shape


@pytest.mark.parametrize("first", ["int8", "int64", "uint64", "float16", "float32", "complex64"])
@pytest.mark.parametrize("second", ["bool", "int32", "uint8", "float32", "float64"])
def test_dtypes_are_numpys(first: str, second: str) -> None:
    a, b = np.ones((2, 2), first), np.ones((2, 2), second)
    assert arrays.product(a, b).dtype == np.matmul(a, b).dtype.name


def test_fortran_order_costs_a_flag_and_no_copy() -> None:
    found = arrays.product(np.asfortranarray(A), A.T).a
    assert found.is_transposed
    assert found.array.flags.c_contiguous
    assert found.shape == (3, 4)


def test_a_bias_is_one_row() -> None:
    assert arrays.product(A, A.T, np.ones(3)).bias is not None
    for wrong in (np.ones(4), np.ones((3, 1)), np.ones((2, 3)), 1.0):
        with pytest.raises(InvalidInput, match="bias is"):
            arrays.product(A, A.T, wrong)


def test_files_are_mapped_and_those_in_place_are_known(tmp_path: Path) -> None:
    np.save(tmp_path / "c.npy", A)
    np.save(tmp_path / "f.npy", np.asfortranarray(A))
    np.save(tmp_path / "big.npy", A.astype(">f8"))
    in_c = arrays.product(str(tmp_path / "c.npy"), A.T).a
    assert in_c.file is not None
    in_f = arrays.product(tmp_path / "f.npy", A.T).a
    assert in_f.file is not None
    assert in_f.is_transposed
    assert arrays.product(tmp_path / "big.npy", A.T).a.file is None


class Cuda:
    """Stands for an array of another memory: DLPack refuses, NumPy can read it."""

    def __dlpack__(self, **kwargs: Any) -> Any:
        raise BufferError("not in host memory")

    def __dlpack_device__(self) -> tuple[int, int]:
        return (2, 0)

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return A


def test_anything_with_an_array_interface_is_taken() -> None:
    assert np.array_equal(arrays.product(Cuda(), A.T).a.array, A)
    assert np.array_equal(arrays.product(A.tolist(), A.T.tolist()).a.array, A)


V, W = np.ones(3), np.ones(4)


@pytest.mark.parametrize(
    "matrices",
    [
        [A, A.T],
        [A, A.T, A],
        [V, A, A.T],
        [A, A.T, V],
        [V, A, W],
        [V, V],
        [np.ones((0, 3)), A, A.T],
        [np.asfortranarray(A), A.T, A, A.T, V],
    ],
)
def test_shapes_of_chains_are_numpys(matrices: list[Any]) -> None:
    assert arrays.chain(matrices).result_shape == np.linalg.multi_dot(matrices).shape
    assert arrays.chain(iter(matrices)).result_shape == np.linalg.multi_dot(matrices).shape


def test_a_chain_is_computed_in_the_common_dtype() -> None:
    found = arrays.chain([A.astype("float32"), A.T.astype("int8"), A.astype("float16")])
    assert found.dtype == "float32"
    assert [source.name for source in found.sources] == ["M1", "M2", "M3"]
    assert [source.is_transposed for source in found.sources] == [False, True, False]


@pytest.mark.parametrize(
    ("matrices", "words"),
    [
        ([], "matrices has 0 entries; a chain has 2 to"),
        ([A], "matrices has 1 entries"),
        ([A] * 100, "matrices has 100 entries"),
        ("A.npy", "must be a list"),
        ([A, A.T, A.T], "M2 is 4 x 3 and M3 is 4 x 3: inner sizes 3 and 4 differ"),
        ([A, W, A], "M2 has 1 dimensions"),
        ([A, np.ones((2, 2, 2)), A], "M2 has 3 dimensions"),
        ([2.0, A], "M1 is a scalar"),
        ([A, A.T, np.array([["a"]])], "M3 has dtype <U1"),
        ([A, np.ones((3, 3)), A], "M1 is 3 x 4 and M2 is 3 x 3"),
    ],
)
def test_chains_that_cannot_be_multiplied_are_named(matrices: Any, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        arrays.chain(matrices)


def test_what_numpy_cannot_read_is_named(tmp_path: Path) -> None:
    for wrong in ([[1.0, 2.0], [3.0]], [[2**70]], [["x"]], [[object()]], None):
        with pytest.raises(InvalidInput, match=r"^B "):
            arrays.product(A, wrong)


class Elsewhere:
    """An array that has DLPack and nothing else, as those of other libraries may."""

    def __init__(self, array: Any, refusal: Exception | None = None) -> None:
        self.array, self.refusal, self.calls = array, refusal, 0

    def __dlpack__(self, **kwargs: Any) -> Any:
        self.calls += 1
        if self.refusal:
            raise self.refusal
        return self.array.__dlpack__(**kwargs)

    def __dlpack_device__(self) -> tuple[int, int]:
        device: tuple[int, int] = self.array.__dlpack_device__()
        return device


@pytest.mark.parametrize("dtype", ["float32", "float64", "int8", "complex64", "bool"])
def test_dlpack_is_taken_without_a_copy(dtype: str) -> None:
    given = A.astype(dtype)
    found = arrays.product(Elsewhere(given), Elsewhere(given.T))
    assert np.shares_memory(found.a.array, given)
    assert np.shares_memory(found.b.array, given)
    assert found.b.is_transposed
    stack = np.ones((2, 3, 4), dtype)
    assert np.shares_memory(arrays.product(Elsewhere(stack), A.T).a.array, stack)
    assert np.shares_memory(arrays.array_of(Elsewhere(stack), "X"), stack)


@pytest.mark.parametrize("refusal", [BufferError("on a GPU"), RuntimeError("a type of its own")])
def test_what_dlpack_cannot_hand_over_is_said(refusal: Exception) -> None:
    with pytest.raises(InvalidInput, match=f"A is a Elsewhere that cannot be read here: {refusal}"):
        arrays.product(Elsewhere(A, refusal), A.T)


def test_torch_tensors_are_taken_without_a_copy() -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    found = arrays.product(tensor, tensor.T)
    assert found.a.array.__array_interface__["data"][0] == tensor.data_ptr()
    assert found.b.is_transposed
    with pytest.raises(InvalidInput, match=r"A is no matrix: .*requires grad"):
        arrays.product(tensor.clone().requires_grad_(), A.T)
    with pytest.raises(InvalidInput, match=r"A is no matrix: .*[Bb][Ff]loat16"):
        arrays.product(tensor.to(torch.bfloat16), A.T)
