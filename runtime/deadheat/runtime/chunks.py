"""Pieces of a matrix or a gradient on their way between hosts, each with a checksum of its own."""

from __future__ import annotations

import google_crc32c

from deadheat.runtime.errors import DataLost
from deadheat.v1 import matrix_pb2 as pb


def chunk_of(offset: int, data: bytes) -> pb.Chunk:
    """`data` at so many bytes from the start."""
    return pb.Chunk(offset=offset, data=data, crc32c=google_crc32c.value(data))


def check_unharmed(chunk: pb.Chunk, name: str = "the chunk at offset") -> None:
    """Raises DataLost, with the name and where it is, for one that was changed on its way."""
    if google_crc32c.value(chunk.data) != chunk.crc32c:
        raise DataLost(f"{name} {chunk.offset} does not match its checksum")
