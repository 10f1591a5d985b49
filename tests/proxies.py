"""A TCP proxy for tests that breaks connections on purpose: it resets, truncates, stalls, flips.

It may listen in another network namespace than the one it connects from, so that a process there
reaches daemons of this host as if they were on another one.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final, Literal

_READ_BYTES: Final = 64 << 10
_CLONE_NEWNET: Final = 0x40000000

Kind = Literal["reset", "truncate", "stall", "flip"]


@dataclass(eq=False)
class Fault:
    """Something that befalls one connection once, when so many bytes went through it."""

    kind: Kind
    after_bytes: int
    #: Of bytes from the server to the client, or else of those to the server.
    to_client: bool = True
    bit: int = 0
    #: It waits for this: what went through before may be on its way to the other end for long.
    due: threading.Event | None = None
    happened: threading.Event = field(default_factory=threading.Event)


class Proxy:
    """Runs on a loop of its own, in a thread. At most one fault is taken by each connection."""

    def __init__(self, target: tuple[str, int], listener: socket.socket) -> None:
        self.target = target
        self.port = int(listener.getsockname()[1])
        self.connections = 0
        #: Bytes that clients have sent, those that are held back included.
        self.sent_bytes = 0
        self._listener = listener
        self._faults: list[Fault] = []
        self._loop = asyncio.new_event_loop()
        self._released = asyncio.Event()
        self._ended = asyncio.Event()
        self._serving: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._thread.start()

    def add(self, *faults: Fault) -> None:
        """For the connections to come or those that are there, one after the other."""
        self._faults.extend(faults)

    def clear(self) -> None:
        """No further faults."""
        self._faults.clear()

    def release(self) -> None:
        """What was held back in a stall goes on."""
        self._loop.call_soon_threadsafe(self._released.set)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(60)
        self._loop.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._until_ended())

    async def _until_ended(self) -> None:
        server = await asyncio.start_server(self._accept, sock=self._listener)
        await self._ended.wait()
        server.close()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = self._loop.create_task(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers, pumps = [writer], []
        try:
            server_reader, server_writer = await asyncio.open_connection(*self.target)
            writers.append(server_writer)
            both = (writer, server_writer)
            pumps = [
                self._loop.create_task(self._pump(reader, server_writer, both, to_client=False)),
                self._loop.create_task(self._pump(server_reader, writer, both, to_client=True)),
            ]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        except OSError:
            pass  # Nobody listens there: the client finds its connection closed.
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            for end in writers:
                end.close()
            for end in writers:
                with suppress(OSError):
                    await end.wait_closed()

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        writers: tuple[asyncio.StreamWriter, ...],
        *,
        to_client: bool,
    ) -> None:
        done = 0
        with suppress(OSError):
            while data := await reader.read(_READ_BYTES):
                if not to_client:
                    self.sent_bytes += len(data)
                if fault := self._due(to_client, done + len(data)):
                    changed = await self._befall(fault, data, done, writers)
                    if changed is None:
                        return
                    data = changed
                done += len(data)
                writer.write(data)
                await writer.drain()

    def _due(self, to_client: bool, done: int) -> Fault | None:
        for fault in self._faults:
            if fault.to_client == to_client:
                if done > fault.after_bytes:
                    self._faults.remove(fault)
                    return fault
                return None
        return None

    async def _befall(
        self, fault: Fault, data: bytes, done: int, writers: tuple[asyncio.StreamWriter, ...]
    ) -> bytes | None:
        if fault.due:
            assert await asyncio.to_thread(fault.due.wait, 60)
        fault.happened.set()
        match fault.kind:
            case "flip":
                changed = bytearray(data)
                place = max(0, min(len(data) - 1, fault.after_bytes - done))
                changed[place] ^= 1 << fault.bit
                return bytes(changed)
            case "stall":
                await self._released.wait()
                return data
            case "reset":
                for writer in writers:
                    sock = writer.get_extra_info("socket")
                    linger = struct.pack("ii", 1, 0)
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    writer.transport.abort()
                return None
            case "truncate":
                return None


@contextmanager
def proxy(
    port: int, *, listen_port: int = 0, namespace: str = "", host: str = "127.0.0.1"
) -> Iterator[Proxy]:
    """In front of a port of this host; listens on loopback, that of a named namespace if given."""

    def listening() -> socket.socket:
        return socket.create_server(("127.0.0.1", listen_port), backlog=64)

    found = Proxy((host, port), inside(namespace, listening) if namespace else listening())
    try:
        yield found
    finally:
        found.close()


def inside(namespace: str, make: Callable[[], socket.socket]) -> socket.socket:
    """A socket of another network namespace: it stays there, whoever uses it."""
    made: list[socket.socket | OSError] = []

    def enter() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        descriptor = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
        try:
            if libc.setns(descriptor, _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
            made.append(make())
        except OSError as error:
            made.append(error)
        finally:
            os.close(descriptor)

    # A thread has a namespace of its own, and this one ends with it.
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    if isinstance(made[0], OSError):
        raise made[0]
    return made[0]
