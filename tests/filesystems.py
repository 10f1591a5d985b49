"""File systems of a size that tests choose, to fill them up."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def _can_mount() -> bool:
    if os.getuid() != 0 or not shutil.which("mount") or not shutil.which("unshare"):
        return False
    # Containers often have a root that may not mount.
    tried = subprocess.run(
        ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"],
        check=False,
        capture_output=True,
    )
    return tried.returncode == 0


needs_mounts = pytest.mark.skipif(not _can_mount(), reason="mounting a tmpfs needs root")


@contextmanager
def tmpfs(directory: Path, size_bytes: int) -> Iterator[Path]:
    """A tmpfs of that size, there while the block lasts."""
    directory.mkdir(exist_ok=True)
    options = f"size={size_bytes},mode=755"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(directory)], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


def fill(directory: Path, *, leave_bytes: int = 0) -> Path:
    """A file that takes all that is left but so many bytes."""
    path = directory / "filling"
    found = os.statvfs(directory)
    size = found.f_bavail * found.f_frsize - leave_bytes
    with open(path, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, size)
    return path
