"""Matrices as files of the state directory: copied there from memory, or made there at once.

Whatever the system says against it is a LimitReached that names the file.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from deadheat.runtime.dtypes import numpy_dtype
from deadheat.runtime.errors import LimitReached
from deadheat.runtime.programs import MatrixType
from deadheat.store.catalog import OnDisk
from deadheat.store.npyfiles import header_bytes

_COPY_BYTES: Final = 64 << 20


def new_npy(path: Path, matrix_type: MatrixType) -> OnDisk:
    """A file for a matrix that is yet to be written, with its room reserved: a page of a mapping
    for which there is none would be SIGBUS, and not an error. Until a sidecar names it, it is a
    stray that a later start removes."""
    header = header_bytes((matrix_type.rows, matrix_type.columns), numpy_dtype(matrix_type.dtype))
    try:
        with open(path, "xb") as file:
            file.write(header)
            file.flush()
            os.posix_fallocate(file.fileno(), 0, len(header) + matrix_type.size_bytes)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise LimitReached(f"cannot write {path}: {error.strerror}") from None
    return OnDisk(path, len(header), matrix_type.size_bytes)


def make_durable(path: Path) -> None:
    """Also what was written through mappings."""
    for name in (path, path.parent):
        descriptor = os.open(name, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            raise LimitReached(f"cannot write {name}: {error.strerror}") from None
        finally:
            os.close(descriptor)


def write_npy(path: Path, matrix_type: MatrixType, source: int, durable: bool) -> OnDisk:
    """Copies a matrix from the start of the file `source`; whole, or not there at all."""
    header = header_bytes((matrix_type.rows, matrix_type.columns), numpy_dtype(matrix_type.dtype))
    part, size = path.with_suffix(".part"), matrix_type.size_bytes
    try:
        with open(part, "wb") as file:
            file.write(header)
            file.flush()
            done = 0
            while done < size:
                done += os.sendfile(file.fileno(), source, done, min(_COPY_BYTES, size - done))
            if durable:
                os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise LimitReached(f"cannot write {path}: {error.strerror}") from None
    if durable:
        directory = os.open(path.parent, os.O_RDONLY)
        os.fsync(directory)
        os.close(directory)
    return OnDisk(path, len(header), size)
