"""Rectangles of a mapped matrix as a run of bytes, in row-major order of the rectangle."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from deadheat.runtime.programs import MatrixType, Rectangle

Bytes = npt.NDArray[np.uint8]


class Region:
    """A rectangle inside a buffer that holds the whole matrix, read and written by byte offset."""

    def __init__(self, buffer: memoryview, matrix: MatrixType, rectangle: Rectangle) -> None:
        itemsize = matrix.element.itemsize
        self.row_bytes = rectangle.columns * itemsize
        self.size_bytes = rectangle.rows * self.row_bytes
        flat = np.frombuffer(buffer, dtype=np.uint8, count=matrix.size_bytes)
        first, last = rectangle.column_start * itemsize, rectangle.column_stop * itemsize
        grid = flat.reshape(matrix.rows, matrix.row_bytes)
        self._grid: Bytes = grid[rectangle.row_start : rectangle.row_stop, first:last]

    def read(self, offset: int, size: int) -> bytes:
        """Bytes [offset, offset + size), cut at the end of the region."""
        size = min(size, self.size_bytes - offset)
        return b"".join(self._grid[part].tobytes() for part, _ in self._parts(offset, size))

    def write(self, offset: int, data: bytes) -> None:
        source = np.frombuffer(data, dtype=np.uint8)
        for part, (start, stop) in self._parts(offset, len(data)):
            target = self._grid[part]
            target[...] = source[start:stop].reshape(target.shape)

    def _parts(
        self, offset: int, size: int
    ) -> Iterator[tuple[tuple[slice, slice], tuple[int, int]]]:
        """The run as at most three blocks: the rest of a row, whole rows, the start of a row."""
        width, done = self.row_bytes, 0
        while done < size:
            row, column = divmod(offset + done, width)
            if column == 0 and size - done >= width:
                rows = (size - done) // width
                yield (slice(row, row + rows), slice(0, width)), (done, done + rows * width)
                done += rows * width
            else:
                count = min(width - column, size - done)
                columns = slice(column, column + count)
                yield (slice(row, row + 1), columns), (done, done + count)
                done += count
