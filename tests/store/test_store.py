"""A real store process: mapped and streamed, sealed, used again, shared with whom it may be."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from tests.store.running import RunningStore, fetched, refused, run, values

from deadheat.runtime import rpc, wire
from deadheat.runtime.errors import (
    Conflict,
    DataLost,
    InvalidInput,
    NotFound,
    PermissionRefused,
    Unavailable,
)
from deadheat.runtime.frames import FrameSocket
from deadheat.runtime.programs import MatrixType, Rectangle
from deadheat.store import transfer
from deadheat.store.descriptors import DescriptorClient
from deadheat.store.npyfiles import open_regular, read_header
from deadheat.store.regions import Region
from deadheat.v1 import local_pb2
from deadheat.v1 import matrix_pb2 as pb


def test_what_was_mapped_in_is_mapped_and_streamed_out(tmp_path: Path) -> None:
    async def test(store: RunningStore) -> None:
        array = values()
        matrix_id = await store.fill(array)
        shared = store.share()
        mapping = shared.map(matrix_id)
        view = np.frombuffer(mapping.buffer, np.float64).reshape(array.shape)
        assert np.array_equal(view, array)
        view += 1  # Private: nobody else sees it.
        assert np.array_equal(await fetched(store, matrix_id, array), array)
        shared.close()

    run(tmp_path, test)


def test_rectangles_stream_in_from_several_writers(tmp_path: Path) -> None:
    async def test(store: RunningStore) -> None:
        array = values(700, 400)
        matrix = MatrixType(700, 400, "float64")
        matrix_id = await store.create(700, 400)
        pieces = [
            Rectangle(0, 300, 0, 400),
            Rectangle(300, 700, 0, 150),
            Rectangle(300, 700, 150, 400),
        ]
        buffer = memoryview(array.data).cast("B")
        await asyncio.gather(
            *(
                transfer.put(store.stub, matrix_id, f"u{k}", piece, Region(buffer, matrix, piece))
                for k, piece in enumerate(pieces)
            )
        )
        await store.seal(matrix_id)
        assert np.array_equal(await fetched(store, matrix_id, array), array)

    run(tmp_path, test)


def test_a_sealed_matrix_is_not_written_and_an_open_one_not_read(tmp_path: Path) -> None:
    async def test(store: RunningStore) -> None:
        matrix = MatrixType(4, 4, "float64")
        matrix_id = await store.create(4, 4)
        region = Region(memoryview(bytearray(128)), matrix, matrix.whole())
        await refused(
            transfer.get(store.stub, matrix_id, matrix.whole(), memoryview(bytearray(128))),
            Conflict,
            "still being written",
        )
        shared = store.share()
        with pytest.raises(Conflict, match="still being written"):
            shared.map(matrix_id)
        await store.seal(matrix_id)
        put = transfer.put(store.stub, matrix_id, "u", matrix.whole(), region)
        await refused(put, Conflict, "is sealed")
        with pytest.raises(Conflict, match="is sealed"):
            shared.map(matrix_id, writable=True)
        shared.close()

    run(tmp_path, test)


def chunk(offset: int, data: bytes, checksum: int | None = None) -> pb.MatrixServicePutRequest:
    import google_crc32c

    found = google_crc32c.value(data) if checksum is None else checksum
    return pb.MatrixServicePutRequest(chunk=pb.Chunk(offset=offset, data=data, crc32c=found))


def test_an_upload_goes_on_where_it_broke(tmp_path: Path) -> None:
    async def test(store: RunningStore) -> None:
        matrix = MatrixType(1000, 100, "float64")
        matrix_id = await store.create(1000, 100)
        data = values(1000, 100).tobytes()
        header = pb.PutHeader(
            matrix_id=matrix_id, upload_id="u", rectangle=wire.rectangle_to_wire(matrix.whole())
        )

        async def flipped() -> Any:
            yield pb.MatrixServicePutRequest(header=header)
            yield chunk(0, data[:100_000])
            yield chunk(100_000, data[100_000:200_000], checksum=12345)

        with pytest.raises(grpc.RpcError) as caught:
            await store.stub.Put(flipped(), timeout=20)
        assert isinstance(rpc.from_rpc_error(caught.value, doing="test"), DataLost)
        stat = pb.MatrixServiceStatRequest(matrix_id=matrix_id, upload_id="u")
        assert (await store.stub.Stat(stat, timeout=20)).received_bytes == 100_000

        header.offset = 100_000

        async def rest() -> Any:
            yield pb.MatrixServicePutRequest(header=header)
            yield chunk(100_000, data[100_000:])

        answer = await store.stub.Put(rest(), timeout=20)
        assert answer.received_bytes == len(data)
        await store.seal(matrix_id)
        assert (await fetched(store, matrix_id, values(1000, 100))).tobytes() == data

    run(tmp_path, test)


@pytest.mark.parametrize(
    ("rectangle", "offset", "chunks", "words"),
    [
        (Rectangle(0, 5, 0, 4), 0, [], r"is not inside 4 x 4"),
        (Rectangle(3, 2, 0, 4), 0, [], r"is not inside 4 x 4"),
        (Rectangle(0, 4, 0, 4), 8, [], "leaves a gap: 0 bytes"),
        (Rectangle(0, 4, 0, 4), 0, [(8, 8)], "chunk at offset 8; 0 is next"),
        (Rectangle(0, 4, 0, 4), 0, [(0, 64), (32, 32)], "chunk at offset 32; 64 is next"),
        (Rectangle(0, 4, 0, 4), 0, [(0, 136)], "ends at 136; the rectangle has 128"),
    ],
)
def test_a_lying_upload_is_refused(
    tmp_path: Path, rectangle: Rectangle, offset: int, chunks: list[tuple[int, int]], words: str
) -> None:
    async def test(store: RunningStore) -> None:
        header = pb.PutHeader(
            matrix_id=await store.create(4, 4),
            upload_id="u",
            rectangle=wire.rectangle_to_wire(rectangle),
            offset=offset,
        )

        async def parts() -> Any:
            yield pb.MatrixServicePutRequest(header=header)
            for start, size in chunks:
                yield chunk(start, bytes(size))

        await refused(store.stub.Put(parts(), timeout=20), InvalidInput, words)

    run(tmp_path, test)


def test_creating_twice_with_one_request_makes_one_matrix(tmp_path: Path) -> None:
    async def test(store: RunningStore) -> None:
        both = await asyncio.gather(
            store.create(500, 500, request_id="same"), store.create(500, 500, request_id="same")
        )
        assert both[0] == both[1]
        assert len((await store.listing()).matrices) == 1

    run(tmp_path, test)


def test_room_is_used_again_only_when_nobody_maps_it(tmp_path: Path) -> None:
    async def test(store: RunningStore) -> None:
        array = values()
        matrix_id = await store.fill(array)
        shared = store.share()
        view = np.frombuffer(shared.map(matrix_id).buffer, np.float64).reshape(array.shape)
        await store.delete(matrix_id)
        other = await store.fill(values() + 5)
        assert np.array_equal(view, array)
        shared.close()  # The connection stays as long as the array.
        await store.fill(values() + 7)
        assert np.array_equal(view, array)
        used = (await store.listing()).memory_bytes
        del view
        while (await store.listing()).memory_bytes > used - array.nbytes:
            await asyncio.sleep(0.01)
        await refused(fetched(store, matrix_id, array), NotFound, "is not in the store")
        assert np.array_equal(await fetched(store, other, array), array + 5)

    run(tmp_path, test)


def test_a_held_matrix_outlives_its_owner(tmp_path: Path) -> None:
    async def test(store: RunningStore) -> None:
        array = values()
        matrix_id = await store.fill(array)
        hold = pb.MatrixServiceHoldRequest(request_id="h", matrix_ids=[matrix_id], holder="job:1")
        await store.stub.Hold(hold, timeout=20)
        await store.delete(matrix_id)
        assert np.array_equal(await fetched(store, matrix_id, array), array)
        release = pb.MatrixServiceReleaseRequest(request_id="r", holder="job:1")
        await store.stub.Release(release, timeout=20)
        await refused(fetched(store, matrix_id, array), NotFound, "is not in the store")

    run(tmp_path, test)


def test_a_users_file_is_read_in_place_and_watched(tmp_path: Path) -> None:
    async def test(store: RunningStore) -> None:
        array = values()
        path = tmp_path / "a.npy"
        np.save(path, array)
        header = read_header(path)
        shared = store.share()
        adopt = local_pb2.AdoptFile(
            request_id="a",
            path=str(path),
            data_offset=header.data_offset,
            type=wire.matrix_type_to_wire(MatrixType(300, 200, "float64")),
        )
        file = await asyncio.to_thread(open_regular, path)
        matrix_id = shared.adopt(adopt, file.fileno())
        file.close()
        view = np.frombuffer(shared.map(matrix_id).buffer, np.float64).reshape(array.shape)
        assert np.array_equal(view, array)
        assert (await store.listing()).memory_bytes == 0
        await asyncio.to_thread(path.write_bytes, path.read_bytes()[:-8] + b"changed!")
        await refused(fetched(store, matrix_id, array), Conflict, "was changed while")
        shared.close()

    run(tmp_path, test)


def test_shared_memory_needs_the_ticket_and_the_host(tmp_path: Path) -> None:
    async def test(store: RunningStore) -> None:
        matrix_id = await store.fill(values())
        name = str(store.child.ready["descriptor_socket"])
        for guess in ("guess", "gueß"):
            stranger = DescriptorClient(name, guess)
            with pytest.raises(PermissionRefused, match="ticket"):
                stranger.map(matrix_id)
            stranger.close()
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as nonsense:
            nonsense.settimeout(20)
            nonsense.connect("\0" + name)
            frames = FrameSocket(nonsense)
            frames.send(b"\xff\xff\xff")
            assert frames.receive() is None
        assert (await store.listing()).matrices
        with pytest.raises(Unavailable):
            DescriptorClient("deadheat-nowhere", "guess")

    run(tmp_path, test)


def opened(directory: Path) -> list[str]:
    """Files below a directory of which this process has descriptors."""
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # Other threads open and close theirs.
            found.append(str(descriptor.readlink()))
    return [path for path in found if path.startswith(str(directory))]


def test_of_several_grants_all_are_given_or_none(tmp_path: Path) -> None:
    async def test(store: RunningStore) -> None:
        first, second = await store.create(300, 200), await store.create(300, 200)
        shared = store.share()
        with pytest.raises(NotFound):
            shared.grant_all([(first, True), ("m-none", False)])
        assert opened(tmp_path / "shm") == []
        # Nothing of it is mapped, so its memory is free as soon as the store hears of both.
        await store.delete(first)
        async with asyncio.timeout(60):
            while (await store.listing()).memory_bytes >= 2 * values().nbytes:
                await asyncio.sleep(0.01)
        ((_, one), (_, other)) = shared.grant_all([(second, True), (second, True)])
        assert len(opened(tmp_path / "shm")) == 2
        os.pwrite(one, b"deadheat", 0)
        assert os.pread(other, 8, 0) == b"deadheat"
        os.close(one)
        os.close(other)
        shared.close()

    run(tmp_path, test)


def test_two_stores_do_not_share_a_directory(tmp_path: Path) -> None:
    from tests.store.running import start_child

    from deadheat.runtime.errors import ClusterError

    async def test(store: RunningStore) -> None:
        with pytest.raises(ClusterError):
            await asyncio.to_thread(start_child, tmp_path)

    run(tmp_path, test)
