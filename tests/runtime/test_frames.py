"""Frames: whole, in order, with the descriptors that belong to them."""

from __future__ import annotations

import asyncio
import os
import socket
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deadheat.runtime.errors import LimitReached
from deadheat.runtime.frames import MAX_FRAME_BYTES, AsyncFrames, FrameSocket


def pair() -> tuple[FrameSocket, FrameSocket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    return FrameSocket(ours), FrameSocket(theirs)


def descriptor_of(text: str) -> int:
    descriptor = os.memfd_create("test")
    os.write(descriptor, text.encode())
    return descriptor


@given(st.lists(st.tuples(st.binary(max_size=2000), st.integers(0, 3)), max_size=8))
def test_frames_arrive_whole_in_order_with_their_descriptors(
    frames: list[tuple[bytes, int]],
) -> None:
    ours, theirs = pair()
    for number, (payload, count) in enumerate(frames):
        descriptors = [descriptor_of(f"{number}/{k}") for k in range(count)]
        ours.send(payload, descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
    ours.close()
    for number, (payload, count) in enumerate(frames):
        frame = theirs.receive()
        assert frame is not None
        assert frame[0] == payload
        texts = [os.pread(descriptor, 100, 0).decode() for descriptor in frame[1]]
        assert texts == [f"{number}/{k}" for k in range(count)]
        for descriptor in frame[1]:
            os.close(descriptor)
    assert theirs.receive() is None
    theirs.close()


def test_a_frame_beyond_the_limit_is_refused_before_it_is_sent() -> None:
    ours, theirs = pair()
    with pytest.raises(LimitReached, match="the limit is"):
        ours.send(bytes(MAX_FRAME_BYTES + 1))
    ours.close()
    theirs.close()


def test_large_frames_pass_to_a_slow_reader_on_a_loop() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    payloads = [bytes([k]) * (MAX_FRAME_BYTES // 2) for k in range(5)]
    received: list[bytes] = []

    def read() -> None:
        reader = FrameSocket(theirs)
        while (frame := reader.receive()) is not None:
            received.append(frame[0])
        reader.close()

    async def send() -> None:
        closed = asyncio.Event()
        frames = AsyncFrames(ours, lambda payload, descriptors: None, closed.set)
        for payload in payloads:
            frames.send(payload)
        while len(received) < len(payloads):
            await asyncio.sleep(0.005)
        frames.close()
        assert closed.is_set()

    reading = threading.Thread(target=read)
    reading.start()
    asyncio.run(send())
    reading.join()
    assert received == payloads


def test_a_peer_that_claims_too_much_is_cut_off() -> None:
    async def run() -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        closed = asyncio.Event()
        AsyncFrames(ours, lambda payload, descriptors: None, closed.set)
        theirs.sendall(b"\xff\xff\xff\xff\x00garbage")
        await asyncio.wait_for(closed.wait(), 60)
        theirs.close()

    asyncio.run(run())
