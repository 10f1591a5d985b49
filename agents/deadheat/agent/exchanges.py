"""All exchanges of gradients of this agent, and the service that their children call.

Rules of this file: a child may come before its parent has begun, and then it waits; one that comes
after its parent has ended is told so, for as long as ends are remembered. It is welcomed when its
parent knows of it, for from then on the parent hears of its end.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any, Final

import grpc

from deadheat.agent.exchanging import Child, Exchange, OnSummed, Place
from deadheat.agent.handing import Desk
from deadheat.agent.memory import Memory
from deadheat.runtime import wire
from deadheat.runtime.credentials import TlsFiles
from deadheat.runtime.dtypes import numpy_dtype
from deadheat.runtime.errors import DeadheatError, InvalidInput, NotFound, TimedOut, Unavailable
from deadheat.runtime.programs import Descent
from deadheat.v1 import agent_pb2
from deadheat.v1 import exchange_pb2 as pb

Context = grpc.aio.ServicerContext[Any, Any]
Requests = AsyncIterator[pb.ExchangeServiceExchangeRequest]

#: How long a child waits at most for its parent's sub-task to begin here; it gives up sooner.
UNKNOWN_WAIT_S: Final = 600.0
#: Ends that are remembered, the newest: a child comes seconds later, or never.
MAX_ENDED: Final = 1024

_SERVICE: Final = "deadheat.v1.ExchangeService"


class Exchanges:
    """On the agent's event loop."""

    def __init__(self, tls: TlsFiles | None) -> None:
        self._tls = tls
        self._open: dict[tuple[str, int], Exchange] = {}
        #: Places whose exchanges have ended here.
        self._ended: deque[tuple[str, int]] = deque(maxlen=MAX_ENDED)
        #: Set for a moment when one has begun or ended.
        self._changed = asyncio.Event()
        #: What goes on of exchanges, be they closed.
        self._running: set[asyncio.Task[None]] = set()
        self._desk = Desk(self._take)

    def open(
        self,
        assign: agent_pb2.Assign,
        memory: Memory,
        on_summed: OnSummed,
        on_failed: Callable[[Exception], None],
    ) -> Exchange:
        """Begins the exchange of a sub-task; raises InvalidInput for one that cannot be."""
        kind = wire.operation_from_wire(assign.operations[0]).kind
        if not isinstance(kind, Descent):
            raise InvalidInput("only an epoch of training is shared", field="share")
        result = wire.matrix_type_from_wire(assign.result_type, field="result_type")
        samples = assign.operands[0].type.rows
        place = Place.of(assign.share)
        made = Exchange(
            place,
            memory,
            numpy_dtype(result.dtype),
            -(-samples // kind.batch_size),
            self._tls,
            on_summed,
            on_failed,
        )
        self._open[place.exchange, place.member] = made
        running = made.start()
        self._running.add(running)
        running.add_done_callback(self._running.discard)
        self._tell_changed()
        return made

    def close(self, exchange: Exchange) -> None:
        exchange.close()
        place = exchange.place.exchange, exchange.place.member
        if self._open.pop(place, None):
            self._ended.append(place)
            self._tell_changed()

    def end(self) -> None:
        """No memory is handed over any more; what has begun goes on."""
        self._desk.close()

    def _take(self, exchange: str, member: int, descriptor: int) -> None:
        """A child on this host hands over its memory."""
        parent = self._open.get((exchange, (member - 1) // 2))
        if parent is None:
            raise NotFound(f"exchange {exchange!r} is not open here")
        parent.take(member, descriptor)

    def _tell_changed(self) -> None:
        self._changed.set()
        self._changed.clear()

    def handler(self) -> grpc.GenericRpcHandler:
        exchange = grpc.stream_stream_rpc_method_handler(
            self.Exchange,
            request_deserializer=pb.ExchangeServiceExchangeRequest.FromString,
            response_serializer=pb.ExchangeServiceExchangeResponse.SerializeToString,
        )
        return grpc.method_handlers_generic_handler(_SERVICE, {"Exchange": exchange})

    async def Exchange(  # noqa: N802 - gRPC's name.
        self, request_iterator: Requests, _context: Context
    ) -> AsyncIterator[pb.ExchangeServiceExchangeResponse]:
        first = await anext(request_iterator, None)
        if first is None or first.WhichOneof("part") != "header":
            raise InvalidInput("an Exchange starts with its header", field="header")
        child = await self._child(first.header)
        reading = asyncio.get_running_loop().create_task(_read(request_iterator, child))
        try:
            yield pb.ExchangeServiceExchangeResponse(welcome=self._desk.welcome())
            async for chunk in child.outgoing:
                yield pb.ExchangeServiceExchangeResponse(sum=chunk)
        finally:
            reading.cancel()
            child.end(Unavailable(f"member {child.member} of this epoch has ended"))

    async def _child(self, header: pb.ExchangeHeader) -> Child:
        parent = (header.exchange_id, (header.member - 1) // 2)
        try:
            async with asyncio.timeout(UNKNOWN_WAIT_S):
                while parent not in self._open:
                    if parent in self._ended:
                        raise Unavailable(f"member {parent[1]} of this epoch has ended")
                    await self._changed.wait()
        except TimeoutError:
            raise TimedOut(f"exchange {parent[0]!r} has not begun here") from None
        return self._open[parent].connected(header.member)


async def _read(requests: Requests, child: Child) -> None:
    """What a child sends, until it ends or nobody wants more."""
    error: DeadheatError = Unavailable(f"member {child.member} of this epoch has ended")
    try:
        with suppress(DeadheatError):
            async for request in requests:
                await child.incoming.put(request.gradient)
    finally:
        child.incoming.end(error)
