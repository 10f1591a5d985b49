"""Shared memory between processes of one host: descriptors passed over a Unix socket.

The socket's name is abstract, so whoever can connect is on this host. A ticket, had from the
scheduler, says that the caller may use this store. Every mapping is a grant that ends with the
connection: a holder that was killed holds nothing, one that is merely stopped still does.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from google.protobuf.message import DecodeError

from deadheat.runtime import errors, pages, wire
from deadheat.runtime.frames import AsyncFrames, FrameSocket
from deadheat.runtime.programs import MatrixType
from deadheat.runtime.sockets import Listener, check_ticket, connected
from deadheat.store.matrices import Store
from deadheat.v1 import local_pb2 as pb
from deadheat.v1 import types_pb2

#: A grant, and a descriptor of what it is for.
Granted = tuple[pb.DescriptorResponse, int]

_REQUEST_TIMEOUT_S: Final = 20.0
_CONNECT_TIMEOUT_S: Final = 2.0
#: Connections that wait to be accepted.
_BACKLOG: Final = 128


class DescriptorServer:
    """The store's end. Lives on the store's event loop."""

    def __init__(self, store: Store, name: str, ticket: str) -> None:
        self._store = store
        self._ticket = ticket
        self._connections: set[_Connection] = set()
        self._listener = Listener(name, self._connect, backlog=_BACKLOG)

    def _connect(self, sock: socket.socket) -> None:
        _Connection(self._store, self._ticket, sock, self._connections)

    def close(self) -> None:
        self._listener.close()
        for connection in list(self._connections):
            connection.frames.close()


class _Connection:
    def __init__(
        self, store: Store, ticket: str, sock: socket.socket, all_connections: set[_Connection]
    ) -> None:
        self._store = store
        self._ticket = ticket
        self._grants: dict[int, str] = {}
        self._serial = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._all = all_connections
        self._all.add(self)
        self.frames = AsyncFrames(sock, self._on_frame, self._on_close)

    def _on_frame(self, payload: bytes, descriptors: list[int]) -> None:
        try:
            request = pb.DescriptorRequest.FromString(payload)
        except DecodeError:  # A stranger; who speaks our protocol does not send this.
            for descriptor in descriptors:
                os.close(descriptor)
            self.frames.close()
            return
        task = asyncio.get_running_loop().create_task(self._answer(request, descriptors))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, request: pb.DescriptorRequest, descriptors: list[int]) -> None:
        response = pb.DescriptorResponse(serial=request.serial)
        passed: list[int] = []
        try:
            check_ticket(request.ticket, self._ticket, "shared memory")
            match request.WhichOneof("request"):
                case "map":
                    passed = self._map(request.map, response)
                case "unmap":
                    self._unmap(request.unmap.grant)
                    return
                case "adopt" if descriptors:
                    await self._adopt(request.adopt, descriptors.pop(), response)
                case _:
                    raise errors.InvalidInput("the request is empty or of an unknown kind")
        except errors.DeadheatError as error:
            response.failure.CopyFrom(types_pb2.Failure(code=error.code, message=error.message))
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        self.frames.send(response.SerializeToString(), passed)
        for descriptor in passed:
            os.close(descriptor)

    def _map(self, request: pb.MapMatrix, response: pb.DescriptorResponse) -> list[int]:
        catalog = self._store.catalog
        get = catalog.get if request.writable else catalog.sealed
        matrix = get(request.matrix_id)
        descriptor, response.data_offset, response.size_bytes = self._store.open(
            matrix, writable=request.writable
        )
        response.matrix_id = matrix.id
        response.type.CopyFrom(wire.matrix_type_to_wire(matrix.type))
        self._serial += 1
        response.grant = self._serial
        self._grants[self._serial] = matrix.id
        matrix.grants += 1
        return [descriptor]

    def _unmap(self, grant: int) -> None:
        if matrix_id := self._grants.pop(grant, ""):
            self._store.ungrant(matrix_id)

    async def _adopt(
        self, request: pb.AdoptFile, descriptor: int, response: pb.DescriptorResponse
    ) -> None:
        matrix = await self._store.adopt(
            Path(request.path),
            descriptor,
            request.data_offset,
            wire.matrix_type_from_wire(request.type, field="type"),
            request_id=request.request_id,
            owner=request.owner,
        )
        response.matrix_id = matrix.id

    def _on_close(self) -> None:
        self._all.discard(self)
        for matrix_id in self._grants.values():
            self._store.ungrant(matrix_id)
        self._grants.clear()


@dataclass(eq=False)
class Mapping:
    """A matrix as memory of this process. It ends when the last view of `buffer` is gone."""

    type: MatrixType
    buffer: memoryview


class DescriptorClient:
    """The other end: maps matrices, hands over files. Any thread may call it."""

    def __init__(self, name: str, ticket: str) -> None:
        """Raises Unavailable if no such socket is on this host."""
        try:
            sock = connected(name, timeout_s=_CONNECT_TIMEOUT_S)
        except OSError as error:
            raise errors.Unavailable(f"shared memory: {error}") from None
        sock.settimeout(_REQUEST_TIMEOUT_S)
        self._frames = FrameSocket(sock)
        self._ticket = ticket
        self._serial = 0
        self._lock = threading.Lock()
        # Ends of mappings come from finalizers, which may run while this thread has the lock.
        self._ended: list[int] = []
        self._mapped = 0
        self._is_closing = False

    @property
    def socket_descriptor(self) -> int:
        """A process that maps what this connection was granted keeps a copy of this open, so that
        the store sees the connection end only when the last of them is gone."""
        return self._frames.socket.fileno()

    def map(self, matrix_id: str, *, writable: bool = False) -> Mapping:
        """Maps a whole matrix: shared if writable, else private (copy on write)."""
        ((response, descriptor),) = self.grant_all([(matrix_id, writable)])
        matrix_type = wire.matrix_type_from_wire(response.type, field="type")
        length = response.data_offset + response.size_bytes
        try:
            mapped = pages.map_file(descriptor, length, is_private=not writable)
        finally:
            os.close(descriptor)
        self._mapped += 1
        pages.when_unmapped(mapped, self._unmapped, response.grant)
        return Mapping(matrix_type, mapped[response.data_offset :])

    def grant_all(self, wanted: Sequence[tuple[str, bool]]) -> list[Granted]:
        """Matrices (and whether they are to be written) for somebody else to map: all or none.
        `unmap` ends a grant; the descriptor is the caller's."""
        found: list[Granted] = []
        try:
            for matrix_id, writable in wanted:
                one = pb.MapMatrix(matrix_id=matrix_id, writable=writable)
                response, (descriptor,) = self._call(pb.DescriptorRequest(map=one), ())
                found.append((response, descriptor))
        except BaseException:
            self.give_back(found)
            raise
        return found

    def give_back(self, granted: Iterable[Granted]) -> None:
        """Ends grants that nobody has mapped."""
        for response, descriptor in granted:
            os.close(descriptor)
            self.unmap(response.grant)

    def unmap(self, grant: int) -> None:
        self._end(grant)
        with self._lock:
            self._flush_ended()

    def adopt(self, request: pb.AdoptFile, descriptor: int) -> str:
        """Hands a file over; returns its matrix id."""
        response, _ = self._call(pb.DescriptorRequest(adopt=request), (descriptor,))
        return response.matrix_id

    def close(self) -> None:
        """Ends the connection as soon as nothing is mapped through it any more: an array that the
        user still has must not find its memory used for something else."""
        self._is_closing = True
        if self._mapped <= 0:
            self._frames.close()

    def _unmapped(self, grant: int) -> None:
        self._mapped -= 1
        self._end(grant)
        if self._is_closing:
            self.close()

    def _end(self, grant: int) -> None:
        self._ended.append(grant)
        if self._lock.acquire(blocking=False):
            try:
                self._flush_ended()
            finally:
                self._lock.release()

    def _flush_ended(self) -> None:
        while self._ended:
            unmap = pb.UnmapMatrix(grant=self._ended.pop())
            request = pb.DescriptorRequest(ticket=self._ticket, unmap=unmap)
            try:
                self._frames.send(request.SerializeToString())
            except OSError:
                return  # The connection is gone, and with it all grants.

    def _call(
        self, request: pb.DescriptorRequest, descriptors: tuple[int, ...]
    ) -> tuple[pb.DescriptorResponse, list[int]]:
        with self._lock:
            self._flush_ended()
            self._serial += 1
            request.serial, request.ticket = self._serial, self._ticket
            try:
                self._frames.send(request.SerializeToString(), descriptors)
                frame = self._frames.receive()
            except OSError as error:
                raise errors.Unavailable(f"shared memory: {error}") from None
        if frame is None:
            raise errors.Unavailable("shared memory: the store has closed the connection")
        response = pb.DescriptorResponse.FromString(frame[0])
        if response.HasField("failure"):
            raise errors.from_code(response.failure.code, response.failure.message)
        return response, frame[1]
