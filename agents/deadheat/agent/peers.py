"""Other agents that blocks are fetched from: channels to them, and who is not worth asking."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import grpc

from deadheat.runtime import rpc
from deadheat.runtime.credentials import TlsFiles
from deadheat.runtime.errors import LimitReached, NotFound, TimedOut, Unavailable
from deadheat.v1.matrix_pb2_grpc import MatrixServiceStub

if TYPE_CHECKING:
    from deadheat.v1.matrix_pb2_grpc import MatrixServiceAsyncStub

#: Channels that are kept open; those used last.
MAX_CHANNELS: Final = 32
#: Peers asked for one block, whatever the scheduler says.
MAX_ASKED: Final = 4
#: A peer that could not be reached, let us wait, or sent rubbish is not asked for so long.
AVOIDED_FOR_S: Final = 30.0


@dataclass(frozen=True)
class Peer:
    """Another agent. `has_failed` takes note of an error, and returns whether it was one that
    costs time, so that the store should be asked next."""

    address: str
    stub: Callable[[], MatrixServiceAsyncStub]
    has_failed: Callable[[Exception], bool]


class Peers:
    """All other agents that this one has heard of lately. On its event loop."""

    def __init__(self, tls: TlsFiles | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._tls = tls
        self._clock = clock
        self._channels: OrderedDict[str, grpc.aio.Channel] = OrderedDict()
        self._avoided_until: dict[str, float] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def of(self, addresses: Iterable[str]) -> Sequence[Peer]:
        """Those of them that are worth asking, in the same order."""
        now = self._clock()
        self._avoided_until = {
            address: until for address, until in self._avoided_until.items() if until > now
        }
        worth = [address for address in addresses if address not in self._avoided_until]
        return [self._peer(address) for address in worth[:MAX_ASKED]]

    def _peer(self, address: str) -> Peer:
        return Peer(
            address, lambda: self._stub(address), lambda error: self._has_failed(address, error)
        )

    def _has_failed(self, address: str, error: Exception) -> bool:
        if not isinstance(error, (NotFound, LimitReached)):  # It may have something else, or later.
            self._avoided_until[address] = self._clock() + AVOIDED_FOR_S
        return isinstance(error, (Unavailable, TimedOut))

    def _stub(self, address: str) -> MatrixServiceAsyncStub:
        channel = self._channels.pop(address, None)
        if channel is None:
            channel = rpc.aio_channel(address, self._tls, rpc.data_options(address))
        self._channels[address] = channel
        if len(self._channels) > MAX_CHANNELS:
            _, oldest = self._channels.popitem(last=False)
            # Whoever still fetches through it goes on elsewhere.
            closing = asyncio.get_running_loop().create_task(oldest.close())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
        stub: MatrixServiceAsyncStub = MatrixServiceStub(channel)
        return stub

    async def close(self) -> None:
        while self._channels:
            _, channel = self._channels.popitem()
            await channel.close()
