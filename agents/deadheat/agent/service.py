"""The read-only end of MatrixService at an agent: others get what it has fetched, as it comes.

Rules of this file: it is a help, not a duty. Whatever is not simple is refused, since the store has
every block: one that is not here, one whose rows do not come, one more reader than the limit.
Nothing listens beyond loopback without TLS, and every caller shows a certificate of our CA.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any, Final

import grpc

from deadheat.agent.cache import BlockCache
from deadheat.agent.exchanges import Exchanges
from deadheat.runtime import hosts, logs, rpc
from deadheat.runtime.chunks import chunk_of
from deadheat.runtime.credentials import TlsFiles, is_loopback
from deadheat.runtime.errors import InvalidInput, LimitReached, Unavailable
from deadheat.runtime.programs import Rectangle
from deadheat.v1 import matrix_pb2 as pb

log = logs.get("service")

Context = grpc.aio.ServicerContext[Any, Any]

#: Blocks that are served at the same time; one more reader is sent to the store.
MAX_READERS: Final = 8
#: How long a reader waits for a block that has yet to be asked for here.
UNKNOWN_WAIT_S: Final = 0.5
#: How long it waits for rows that are on their way; readers give up sooner.
ROWS_WAIT_S: Final = 10.0
#: What a stopping agent leaves its readers.
STOP_GRACE_S: Final = 0.1

_SERVICE: Final = "deadheat.v1.MatrixService"


class PeerServicer:
    """Serves `MatrixService.Get` from a cache."""

    def __init__(self, cache: BlockCache) -> None:
        self._cache = cache
        self._readers = 0
        self.served_bytes = 0

    def handler(self) -> grpc.GenericRpcHandler:
        """Of all methods this one only: gRPC answers UNIMPLEMENTED to the others."""
        get = grpc.unary_stream_rpc_method_handler(
            self.Get,
            request_deserializer=pb.MatrixServiceGetRequest.FromString,
            response_serializer=pb.MatrixServiceGetResponse.SerializeToString,
        )
        return grpc.method_handlers_generic_handler(_SERVICE, {"Get": get})

    async def Get(
        self, request: pb.MatrixServiceGetRequest, context: Context
    ) -> AsyncIterator[pb.MatrixServiceGetResponse]:
        if self._readers >= MAX_READERS:
            raise LimitReached(f"{MAX_READERS} blocks are being read here, the limit")
        self._readers += 1
        try:
            async with aclosing(self._chunks(request)) as chunks:
                async for chunk in chunks:
                    self.served_bytes += len(chunk.data)
                    yield pb.MatrixServiceGetResponse(chunk=chunk)
        finally:
            self._readers -= 1

    async def _chunks(self, request: pb.MatrixServiceGetRequest) -> AsyncGenerator[pb.Chunk, None]:
        r = request.rectangle
        wanted = Rectangle(r.row_start, r.row_stop, r.column_start, r.column_stop)
        block = await self._cache.find_for_peer(request.matrix_id, wanted, UNKNOWN_WAIT_S)
        if not wanted.is_within(block.matrix) or request.offset < 0:
            raise InvalidInput(f"rectangle {wanted} is not inside {block.matrix}")
        with self._cache.lent(block, wanted) as loan:
            for offset in range(request.offset, loan.size_bytes, rpc.CHUNK_BYTES):
                end = min(offset + rpc.CHUNK_BYTES, loan.size_bytes)
                try:
                    async with asyncio.timeout(ROWS_WAIT_S):
                        await loan.wait(wanted.row_start + -(-end // loan.row_bytes))
                except TimeoutError:
                    raise Unavailable("the rows do not come") from None
                data = loan.region().read(offset, rpc.CHUNK_BYTES)
                yield chunk_of(offset, data)


class PeerServer:
    """The port at which other agents get blocks, and exchange gradients. `listen` is HOST:PORT,
    "off", or empty for this host's own address on the way to the scheduler and a free port."""

    def __init__(
        self, cache: BlockCache, scheduler: str, tls: TlsFiles | None, listen: str = ""
    ) -> None:
        self.servicer = PeerServicer(cache)
        self.exchanges = Exchanges(tls)
        self._scheduler = scheduler
        self._tls = tls
        self._listen = listen
        self._server: grpc.aio.Server | None = None
        self._host = ""
        self._address = ""

    async def open(self) -> str:
        """Listens, if it does not yet; returns the address to tell others, empty if there is
        none. Blocks are had from the store then, and no epoch is shared."""
        host, port = rpc.split_address(self._listen) if self._listen not in ("", "off") else ("", 0)
        if not host and not self._listen:
            host = await asyncio.to_thread(hosts.address_towards, self._scheduler)
        if host == self._host:
            return self._address
        await self.close()
        if not host or (self._tls is None and not is_loopback(host)):
            return ""
        server = grpc.aio.server(
            interceptors=[rpc.ErrorInterceptor()], options=rpc.server_options()
        )
        server.add_generic_rpc_handlers((self.servicer.handler(), self.exchanges.handler()))
        try:
            port = rpc.open_port(server, f"{host}:{port}", self._tls)
        except Unavailable as error:
            log.warning(f"no blocks for other agents: {error}", extra=logs.keys("serve"))
            return ""
        await server.start()
        self._server, self._host, self._address = server, host, f"{host}:{port}"
        return self._address

    async def close(self) -> None:
        self.exchanges.end()
        server, self._server, self._host, self._address = self._server, None, "", ""
        if server:
            await server.stop(STOP_GRACE_S)
