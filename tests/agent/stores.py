"""A store in this process, for those who stream from one: it answers when it may."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import google_crc32c
import numpy as np

from deadheat.runtime.errors import InvalidInput
from deadheat.runtime.programs import Rectangle
from deadheat.v1 import matrix_pb2 as pb

Array = np.ndarray[Any, Any]


class FakeCall:
    def __init__(self, answers: AsyncIterator[pb.MatrixServiceGetResponse]) -> None:
        self._answers = answers

    def __aiter__(self) -> AsyncIterator[pb.MatrixServiceGetResponse]:
        return self._answers

    def cancel(self) -> None:
        """Nobody reads on."""


class FakeStore:
    """What `transfer.get` needs of a stub. `allow` lets that many more chunks through, or all."""

    def __init__(self, *, chunk_bytes: int = 1 << 20, allowed: int | None = None) -> None:
        self.matrices: dict[str, Array] = {}
        #: What was put, by matrix: rectangle and bytes.
        self.put: dict[str, list[tuple[Rectangle, bytes]]] = {}
        self.asked: Counter[tuple[str, Rectangle]] = Counter()
        self.sent_bytes = 0
        self.is_broken = False
        #: What it breaks down with.
        self.fault: Exception = InvalidInput("the store is broken")
        self.put_fault: Exception | None = None
        self._chunk_bytes = chunk_bytes
        self._allowed = allowed
        self._changed = asyncio.Condition()

    async def allow(self, chunks: int | None) -> None:
        async with self._changed:
            self._allowed = None if chunks is None else (self._allowed or 0) + chunks
            self._changed.notify_all()

    async def break_down(self) -> None:
        async with self._changed:
            self.is_broken = True
            self._changed.notify_all()

    def Get(self, request: pb.MatrixServiceGetRequest, timeout: float) -> FakeCall:  # noqa: N802
        return FakeCall(self._answer(request))

    async def Put(  # noqa: N802 - gRPC's name.
        self,
        parts: AsyncIterator[pb.MatrixServicePutRequest],
        timeout: float,  # noqa: ASYNC109 - gRPC's argument.
    ) -> pb.MatrixServicePutResponse:
        if self.put_fault:
            raise self.put_fault
        header = (await anext(parts)).header
        r = header.rectangle
        data = b"".join([message.chunk.data async for message in parts])
        rectangle = Rectangle(r.row_start, r.row_stop, r.column_start, r.column_stop)
        self.put.setdefault(header.matrix_id, []).append((rectangle, data))
        return pb.MatrixServicePutResponse(received_bytes=len(data))

    async def _answer(
        self, request: pb.MatrixServiceGetRequest
    ) -> AsyncIterator[pb.MatrixServiceGetResponse]:
        r = request.rectangle
        rectangle = Rectangle(r.row_start, r.row_stop, r.column_start, r.column_stop)
        self.asked[request.matrix_id, rectangle] += 1
        data = part(self.matrices[request.matrix_id], rectangle).tobytes()
        for offset in range(request.offset, len(data), self._chunk_bytes):
            async with self._changed:
                await self._changed.wait_for(lambda: self.is_broken or self._allowed != 0)
                if self.is_broken:
                    raise self.fault
                if self._allowed is not None:
                    self._allowed -= 1
            piece = data[offset : offset + self._chunk_bytes]
            self.sent_bytes += len(piece)
            chunk = pb.Chunk(offset=offset, data=piece, crc32c=google_crc32c.value(piece))
            yield pb.MatrixServiceGetResponse(chunk=chunk)


def part(array: Array, r: Rectangle) -> Array:
    return array[r.row_start : r.row_stop, r.column_start : r.column_stop]
