"""`.npy` files, checked before they are believed: no pickle, no lying header, no short data.

A file that passes is described by where its data lie, so that it can be mapped and read in place.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
from numpy.lib import format as npy_format

from deadheat.runtime.errors import InvalidInput

#: A header is a small dictionary; NumPy itself refuses to parse more than 10,000 characters.
MAX_HEADER_CHARACTERS: Final = 10_000
HEADER_ALIGNMENT: Final = 64
#: Lengths are signed 64-bit numbers everywhere, also where another length is zero.
MAX_LENGTH: Final = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class NpyFile:
    """A checked file: an array of `shape` and `dtype` whose bytes start at `data_offset`."""

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    is_fortran: bool
    data_offset: int


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """What tells that a file is still the one that was checked."""

    device: int
    inode: int
    size_bytes: int
    modified_ns: int

    @staticmethod
    def of(descriptor: int) -> FileIdentity:
        status = os.fstat(descriptor)
        return FileIdentity(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def open_regular(path: Path) -> BinaryIO:
    """Opens a regular file for reading; a missing one, a pipe or a device is an InvalidInput."""
    try:
        # Without O_NONBLOCK, opening a named pipe would wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise InvalidInput(f"{path}: {error.strerror}", field=str(path)) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise InvalidInput(f"{path}: not a regular file", field=str(path))
    return os.fdopen(descriptor, "rb")


def read_header(path: Path) -> NpyFile:
    """Checks a `.npy` file and describes it; raises InvalidInput naming the file and the fault."""
    with open_regular(path) as file:
        try:
            version = npy_format.read_magic(file)
            reader = {
                (1, 0): npy_format.read_array_header_1_0,
                (2, 0): npy_format.read_array_header_2_0,
            }.get(version)
            if reader is None:
                raise ValueError(f"format version {version[0]}.{version[1]} is not supported")
            shape, is_fortran, dtype = reader(file, max_header_size=MAX_HEADER_CHARACTERS)
        except Exception as error:  # noqa: BLE001 - NumPy's parser promises no exception type.
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InvalidInput(f"{path}: not a .npy file: {reason}", field=str(path)) from None
        data_offset = file.tell()
        size_bytes = os.fstat(file.fileno()).st_size
    if dtype.hasobject:
        raise InvalidInput(f"{path}: holds pickled Python objects, refused", field=str(path))
    # True counts as an int for NumPy's reader, and is no length for what comes after it.
    if any(type(length) is not int or not 0 <= length <= MAX_LENGTH for length in shape):
        raise InvalidInput(f"{path}: its header claims shape {shape}", field=str(path))
    needed = dtype.itemsize
    for length in shape:
        needed *= length
    if size_bytes - data_offset < needed:
        raise InvalidInput(
            f"{path}: truncated: its header says {shape} {dtype}, {needed} bytes, "
            f"but {size_bytes - data_offset} follow",
            field=str(path),
        )
    return NpyFile(path, tuple(shape), dtype, bool(is_fortran), data_offset)


def header_bytes(shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> bytes:
    """The header of a C-ordered `.npy` file."""
    import io

    buffer = io.BytesIO()
    fields = {"descr": npy_format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    npy_format.write_array_header_1_0(buffer, fields)
    return buffer.getvalue()
