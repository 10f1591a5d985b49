"""Operands kept in a store on another host: the same bytes are sent once, others never mistaken."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from tests.waiting import wait_until

from deadheat.client import Client, LocalCluster
from deadheat.client import transfers as moving
from deadheat.client.kept import Content, HashedRegion, Kept, digest, sampled
from deadheat.runtime.programs import MatrixType
from deadheat.v1 import matrix_pb2 as pb

RNG = np.random.default_rng(21)
SIZE = 512  # 2 MiB each.
B = RNG.standard_normal((SIZE, SIZE))


@contextmanager
def streaming(cluster: LocalCluster) -> Iterator[Client]:
    """A client that streams, as from another host."""
    with Client(cluster.address) as client:
        shared, client._link.connection.shared = client._link.connection.shared, None
        assert shared
        shared.close()
        yield client


@pytest.fixture
def far(cluster: LocalCluster) -> Iterator[Client]:
    with streaming(cluster) as client:
        yield client


def stored(client: Client) -> dict[str, tuple[int, int]]:
    """Matrices that a client of this cluster has left in the store and no job needs."""

    async def ask() -> pb.MatrixServiceListResponse:
        request = pb.MatrixServiceListRequest()
        return await client._link.connection.matrices.List(request, timeout=60)

    found = client._link.loop.call(ask()).matrices
    return {one.id: (one.type.rows, one.type.columns) for one in found}


def multiply(client: Client, b: np.ndarray, rows: int = 700) -> None:
    a = RNG.standard_normal((rows, SIZE))
    assert np.allclose(client.matmul(a, b, where="cluster"), a @ b, rtol=1e-9, atol=1e-9)


def kept(client: Client) -> list[str]:
    return [id_ for id_, shape in stored(client).items() if shape == (SIZE, SIZE)]


def test_an_operand_that_comes_again_is_sent_once(far: Client) -> None:
    before = kept(far)
    multiply(far, B)
    (first,) = set(kept(far)) - set(before)
    for b in (B, B.copy(), np.broadcast_to(B, (1, SIZE, SIZE))[0]):
        multiply(far, b)
    assert set(kept(far)) - set(before) == {first}


def test_an_array_that_was_changed_in_place_is_another_operand(far: Client) -> None:
    b = B.copy()
    multiply(far, b)
    before = sampled(b.view(np.uint8).reshape(-1).data)
    b[3, 100] += 1.0
    assert sampled(b.view(np.uint8).reshape(-1).data) == before  # Only the whole tells.
    multiply(far, b)
    b[0, 0] = -b[0, 0]
    multiply(far, b)
    b[3, 100] -= 1.0
    b[:] = B
    multiply(far, b)


def test_what_the_store_has_lost_is_sent_again(far: Client) -> None:
    multiply(far, B)
    lost = set(far._link.transfers._kept._entries)
    for id_ in lost:
        far._link.loop.call(far._link.transfers.give_up(id_))
    # The job that is over lets go of it a moment later.
    wait_until(lambda: not lost & stored(far).keys(), "the store to have lost it")
    multiply(far, B)


def test_a_client_that_closes_leaves_nothing(cluster: LocalCluster, client: Client) -> None:
    before = set(kept(client))  # What others have let go of may go meanwhile.
    with streaming(cluster) as far:
        multiply(far, B)
        assert set(kept(client)) - before
    wait_until(lambda: set(kept(client)) <= before, "what it kept to go")


def test_what_must_be_durable_is_sent_each_time(far: Client) -> None:
    a = RNG.standard_normal((SIZE, SIZE))
    far.matmul(a, B, durability="power")
    assert not far._link.transfers._kept.used_bytes


def test_kept_operands_are_bounded(far: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    far._link.transfers._kept.limit_bytes = 3 * B.nbytes
    for _ in range(4):
        multiply(far, RNG.standard_normal((SIZE, SIZE)), rows=100)
        assert far._link.transfers._kept.used_bytes <= 3 * B.nbytes
    monkeypatch.setattr(moving, "LEAST_BYTES", 1 << 40)
    multiply(far, B)  # Without keeping it all is as before.


KIND = MatrixType(4, 4, "float64")


def content(seed: int) -> Content:
    return Content.of(KIND, np.full((4, 4), float(seed)).view(np.uint8).reshape(-1).data)


def test_those_used_last_stay_and_those_in_use_stay() -> None:
    found = Kept(limit_bytes=3 * 128)
    for number in range(4):
        assert found.add(f"m{number}", KIND, content(number))
    assert list(found.surplus()) == []  # All of them are in use.
    assert found.take(content(0)) == "m0"
    for number in range(4):
        assert found.release(f"m{number}")
    assert list(found.surplus()) == ["m1"]
    assert found.take(content(1)) == ""
    assert not found.release("m1")
    assert list(found.surplus(everything=True)) == ["m2", "m3"]
    assert found.release("m0")
    assert list(found.surplus(everything=True)) == ["m0"]


def test_what_is_not_known_yet_is_not_taken() -> None:
    found = Kept(limit_bytes=3 * 128)
    assert found.add("m0", KIND)
    assert not found.may_be_same(KIND, content(0).sampled)
    assert found.take(content(0)) == ""
    found.tell("m0", content(0))
    found.tell("gone", content(0))
    assert found.may_be_same(KIND, content(0).sampled)
    assert found.take(content(0)) == "m0"
    assert not found.add("m1", MatrixType(100, 100, "float64"))


def test_bytes_that_were_sent_twice_are_not_known_for_sure() -> None:
    matrix = MatrixType(1000, 100, "float64")
    data = RNG.standard_normal((1000, 100)).view(np.uint8).reshape(-1).data
    region = HashedRegion(data, matrix)
    for offset in range(0, region.size_bytes, 10_000):
        region.read(offset, 10_000)
    assert region.content() == Content(matrix, sampled(data), digest(data))
    for offsets in ((0, 0, 10_000), (0,), (10_000,)):
        region = HashedRegion(data, matrix)
        for offset in offsets:
            region.read(offset, region.size_bytes)
        expected = offsets == (0,)
        assert (region.content() is not None) == expected
