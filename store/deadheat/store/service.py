"""MatrixService: a store's matrices over gRPC, in checked chunks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from deadheat.runtime import wire
from deadheat.runtime.chunks import check_unharmed, chunk_of
from deadheat.runtime.errors import Conflict, InvalidInput
from deadheat.runtime.rpc import CHUNK_BYTES
from deadheat.store.catalog import InMemory, Matrix, OnDisk
from deadheat.store.matrices import Store
from deadheat.v1 import matrix_pb2 as pb
from deadheat.v1 import matrix_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]


class MatrixServicer(matrix_pb2_grpc.MatrixServiceServicer):
    def __init__(self, store: Store) -> None:
        self._store = store

    async def Create(
        self, request: pb.MatrixServiceCreateRequest, context: Context
    ) -> pb.MatrixServiceCreateResponse:
        matrix = await self._store.create(
            wire.matrix_type_from_wire(request.type, field="type"),
            request_id=_required(request.request_id, "request_id"),
            matrix_id=request.matrix_id,
            owner=request.owner,
            ttl_s=request.expires_after_s if request.HasField("expires_after_s") else None,
            holder=request.holder,
            durable=request.durable,
        )
        return pb.MatrixServiceCreateResponse(matrix_id=matrix.id)

    async def Put(
        self, request_iterator: AsyncIterator[pb.MatrixServicePutRequest], context: Context
    ) -> pb.MatrixServicePutResponse:
        first = await anext(request_iterator, None)
        if first is None or first.WhichOneof("part") != "header":
            raise InvalidInput("a Put starts with its header", field="header")
        header = first.header
        matrix = self._store.catalog.get(header.matrix_id)
        rectangle = wire.rectangle_from_wire(
            header.rectangle, within=matrix.type, field="rectangle"
        )
        upload = self._store.start_upload(
            matrix, _required(header.upload_id, "upload_id"), rectangle
        )
        if header.offset > upload.received_bytes:
            raise InvalidInput(
                f"offset {header.offset} leaves a gap: {upload.received_bytes} bytes have arrived",
                field="offset",
            )
        position = header.offset
        async for message in request_iterator:
            chunk = message.chunk
            region = self._store.region(self._writable(header.matrix_id), rectangle)
            _check_chunk(chunk, position, region.size_bytes)
            region.write(position, chunk.data)
            position += len(chunk.data)
            upload.received_bytes = max(upload.received_bytes, position)
        return pb.MatrixServicePutResponse(received_bytes=upload.received_bytes)

    def _writable(self, matrix_id: str) -> Matrix:
        """Looked up for every chunk: it may have been sealed or given up since the last."""
        matrix = self._store.catalog.get(matrix_id)
        if matrix.is_sealed:
            raise Conflict(f"matrix {matrix_id!r} is sealed: nobody writes it any more")
        return matrix

    async def Get(
        self, request: pb.MatrixServiceGetRequest, context: Context
    ) -> AsyncIterator[pb.MatrixServiceGetResponse]:
        matrix = self._store.catalog.sealed(request.matrix_id)
        rectangle = wire.rectangle_from_wire(
            request.rectangle, within=matrix.type, field="rectangle"
        )
        # Held while it streams, so that its room is not given to another matrix meanwhile.
        matrix.grants += 1
        try:
            region = self._store.region(matrix, rectangle)
            for offset in range(request.offset, region.size_bytes, CHUNK_BYTES):
                chunk = chunk_of(offset, region.read(offset, CHUNK_BYTES))
                yield pb.MatrixServiceGetResponse(chunk=chunk)
        finally:
            self._store.ungrant(matrix.id)

    async def Seal(
        self, request: pb.MatrixServiceSealRequest, context: Context
    ) -> pb.MatrixServiceSealResponse:
        await self._store.seal(self._store.catalog.get(request.matrix_id))
        return pb.MatrixServiceSealResponse()

    async def Stat(
        self, request: pb.MatrixServiceStatRequest, context: Context
    ) -> pb.MatrixServiceStatResponse:
        matrix = self._store.catalog.get(request.matrix_id)
        upload = matrix.uploads.get(request.upload_id)
        return pb.MatrixServiceStatResponse(
            matrix=self._info(matrix), received_bytes=upload.received_bytes if upload else 0
        )

    async def List(
        self, request: pb.MatrixServiceListRequest, context: Context
    ) -> pb.MatrixServiceListResponse:
        catalog = self._store.catalog
        return pb.MatrixServiceListResponse(
            matrices=[self._info(matrix) for matrix in catalog],
            memory_bytes=catalog.pool.used_bytes,
            memory_limit_bytes=catalog.pool.limit_bytes,
            disk_bytes=catalog.disk_bytes,
            disk_limit_bytes=catalog.disk_limit_bytes,
        )

    async def Delete(
        self, request: pb.MatrixServiceDeleteRequest, context: Context
    ) -> pb.MatrixServiceDeleteResponse:
        self._store.give_up(request.matrix_id)
        return pb.MatrixServiceDeleteResponse()

    async def Hold(
        self, request: pb.MatrixServiceHoldRequest, context: Context
    ) -> pb.MatrixServiceHoldResponse:
        holder = _required(request.holder, "holder")
        matrices = [self._store.catalog.get(matrix_id) for matrix_id in request.matrix_ids]
        for matrix in matrices:
            matrix.holders.add(holder)
            self._store.catalog.save(matrix)
        return pb.MatrixServiceHoldResponse(matrices=[self._info(matrix) for matrix in matrices])

    async def Release(
        self, request: pb.MatrixServiceReleaseRequest, context: Context
    ) -> pb.MatrixServiceReleaseResponse:
        self._store.release(_required(request.holder, "holder"))
        return pb.MatrixServiceReleaseResponse()

    def _info(self, matrix: Matrix) -> pb.MatrixInfo:
        state = pb.MATRIX_STATE_SEALED if matrix.is_sealed else pb.MATRIX_STATE_WRITING
        places = {InMemory: "memory", OnDisk: "disk"}
        left_s = matrix.expires_in_s(self._store.catalog.clock())
        return pb.MatrixInfo(
            id=matrix.id,
            type=wire.matrix_type_to_wire(matrix.type),
            state=state,
            owner=matrix.owner,
            created_at=_timestamp(matrix.created_at),
            expires_at=None if matrix.is_pinned else _timestamp_in(left_s),
            place=places.get(type(matrix.place), "file"),
            holders=sorted(matrix.holders),
        )


def _timestamp(seconds: float) -> Timestamp:
    stamp = Timestamp()
    stamp.FromNanoseconds(int(seconds * 1e9))
    return stamp


def _timestamp_in(seconds: float) -> Timestamp:
    stamp = Timestamp()
    stamp.GetCurrentTime()
    stamp.FromNanoseconds(stamp.ToNanoseconds() + int(seconds * 1e9))
    return stamp


def _required(value: str, field: str) -> str:
    if not value or len(value) > 128:
        raise InvalidInput(f"{field} must be 1 to 128 characters", field=field)
    return value


def _check_chunk(chunk: pb.Chunk, position: int, size_bytes: int) -> None:
    if chunk.offset != position:
        raise InvalidInput(f"chunk at offset {chunk.offset}; {position} is next", field="offset")
    if position + len(chunk.data) > size_bytes:
        raise InvalidInput(
            f"chunk ends at {position + len(chunk.data)}; the rectangle has {size_bytes} bytes",
            field="data",
        )
    check_unharmed(chunk)
