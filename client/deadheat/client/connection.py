"""The client's way to a cluster: one event loop in a thread of its own, and what lives on it.

gRPC's asynchronous objects belong to the loop that made them, and the user's program may have a
loop of its own; so everything that speaks to the cluster runs on ours, and callers wait.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final, TypeVar

import grpc

from deadheat.runtime import rpc
from deadheat.runtime.credentials import TlsFiles
from deadheat.runtime.errors import Unavailable
from deadheat.store.descriptors import DescriptorClient
from deadheat.v1 import cluster_pb2
from deadheat.v1.cluster_pb2_grpc import ClusterServiceStub
from deadheat.v1.job_pb2_grpc import JobServiceStub
from deadheat.v1.matrix_pb2_grpc import MatrixServiceStub
from deadheat.v1.model_pb2_grpc import ModelServiceStub

if TYPE_CHECKING:
    from deadheat.v1.cluster_pb2_grpc import ClusterServiceAsyncStub
    from deadheat.v1.job_pb2_grpc import JobServiceAsyncStub
    from deadheat.v1.matrix_pb2_grpc import MatrixServiceAsyncStub
    from deadheat.v1.model_pb2_grpc import ModelServiceAsyncStub

T = TypeVar("T")

CONNECT_TIMEOUT_S: Final = 5.0
#: Nobody who pressed Ctrl-C waits longer than that.
UNDO_LIMIT_S: Final = 3.0
#: How long a loop that stops waits for what it has cancelled.
STOP_LIMIT_S: Final = 2.0


class LoopThread:
    """An event loop in a daemon thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="deadheat-client", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Raises Unavailable after `stop`."""
        try:
            return asyncio.run_coroutine_threadsafe(work, self.loop)
        except RuntimeError:  # That the loop is closed.
            work.close()
            raise Unavailable("the client is closed") from None

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine there and waits; Ctrl-C cancels it, and waits until it has undone what
        it had begun."""
        ended = threading.Event()

        async def run() -> T:
            try:
                return await work
            finally:
                ended.set()

        try:
            future = self.submit(run())
        except Unavailable:
            work.close()  # Nobody has begun it.
            raise
        try:
            return future.result()
        except KeyboardInterrupt:
            future.cancel()
            ended.wait(UNDO_LIMIT_S)
            raise
        finally:
            # What it failed of holds this frame, and callers' with the matrices they have mapped.
            del future

    def stop(self) -> None:
        async def end() -> None:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            if others:  # One that waits for others of them takes several turns to end.
                await asyncio.wait(others, timeout=STOP_LIMIT_S)
            self.loop.stop()

        self.submit(end())
        self._thread.join(5.0)
        if not self._thread.is_alive():
            self.loop.close()


class Connection:
    """Channels and stubs. Made and used on the loop thread."""

    def __init__(self, address: str, tls: TlsFiles | None) -> None:
        self.address = address
        self._tls = tls
        self._channel = rpc.aio_channel(address, tls, rpc.channel_options(address))
        self._data_channel: grpc.aio.Channel | None = None
        self.jobs: JobServiceAsyncStub = JobServiceStub(self._channel)
        self.cluster: ClusterServiceAsyncStub = ClusterServiceStub(self._channel)
        self.models: ModelServiceAsyncStub = ModelServiceStub(self._channel)
        self._matrices: MatrixServiceAsyncStub | None = None
        self.shared: DescriptorClient | None = None
        self.inline_limit_bytes = rpc.INLINE_LIMIT_BYTES
        self.user = ""
        #: Whether some agent does not share the store's memory.
        self.blocks_travel = False
        self._store = cluster_pb2.StoreEndpoint()

    async def open(self, timeout_s: float = CONNECT_TIMEOUT_S) -> None:
        """Asks the scheduler where everything is; raises Unavailable if there is none."""
        with rpc.translated(f"no scheduler answers at {self.address}"):
            found = await self.cluster.GetCluster(
                cluster_pb2.ClusterServiceGetClusterRequest(), timeout=timeout_s
            )
        self.inline_limit_bytes = found.inline_limit_bytes
        self.user = found.user
        self.blocks_travel = found.blocks_travel
        if found.store == self._store:
            return
        self._store = found.store
        await self._close_store()
        try:
            self.shared = await asyncio.to_thread(
                DescriptorClient, found.store.descriptor_socket, found.store.ticket
            )
        except Unavailable:
            self.shared = None  # Another host: blocks are streamed.
        host = found.store.host or rpc.split_address(self.address)[0]
        address = f"{host}:{found.store.port}"
        self._data_channel = rpc.aio_channel(address, self._tls, rpc.data_options(address))
        self._matrices = MatrixServiceStub(self._data_channel)

    @property
    def matrices(self) -> MatrixServiceAsyncStub:
        assert self._matrices is not None, "open() first"
        return self._matrices

    async def _close_store(self) -> None:
        if self.shared:
            self.shared.close()
            self.shared = None
        if self._data_channel:
            await self._data_channel.close()
            self._data_channel = None

    async def close(self) -> None:
        await self._close_store()
        await self._channel.close()
