"""`Link`: what a client speaks to its cluster through, opened when it is first needed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Final, TypeVar

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt
from tenacity.wait import wait_random_exponential

from deadheat.client.arrays import Array
from deadheat.client.cluster import LocalCluster
from deadheat.client.connection import Connection, LoopThread
from deadheat.client.transfers import Transfers
from deadheat.runtime import hosts
from deadheat.runtime.errors import DeadheatError, Unavailable
from deadheat.runtime.settings import ClientSettings
from deadheat.v1 import types_pb2

T = TypeVar("T")

#: Times that a result is asked for while the store is away.
MAX_DOWNLOADS: Final = 6
DOWNLOAD_RETRY_S: Final = 0.5


class Link:
    """A loop of our own, and the connection that lives on it. If there is no cluster when one is
    needed, one is started, which ends with the link. Safe to use from several threads."""

    def __init__(self, on_open: Callable[[Connection], None]) -> None:
        """`on_open` is called once, as soon as there is a connection."""
        self.loop = LoopThread()
        self.own_cluster: LocalCluster | None = None
        self._on_open = on_open
        self._starting = threading.Lock()
        self._opened: tuple[Connection, Transfers] | None = None
        self._is_closed = False

    def look_for(self, settings: ClientSettings) -> None:
        """Opens the connection if there is a scheduler; raises Unavailable if the user named one
        that is not there."""
        try:
            self._open(settings)
        except Unavailable:
            if settings.is_explicit:
                self.loop.stop()
                raise
        except BaseException:
            self.loop.stop()
            raise

    def _open(self, settings: ClientSettings) -> None:
        connection = self.loop.call(_connected(settings))
        self._opened = connection, Transfers(connection)
        self._on_open(connection)

    def ensure_cluster(self) -> None:
        """Starts a cluster of our own if there was none, now that something needs one."""
        if self._opened:
            return
        with self._starting:
            if self._opened:
                return
            if self._is_closed:
                raise Unavailable("the client is closed")
            self.own_cluster = LocalCluster()
            self._open(ClientSettings(self.own_cluster.address, is_explicit=True, tls=None))

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs `work` on the loop, once there is a cluster to speak to, and waits."""
        self._ensure_for(work)
        return self.loop.call(work)

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Like `call`, but does not wait for `work`."""
        self._ensure_for(work)
        return self.loop.submit(work)

    def _ensure_for(self, work: Coroutine[Any, Any, Any]) -> None:
        try:
            self.ensure_cluster()
        except BaseException:
            work.close()
            raise

    @property
    def connection(self) -> Connection:
        assert self._opened, "ensure_cluster() first"
        return self._opened[0]

    @property
    def transfers(self) -> Transfers:
        assert self._opened, "ensure_cluster() first"
        return self._opened[1]

    async def download(self, result: types_pb2.Result) -> Array:
        """Fetches a result; a store that was started anew meanwhile is looked for."""
        async for attempt in AsyncRetrying(
            stop=stop_after_attempt(MAX_DOWNLOADS),
            wait=wait_random_exponential(multiplier=DOWNLOAD_RETRY_S, max=4 * DOWNLOAD_RETRY_S),
            retry=retry_if_exception_type(Unavailable),
            reraise=True,
        ):
            with attempt:
                if attempt.retry_state.attempt_number > 1:
                    await self.connection.open()
                return await self.transfers.download(result)
        raise AssertionError("the last attempt returns or raises")

    def close(self, let_go: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Ends it all; `let_go` is done first, if there is anything to let go of."""
        if self._is_closed:
            return
        self._is_closed = True
        with self._starting:
            if self._opened:
                self.loop.call(let_go())
                self.loop.call(self.transfers.close())
                self.loop.call(self.connection.close())
        self.loop.stop()
        if self.own_cluster:
            self.own_cluster.close()


async def _connected(settings: ClientSettings) -> Connection:
    connection = Connection(settings.scheduler, settings.tls)
    try:
        await connection.open()
        if not settings.is_explicit and connection.user != hosts.user_name():
            raise Unavailable(f"the scheduler at {settings.scheduler} is another user's")
    except DeadheatError:
        await connection.close()
        raise
    return connection
