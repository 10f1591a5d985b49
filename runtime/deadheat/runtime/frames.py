"""Frames over Unix stream sockets, with file descriptors: length, descriptor count, payload.

Rules of this file: payloads are protobuf (never pickle); a frame and its descriptors arrive
together, because the kernel delivers descriptors no later than the byte they were sent with.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from deadheat.runtime.errors import DataLost, LimitReached

_HEADER: Final = struct.Struct("<IB")
#: An inline operand or result with its envelope fits; what is larger is not ours.
MAX_FRAME_BYTES: Final = 4 << 20
#: Operands of one sub-task plus its result.
MAX_DESCRIPTORS: Final = 64
#: Frames that wait for a peer that does not read; then the peer is given up.
MAX_QUEUED_FRAMES: Final = 4096

Frame = tuple[bytes, list[int]]


def _pack(payload: bytes, descriptors: Sequence[int]) -> bytes:
    if len(payload) > MAX_FRAME_BYTES:
        raise LimitReached(f"a frame has {len(payload)} bytes; the limit is {MAX_FRAME_BYTES}")
    return _HEADER.pack(len(payload), len(descriptors)) + payload


class _Assembler:
    """Bytes and descriptors in, whole frames out."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._descriptors: deque[int] = deque()

    def feed(self, data: bytes, descriptors: Sequence[int]) -> None:
        self._bytes += data
        self._descriptors.extend(descriptors)

    def take(self) -> Frame | None:
        if len(self._bytes) < _HEADER.size:
            return None
        length, count = _HEADER.unpack_from(self._bytes)
        if length > MAX_FRAME_BYTES or count > MAX_DESCRIPTORS:
            raise DataLost(f"a frame claims {length} bytes and {count} descriptors")
        if len(self._bytes) < _HEADER.size + length:
            return None
        payload = bytes(self._bytes[_HEADER.size : _HEADER.size + length])
        del self._bytes[: _HEADER.size + length]
        return payload, [self._descriptors.popleft() for _ in range(count)]

    def close(self) -> None:
        while self._descriptors:
            os.close(self._descriptors.popleft())


class FrameSocket:
    """A blocking end. Any thread may send; one thread receives."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self._assembler = _Assembler()
        self._sending = threading.Lock()

    def send(self, payload: bytes, descriptors: Sequence[int] = ()) -> None:
        frame = _pack(payload, descriptors)
        with self._sending:
            sent = socket.send_fds(self.socket, [frame], descriptors)
            self.socket.sendall(frame[sent:])

    def receive(self) -> Frame | None:
        """The next frame; None when the other end has closed."""
        while (frame := self._assembler.take()) is None:
            data, descriptors, _, _ = socket.recv_fds(self.socket, 1 << 16, MAX_DESCRIPTORS)
            if not data:
                self._assembler.close()
                return None
            self._assembler.feed(data, descriptors)
        return frame

    def close(self) -> None:
        # shutdown first: it wakes a thread that is blocked in receive, close alone does not.
        try:
            self.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.socket.close()


class AsyncFrames:
    """An end on an event loop: `on_frame` is called for each frame, `on_close` once."""

    def __init__(
        self,
        sock: socket.socket,
        on_frame: Callable[[bytes, list[int]], None],
        on_close: Callable[[], None],
    ) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._on_frame = on_frame
        self._on_close = on_close
        self._assembler = _Assembler()
        self._queue: deque[tuple[bytes, list[int]]] = deque()
        self._loop = asyncio.get_running_loop()
        self._closed = False
        self._loop.add_reader(sock, self._readable)

    def send(self, payload: bytes, descriptors: Sequence[int] = ()) -> None:
        """Sends now or as soon as the peer reads. Descriptors are duplicated, the caller's stay."""
        if self._closed:
            return
        if len(self._queue) >= MAX_QUEUED_FRAMES:
            self.close()
            return
        copies = [os.dup(descriptor) for descriptor in descriptors]
        self._queue.append((_pack(payload, copies), copies))
        if len(self._queue) == 1:
            self._writable()

    def _writable(self) -> None:
        try:
            while self._queue:
                frame, descriptors = self._queue[0]
                sent = socket.send_fds(self._socket, [frame], descriptors)
                for descriptor in descriptors:
                    os.close(descriptor)
                if sent == len(frame):
                    self._queue.popleft()
                else:
                    self._queue[0] = (frame[sent:], [])
        except BlockingIOError:
            self._loop.add_writer(self._socket, self._writable)
        except OSError:
            self.close()
        else:
            self._loop.remove_writer(self._socket)

    def _readable(self) -> None:
        try:
            data, descriptors, _, _ = socket.recv_fds(self._socket, 1 << 18, MAX_DESCRIPTORS)
            if not data:
                self.close()
                return
            self._assembler.feed(data, descriptors)
            while not self._closed and (frame := self._assembler.take()) is not None:
                self._on_frame(*frame)
        except BlockingIOError:
            return
        except (OSError, DataLost):
            self.close()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._assembler.close()
        for _, descriptors in self._queue:
            for descriptor in descriptors:
                os.close(descriptor)
        self._queue.clear()
        self._socket.close()
        self._on_close()
