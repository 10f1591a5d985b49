"""Results to `.npy` files: complete or not there at all."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import click

if TYPE_CHECKING:
    from deadheat.client.arrays import Array


class OutputFile:
    """Claims a path before the work starts, and replaces it in one step when the result is there.

    Raises a usage error if the path cannot be written.
    """

    def __init__(self, path: str) -> None:
        if not path:
            raise click.ClickException("-o is empty; give the name of a file")
        # A link stays a link: what it leads to is replaced.
        self.path = Path(os.path.realpath(path))
        if self.path.is_dir():
            raise click.ClickException(f"-o {path}: is a directory")
        if self.path.exists() and not self.path.is_file():
            # Replacing a device or a pipe by a file would take it away from everybody.
            raise click.ClickException(f"-o {path}: is not a regular file")
        if self.path.exists() and not os.access(self.path, os.W_OK):
            raise click.ClickException(f"-o {path}: {os.strerror(errno.EACCES)}")
        try:
            self._descriptor, part = tempfile.mkstemp(
                prefix=f".{self.path.name}.", suffix=".part", dir=self.path.parent
            )
        except OSError as error:
            raise click.ClickException(f"-o {path}: {error.strerror}") from None
        self._part = Path(part)

    def write(self, array: Array) -> None:
        from deadheat.store.npyfiles import header_bytes

        try:
            with os.fdopen(self._descriptor, "wb") as file:
                self._descriptor = -1
                header = header_bytes(array.shape, array.dtype)
                self._reserve(file.fileno(), len(header) + array.nbytes)
                file.write(header)
                file.flush()
                array.tofile(file)
            umask = os.umask(0)
            os.umask(umask)
            self._part.chmod(0o666 & ~umask)
            self._part.replace(self.path)
        except OSError as error:
            raise click.ClickException(f"-o {self.path}: {error.strerror or error}") from None

    def _reserve(self, descriptor: int, size_bytes: int) -> None:
        """Room for all of it first: NumPy does not say why it wrote only a part."""
        from deadheat.runtime.units import format_bytes

        try:
            os.posix_fallocate(descriptor, 0, size_bytes)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                return  # This file system cannot promise; writing will tell.
            left = os.fstatvfs(descriptor)
            raise click.ClickException(
                f"-o {self.path}: {error.strerror}: {format_bytes(size_bytes)} needed, "
                f"{format_bytes(left.f_bavail * left.f_frsize)} free"
            ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._part.unlink(missing_ok=True)
