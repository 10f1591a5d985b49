"""A real store process for tests, and stubs to speak to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from deadheat.runtime import rpc, wire
from deadheat.runtime.children import Child
from deadheat.runtime.errors import DeadheatError
from deadheat.runtime.ids import new_id
from deadheat.runtime.programs import MatrixType
from deadheat.store import transfer
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


#: For the end of a store in good order, on a busy machine too.
STOP_S = 60.0


def start_child(
    directory: Path,
    *,
    memory: int = 64 * MIB,
    disk: int = 64 * MIB,
    module: str = "deadheat.store",
) -> Child:
    (directory / "state").mkdir(exist_ok=True)
    (directory / "shm").mkdir(exist_ok=True)
    child = Child(
        module,
        [
            *("--state-dir", str(directory / "state"), "--memory-dir", str(directory / "shm")),
            *("--listen", "127.0.0.1:0", "--memory", str(memory), "--disk", str(disk)),
        ],
    )
    child.wait_ready(60)
    return child


@asynccontextmanager
async def running_store(directory: Path, **options: Any) -> AsyncIterator[RunningStore]:
    """`options` are those of `start_child`."""
    child = await asyncio.to_thread(start_child, directory, **options)
    address = f"127.0.0.1:{child.ready['port']}"
    try:
        async with rpc.aio_channel(address, None, rpc.data_options(address)) as channel:
            yield RunningStore(child, MatrixServiceStub(channel), int(str(child.ready["port"])))
    finally:
        await asyncio.to_thread(child.stop, STOP_S)


Test = Callable[[RunningStore], Coroutine[Any, Any, None]]


def run(directory: Path, test: Test, **limits: int) -> None:
    async def inside() -> None:
        async with running_store(directory, **limits) as store:
            await test(store)

    asyncio.run(inside())


def values(rows: int = 300, columns: int = 200) -> np.ndarray[Any, Any]:
    return np.random.default_rng(7).random((rows, columns))


async def fetched(store: RunningStore, matrix_id: str, like: np.ndarray[Any, Any]) -> Any:
    matrix = MatrixType(like.shape[0], like.shape[1], like.dtype.name)
    target = bytearray(matrix.size_bytes)
    await transfer.get(store.stub, matrix_id, matrix.whole(), memoryview(target))
    return np.frombuffer(target, like.dtype).reshape(like.shape)


async def refused(work: Awaitable[Any], kind: type[DeadheatError], words: str) -> None:
    async def as_client() -> None:
        with rpc.translated("test"):
            await work

    with pytest.raises(kind, match=words):
        await as_client()
