"""`.npy` files are checked before they are believed; regions read and write any rectangle."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deadheat.runtime.errors import InvalidInput
from deadheat.runtime.programs import MatrixType, Rectangle
from deadheat.store.npyfiles import header_bytes, read_header
from deadheat.store.regions import Region


def test_a_good_file_says_where_its_data_are(tmp_path: Path) -> None:
    array = np.arange(12.0).reshape(3, 4)
    np.save(tmp_path / "a.npy", array)
    found = read_header(tmp_path / "a.npy")
    assert (found.shape, found.dtype, found.is_fortran) == ((3, 4), array.dtype, False)
    data = (tmp_path / "a.npy").read_bytes()[found.data_offset :]
    assert data == array.tobytes()


def test_our_headers_are_numpys(tmp_path: Path) -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    path = tmp_path / "a.npy"
    path.write_bytes(header_bytes(array.shape, array.dtype) + array.tobytes())
    assert np.array_equal(np.load(path), array)


def lying(path: Path, shape: str) -> None:
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (64 - (10 + len(header) + 1) % 64) + b"\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(64))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: None, "No such file"),
        (lambda p: p.mkdir(), "not a regular file"),
        (os.mkfifo, "not a regular file"),
        (lambda p: p.write_bytes(b""), "not a .npy file"),
        (lambda p: p.write_bytes(b"PK\x03\x04 this is a zip"), "not a .npy file"),
        (lambda p: p.write_bytes(b"\x93NUMPY\x01\x00\xff\xff{'a"), "not a .npy file"),
        (lambda p: p.write_bytes(b"\x93NUMPY\x09\x00" + bytes(100)), "not supported"),
        (lambda p: np.save(p, np.array([{}, []], dtype=object)), "pickled Python objects"),
        (lambda p: lying(p, "(1000, 1000)"), r"truncated: its header says \(1000, 1000\)"),
        (lambda p: lying(p, f"({2**40}, {2**40})"), "truncated"),
        (lambda p: lying(p, "(-4, 2)"), r"claims shape \(-4, 2\)"),
        (lambda p: lying(p, "(True, 3)"), r"claims shape \(True, 3\)"),
        (lambda p: lying(p, f"(0, {2**64})"), "claims shape"),
        (lambda p: p.write_bytes(b"\x93NUMPY\x01\x00\x10\x27" + b"(" * 10_000), "not a .npy file"),
        (lambda p: lying(p, "(__import__('os').system('true'),)"), "not a .npy file"),
    ],
)
def test_a_bad_file_is_named_with_its_fault(tmp_path: Path, make: object, words: str) -> None:
    path = tmp_path / "a.npy"
    make(path)  # type: ignore[operator]
    with pytest.raises(InvalidInput, match=words) as caught:
        read_header(path)
    assert str(path) in str(caught.value)


@given(st.data())
def test_regions_are_the_rectangles_bytes_at_any_offset(data: st.DataObject) -> None:
    rows, columns = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 12))
    top, left = data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, columns - 1))
    bottom = data.draw(st.integers(top + 1, rows))
    right = data.draw(st.integers(left + 1, columns))
    matrix = MatrixType(rows, columns, "float32")
    whole = np.arange(rows * columns, dtype=np.float32).reshape(rows, columns)
    rectangle = Rectangle(top, bottom, left, right)
    expected = whole[top:bottom, left:right].tobytes()

    region = Region(memoryview(whole.copy().data).cast("B"), matrix, rectangle)
    assert region.size_bytes == len(expected)
    offset = data.draw(st.integers(0, len(expected)))
    size = data.draw(st.integers(0, len(expected)))
    assert region.read(offset, size) == expected[offset : offset + size]

    target = np.zeros_like(whole)
    writer = Region(memoryview(target.data).cast("B"), matrix, rectangle)
    step = data.draw(st.integers(1, len(expected)))
    for start in range(0, len(expected), step):
        writer.write(start, expected[start : start + step])
    assert np.array_equal(target[top:bottom, left:right], whole[top:bottom, left:right])
    target[top:bottom, left:right] = 0
    assert not target.any()
