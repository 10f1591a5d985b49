"""A real store process for tests, and stubs to speak to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deadheat.runtime import rpc, wire
from deadheat.runtime.children import Child
from deadheat.runtime.ids import new_id
from deadheat.runtime.programs import MatrixType
from deadheat.store.descriptors import DescriptorClient
from deadheat.v1 import matrix_pb2 as pb
from deadheat.v1.matrix_pb2_grpc import MatrixServiceStub

if TYPE_CHECKING:
    from deadheat.v1.matrix_pb2_grpc import MatrixServiceAsyncStub

MIB = 1 << 20


@dataclass
class RunningStore:
    child: Child
    stub: MatrixServiceAsyncStub
    port: int

    def share(self) -> DescriptorClient:
        ready = self.child.ready
        return DescriptorClient(str(ready["descriptor_socket"]), str(ready["ticket"]))

    async def create(self, rows: int, columns: int, dtype: str = "float64", **more: Any) -> str:
        matrix = wire.matrix_type_to_wire(MatrixType(rows, columns, dtype))
        more.setdefault("request_id", new_id("r"))
        request = pb.MatrixServiceCreateRequest(type=matrix, **more)
        return (await self.stub.Create(request, timeout=20)).matrix_id

    async def fill(self, array: np.ndarray[Any, Any], **more: Any) -> str:
        """A sealed matrix with these values, written through shared memory."""
        matrix_id = await self.create(array.shape[0], array.shape[1], array.dtype.name, **more)
        shared = self.share()
        mapping = await asyncio.to_thread(shared.map, matrix_id, writable=True)
        np.frombuffer(mapping.buffer, array.dtype)[: array.size] = array.reshape(-1)
        del mapping
        shared.close()
        await self.seal(matrix_id)
        return matrix_id

    async def seal(self, matrix_id: str) -> None:
        request = pb.MatrixServiceSealRequest(request_id=f"s{matrix_id}", matrix_id=matrix_id)
        await self.stub.Seal(request, timeout=20)

    async def delete(self, matrix_id: str) -> None:
        request = pb.MatrixServiceDeleteRequest(request_id=f"d{matrix_id}", matrix_id=matrix_id)
        await self.stub.Delete(request, timeout=20)

    async def listing(self) -> pb.MatrixServiceListResponse:
        return await self.stub.List(pb.MatrixServiceListRequest(), timeout=20)


def start_child(directory: Path, *, memory: int = 64 * MIB, disk: int = 64 * MIB) -> Child:
    (directory / "state").mkdir(exist_ok=True)
    (directory / "shm").mkdir(exist_ok=True)
    child = Child(
        "deadheat.store",
        [
            *("--state-dir", str(directory / "state"), "--memory-dir", str(directory / "shm")),
            *("--listen", "127.0.0.1:0", "--memory", str(memory), "--disk", str(disk)),
        ],
    )
    child.wait_ready(20)
    return child


@asynccontextmanager
async def running_store(
    directory: Path, *, memory: int = 64 * MIB, disk: int = 64 * MIB
) -> AsyncIterator[RunningStore]:
    child = await asyncio.to_thread(start_child, directory, memory=memory, disk=disk)
    address = f"127.0.0.1:{child.ready['port']}"
    try:
        async with rpc.aio_channel(address, None, rpc.data_options(address)) as channel:
            yield RunningStore(child, MatrixServiceStub(channel), int(str(child.ready["port"])))
    finally:
        await asyncio.to_thread(child.stop)
