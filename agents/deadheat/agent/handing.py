"""Memory of gradients between agents of one host: a child hands its own to its parent to add there.

The socket's name is abstract, so whoever can connect is on this host. The ticket, had over the
connection between the agents, says that the caller is one of those who share the epoch.

Rules of this file: memory is handed before the first gradient or never; where anything is in the
way, gradients travel as chunks. What is mapped cannot be made shorter by anybody (a seal): to read
beyond its end would kill this process.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import secrets
import socket
from collections.abc import Callable
from typing import Final

from google.protobuf.message import DecodeError

from deadheat.runtime import pages
from deadheat.runtime.errors import DeadheatError, InvalidInput, LimitReached
from deadheat.runtime.frames import AsyncFrames
from deadheat.runtime.sockets import Listener, check_ticket, connected
from deadheat.v1 import exchange_pb2, local_pb2, types_pb2

#: A parent on this host answers at once; without an answer gradients travel as chunks.
ANSWER_S: Final = 2.0
#: Connections at one time: a child has one for a moment only.
MAX_CONNECTIONS: Final = 64

#: Takes a child's memory, by exchange and member; raises what it cannot be taken for.
Take = Callable[[str, int, int], None]


class Desk:
    """Where children on this host hand over their memory. On the agent's event loop."""

    def __init__(self, take: Take) -> None:
        self._take = take
        self._name = f"deadheat-gradients-{secrets.token_hex(16)}"
        self._ticket = secrets.token_hex(16)
        self._listener: Listener | None = None
        self._connections: set[AsyncFrames] = set()

    def welcome(self) -> exchange_pb2.ExchangeWelcome:
        """Where it is; it opens when somebody is told."""
        if self._listener is None:
            self._listener = Listener(self._name, self._connect, backlog=MAX_CONNECTIONS)
        return exchange_pb2.ExchangeWelcome(socket=self._name, ticket=self._ticket)

    def _connect(self, sock: socket.socket) -> None:
        if len(self._connections) >= MAX_CONNECTIONS:
            sock.close()
            return

        def heard(payload: bytes, descriptors: list[int]) -> None:
            frames.send(self._answer(payload, descriptors).SerializeToString())

        frames = AsyncFrames(sock, heard, lambda: self._connections.discard(frames))
        self._connections.add(frames)

    def _answer(self, payload: bytes, descriptors: list[int]) -> local_pb2.HandedMemoryAnswer:
        try:
            handed = _handed(payload)
            check_ticket(handed.ticket, self._ticket, "memory of gradients")
            if len(descriptors) != 1:
                raise InvalidInput(f"{len(descriptors)} descriptors came where one should be")
            self._take(handed.exchange_id, handed.member, descriptors[0])
        except DeadheatError as error:
            failure = types_pb2.Failure(code=error.code, message=error.message)
            return local_pb2.HandedMemoryAnswer(failure=failure)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        return local_pb2.HandedMemoryAnswer()

    def close(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for frames in list(self._connections):
            frames.close()


def _handed(payload: bytes) -> local_pb2.HandedMemory:
    try:
        return local_pb2.HandedMemory.FromString(payload)
    except DecodeError as error:
        raise InvalidInput(f"what came is no memory of gradients: {error}") from None


def mapped(descriptor: int, size_bytes: int) -> memoryview:
    """Somebody's memory, which nobody can make shorter; raises InvalidInput if it is not that."""
    try:
        found, seals = os.fstat(descriptor).st_size, fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
    except OSError as error:
        raise InvalidInput(f"a descriptor of memory should have come: {error}") from None
    if found != size_bytes or not seals & fcntl.F_SEAL_SHRINK:
        raise InvalidInput(
            f"memory of {found} bytes came (seals {seals:#x}); it must have {size_bytes}, and be "
            "sealed against shrinking"
        )
    try:
        return pages.map_file(descriptor, size_bytes)
    except OSError as error:
        raise LimitReached(f"memory of gradients cannot be mapped: {error}") from None


async def hand(
    welcome: exchange_pb2.ExchangeWelcome, exchange: str, member: int, descriptor: int
) -> bool:
    """Hands memory to a parent; whether it has it now. It does not if it is on another host."""
    if not welcome.socket:
        return False
    try:
        sock = connected(welcome.socket, timeout_s=0)
    except OSError:  # Also where more wait there than may.
        return False
    answered: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def answer(is_taken: bool) -> None:
        if not answered.done():
            answered.set_result(is_taken)

    def heard(payload: bytes, descriptors: list[int]) -> None:
        for one in descriptors:
            os.close(one)
        found = local_pb2.HandedMemoryAnswer.FromString(payload)
        answer(not found.HasField("failure"))

    frames = AsyncFrames(sock, heard, lambda: answer(False))
    message = local_pb2.HandedMemory(ticket=welcome.ticket, exchange_id=exchange, member=member)
    frames.send(message.SerializeToString(), [descriptor])
    try:
        async with asyncio.timeout(ANSWER_S):
            return await answered
    except TimeoutError:
        return False
    finally:
        frames.close()
