"""The store's work: makes, seals, spills and reclaims matrices, one allocation at a time.

Bookkeeping happens on the event loop; what blocks (zeroing pages, writing files, unlinking) in a
thread, under one lock, so that the arena pool is never used from two places at once.
"""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from deadheat.runtime import logs, pages
from deadheat.runtime.errors import Conflict, InvalidInput, LimitReached, NotFound
from deadheat.runtime.ids import new_id
from deadheat.runtime.pages import HUGE_BYTES
from deadheat.runtime.programs import MatrixType, Rectangle
from deadheat.runtime.units import format_bytes
from deadheat.store.arenas import Arena, ArenaPool
from deadheat.store.catalog import (
    SEALED_TTL_S,
    Catalog,
    InMemory,
    Matrix,
    OnDisk,
    Place,
    Upload,
    UserFile,
    check_unchanged,
)
from deadheat.store.npyfiles import FileIdentity
from deadheat.store.ondisk import make_durable, new_npy, write_npy
from deadheat.store.regions import Region

log = logs.get("store")

SWEEP_INTERVAL_S: Final = 5.0
#: Uploads open in one matrix; a result has one for each device that works on it.
MAX_UPLOADS: Final = 100_000
#: Memory that gets huge pages in one go: about 50 ms, during which an arena cannot be unlinked.
_JOIN_BYTES: Final = 32 << 20


class Store:
    """All matrices of one store process."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self._blocking = asyncio.Lock()
        self._mappings: dict[str, memoryview] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._joining: asyncio.Task[None] | None = None

    @property
    def pool(self) -> ArenaPool:
        return self.catalog.pool

    # Making

    async def create(
        self,
        matrix_type: MatrixType,
        *,
        request_id: str,
        matrix_id: str = "",
        owner: str = "",
        ttl_s: float | None = None,
        holder: str = "",
        durable: bool = False,
    ) -> Matrix:
        """A new matrix to write; the same one again for the same request id."""
        if known := self.catalog.by_request(request_id):
            return known
        matrix_id = matrix_id or new_id("m")
        self.catalog.check_new(matrix_id)
        async with self._blocking:
            if known := self.catalog.by_request(request_id):  # Two of the same call, side by side.
                return known
            place = await self._take_place(matrix_id, matrix_type)
        matrix = Matrix(
            id=matrix_id,
            type=matrix_type,
            place=place,
            owner=owner,
            created_at=time.time(),
            ttl_s=SEALED_TTL_S if ttl_s is None else ttl_s,
            request_id=request_id,
            is_durable=durable,
            holders={holder} if holder else set(),
        )
        try:
            self.catalog.add(matrix)
        except LimitReached:
            await self._free(matrix.place)
            async with self._blocking:  # What nobody uses may be what fills it.
                await asyncio.to_thread(self.pool.drop_free)
            raise
        return matrix

    async def adopt(
        self,
        path: Path,
        descriptor: int,
        data_offset: int,
        matrix_type: MatrixType,
        *,
        request_id: str,
        owner: str,
    ) -> Matrix:
        """A user's own file, open as `descriptor` (ours from now on), read in place."""
        if known := self.catalog.by_request(request_id):
            os.close(descriptor)
            return known
        identity = FileIdentity.of(descriptor)
        needed = data_offset + matrix_type.size_bytes
        if data_offset < 0 or identity.size_bytes < needed:
            os.close(descriptor)
            raise InvalidInput(f"{path}: {needed} bytes needed, it has {identity.size_bytes}")
        matrix = Matrix(
            id=new_id("m"),
            type=matrix_type,
            place=UserFile(path, data_offset, identity, descriptor),
            owner=owner,
            created_at=time.time(),
            ttl_s=SEALED_TTL_S,
            request_id=request_id,
            is_sealed=True,
        )
        try:
            self.catalog.check_new(matrix.id)
            self.catalog.add(matrix)
        except LimitReached:
            os.close(descriptor)
            raise
        return matrix

    async def _take_place(self, matrix_id: str, matrix_type: MatrixType) -> Place:
        """In shared memory if it can be. What is larger than that, or finds it full of matrices
        that are in use, is made on disk at once, and mapped from there like from memory."""
        try:
            return InMemory(await self._take_arena(matrix_type.size_bytes))
        except LimitReached as full:
            used, limit = self.catalog.disk_bytes, self.catalog.disk_limit_bytes
            if used + matrix_type.size_bytes > limit:
                raise LimitReached(
                    f"{full}; nor is it on disk, where {format_bytes(used)} of "
                    f"{format_bytes(limit)} are in use (setting: disk)"
                ) from None
        path = self.catalog.disk / f"{matrix_id}.npy"
        place = await asyncio.to_thread(new_npy, path, matrix_type)
        log.info(
            "made a matrix on disk",
            extra=logs.keys("create", matrix=matrix_id, bytes=matrix_type.size_bytes),
        )
        return place

    async def _take_arena(self, size_bytes: int) -> Arena:
        """Room in shared memory, made by spilling what nobody maps if it must be."""
        while True:
            try:
                return await asyncio.to_thread(self.pool.take, size_bytes)
            except LimitReached:
                if size_bytes > self.pool.limit_bytes or not await self._spill_oldest():
                    raise

    # Writing and reading

    def start_upload(self, matrix: Matrix, upload_id: str, rectangle: Rectangle) -> Upload:
        if matrix.is_sealed:
            raise Conflict(f"matrix {matrix.id!r} is sealed: nobody writes it any more")
        upload = matrix.uploads.get(upload_id)
        if upload is None:
            if len(matrix.uploads) >= MAX_UPLOADS:
                raise LimitReached(f"matrix {matrix.id!r} has {MAX_UPLOADS} uploads, the limit")
            upload = matrix.uploads[upload_id] = Upload(rectangle)
        if upload.rectangle != rectangle:
            raise Conflict(f"upload {upload_id!r} is of {upload.rectangle}, not {rectangle}")
        return upload

    def region(self, matrix: Matrix, rectangle: Rectangle) -> Region:
        """A rectangle of the matrix, mapped into this process."""
        if not matrix.type.size_bytes:
            return Region(memoryview(b""), matrix.type, rectangle)
        mapping = self._mappings.get(matrix.id)
        if mapping is None:
            descriptor, offset, size = self.open(matrix, writable=not matrix.is_sealed)
            try:
                mapping = pages.map_file(
                    descriptor, offset + size, is_writable=not matrix.is_sealed
                )
            finally:
                os.close(descriptor)
            self._mappings[matrix.id] = mapping
        buffer = mapping[data_offset(matrix) :]
        return Region(buffer, matrix.type, rectangle)

    def open(self, matrix: Matrix, *, writable: bool) -> tuple[int, int, int]:
        """As `open_place`. A matrix whose file somebody has removed or cut short is forgotten, so
        that whoever knows what it was made of can make it again; raises NotFound."""
        try:
            return open_place(matrix, writable=writable)
        except FileNotFoundError as error:
            self.catalog.remove(matrix)
            self._mappings.pop(matrix.id, None)
            log.warning(
                f"matrix {matrix.id} is lost: {error}", extra=logs.keys("lost", matrix=matrix.id)
            )
            raise NotFound(f"matrix {matrix.id!r} is lost: {error}", field="matrix_id") from None

    async def seal(self, matrix: Matrix) -> None:
        if matrix.is_sealed:
            check_unchanged(matrix)
            return
        if matrix.is_durable:
            async with self._blocking:
                if isinstance(matrix.place, OnDisk):
                    await asyncio.to_thread(make_durable, matrix.place.path)
                else:
                    await self._spill(matrix, durable=True)
        self._mappings.pop(matrix.id, None)
        self.catalog.seal(matrix)

    # Giving up

    def give_up(self, matrix_id: str) -> None:
        """Its owner does not want it any more. Unknown ids are fine: it is gone already."""
        if matrix := self.catalog.find(matrix_id):
            matrix.is_given_up = True
            self.catalog.save_if_possible(matrix)
            self.reclaim_soon()

    def release(self, holder: str) -> None:
        self.catalog.release(holder)
        self.reclaim_soon()

    def ungrant(self, matrix_id: str) -> None:
        """A mapping has ended; its matrix may have waited for that."""
        if matrix := self.catalog.find(matrix_id):
            matrix.grants -= 1
            matrix.used_s = self.catalog.clock()
        self.reclaim_soon()

    def reclaim_soon(self) -> None:
        task = asyncio.get_running_loop().create_task(self.reclaim())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def reclaim(self) -> None:
        for matrix in self.catalog.reclaimable():
            if not self.catalog.may_go(matrix):
                continue  # Another round has taken it, or somebody holds it, since we waited.
            self._mappings.pop(matrix.id, None)
            await self._free(self.catalog.remove(matrix))

    async def sweep(self) -> None:
        """Ends what has expired, for ever."""
        while True:
            await asyncio.sleep(SWEEP_INTERVAL_S)
            await self.reclaim()

    async def _free(self, place: Place) -> None:
        async with self._blocking:
            await asyncio.to_thread(self.catalog.free, place)
        if self._joining is None or self._joining.done():
            self._joining = asyncio.get_running_loop().create_task(self._join_pages())

    async def _join_pages(self) -> None:
        """Gives free arenas huge pages, once, while nobody waits for it: the first matrix in an
        arena has small ones. Who takes the arena meanwhile gets it as it is."""
        while arena := self.pool.small_paged():
            descriptor = os.dup(arena.descriptor)
            try:
                while not arena.is_joined and self.pool.is_free(arena):
                    start = arena.joined_bytes
                    left = (arena.size_bytes - start) // HUGE_BYTES * HUGE_BYTES
                    stop = start + min(_JOIN_BYTES, left)
                    if not await asyncio.to_thread(pages.collapse, descriptor, start, stop):
                        stop = start + left  # Nor will the rest be, now; it works as it is.
                    arena.joined_bytes = stop
            finally:
                os.close(descriptor)

    # Spilling

    async def _spill_oldest(self) -> bool:
        for matrix in self.catalog.spillable():
            room = self.catalog.disk_limit_bytes - self.catalog.disk_bytes
            if matrix.type.size_bytes <= room:
                await self._spill(matrix, durable=False)
                return True
        return False

    async def _spill(self, matrix: Matrix, *, durable: bool) -> None:
        """Copies a matrix to the state directory and gives its arena back."""
        if not isinstance(matrix.place, InMemory):
            return
        path = self.catalog.disk / f"{matrix.id}.npy"
        arena = matrix.place.arena
        place = await asyncio.to_thread(write_npy, path, matrix.type, arena.reader, durable)
        self._mappings.pop(matrix.id, None)
        try:
            old = self.catalog.move_to_disk(matrix, place)
        except LimitReached:
            path.unlink(missing_ok=True)
            raise
        await asyncio.to_thread(self.catalog.free, old)
        log.info(
            "spilled a matrix to disk",
            extra=logs.keys("spill", matrix=matrix.id, bytes=matrix.type.size_bytes),
        )

    async def shut_down(self, budget_s: float, *, discard: bool) -> None:
        """Leaves nothing in shared memory that can be kept on disk in time; what cannot, and what
        others still write, stays there for the store that comes after."""
        deadline = time.monotonic() + budget_s
        for matrix in self.catalog:
            in_memory = isinstance(matrix.place, InMemory)
            if discard or (not matrix.is_sealed and matrix.grants == 0):
                self._mappings.pop(matrix.id, None)
                await self._free(self.catalog.remove(matrix))
            elif in_memory and matrix.is_sealed and time.monotonic() < deadline:
                # One that does not fit on the disk stays; smaller ones may fit yet.
                with suppress(LimitReached):
                    async with self._blocking:
                        await self._spill(matrix, durable=False)
        async with self._blocking:
            await asyncio.to_thread(self.pool.drop_free)
        left = [matrix for matrix in self.catalog if isinstance(matrix.place, InMemory)]
        if left:
            size = format_bytes(sum(matrix.type.size_bytes for matrix in left))
            log.warning(
                f"{len(left)} matrices ({size}) stay in {self.pool.directory} for the next start",
                extra=logs.keys("stop", left=len(left)),
            )


def data_offset(matrix: Matrix) -> int:
    return 0 if isinstance(matrix.place, InMemory) else matrix.place.data_offset


def open_place(matrix: Matrix, *, writable: bool) -> tuple[int, int, int]:
    """A descriptor (the caller closes it), the offset of the data in it, and their size. Raises
    FileNotFoundError if the file is gone, or too short to be mapped whole."""
    place, size = matrix.place, matrix.type.size_bytes
    if writable and matrix.is_sealed:
        raise Conflict(f"matrix {matrix.id!r} is sealed: nobody writes it any more")
    match place:
        case InMemory(arena):
            return os.dup(arena.descriptor if writable else arena.reader), 0, size
        case OnDisk(path, offset):
            access = os.O_RDWR if writable else os.O_RDONLY
            descriptor = os.open(path, access | os.O_CLOEXEC)
            if os.fstat(descriptor).st_size < offset + size:
                os.close(descriptor)
                raise FileNotFoundError(f"{path} was cut short")
            return descriptor, offset, size
        case UserFile(_, offset, _, handed_over):
            return os.dup(handed_over), offset, size
