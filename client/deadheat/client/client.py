"""`Client`: NumPy in, NumPy out, with a cluster in between."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from deadheat.client.connection import Connection
from deadheat.client.link import Link
from deadheat.client.models import Models
from deadheat.client.places import News
from deadheat.client.products import Products
from deadheat.client.trainings import Trainings
from deadheat.runtime import rpc
from deadheat.runtime.settings import ClientSettings, Sources
from deadheat.v1 import cluster_pb2


class Offline(Products, Trainings):
    """Products in this process, for which there need be no cluster at all."""

    def __init__(self) -> None:
        super().__init__(None)


class Client(Products, Trainings):
    """A connection to a cluster.

    `Client("host:port")`, else DEADHEAT_SCHEDULER, else this user's scheduler at the default
    address, else a LocalCluster of its own that ends with the client; it is started when it is
    first needed, and products that are computed in this process do not need it. Use the client in
    a `with` block, or `close` it. Safe to use from several threads.
    """

    def __init__(self, scheduler: str | None = None) -> None:
        settings = ClientSettings.load(Sources("client", {"scheduler": scheduler}))
        link = Link(self._on_open)
        super().__init__(link)
        link.look_for(settings)

    def _on_open(self, connection: Connection) -> None:
        self._places.shares_memory = connection.shared is not None
        self._places.ask = lambda: self._link.loop.submit(self._hear())

    async def _hear(self) -> News:
        """What the devices can give now, and how far away the scheduler is."""
        started_s = time.perf_counter()
        with rpc.translated("asking what the cluster can give"):
            answer = await self._link.connection.cluster.ListNodes(
                cluster_pb2.ClusterServiceListNodesRequest(), timeout=rpc.CALL_TIMEOUT_S
            )
        now_s = time.perf_counter()
        return News.of(answer.nodes, now_s - started_s, now_s)

    @property
    def models(self) -> Models:
        """Networks that the cluster keeps by name and version, and serves."""
        return Models(self, self._link)

    @property
    def address(self) -> str:
        self._link.ensure_cluster()
        return self._link.connection.address

    @property
    def shares_memory(self) -> bool:
        """Whether matrices are mapped (same host) rather than streamed."""
        self._link.ensure_cluster()
        return self._link.connection.shared is not None

    def close(self) -> None:
        """Ends the connection; jobs go on, arrays that you have stay valid. What `put` and
        `persist` hold is given up."""
        self._link.close(self._let_go)
        self._resident.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
