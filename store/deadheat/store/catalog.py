"""What the store knows of each matrix, kept in sidecar files from which it is rebuilt.

Rules of this file: it decides and remembers, the daemon moves bytes; a matrix's room is given
back only when nobody holds it, nobody maps it, and its owner gave it up or its time is over.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final, assert_never

from deadheat.runtime.errors import Conflict, InvalidInput, LimitReached, NotFound
from deadheat.runtime.programs import MatrixType, Rectangle
from deadheat.store.arenas import Arena, ArenaPool
from deadheat.store.npyfiles import FileIdentity

#: A matrix that nobody asks for lives so long after it was last used.
SEALED_TTL_S: Final = 24 * 3600.0
#: An upload in which nothing arrives for so long belongs to a client that died.
WRITING_TTL_S: Final = 60.0
#: Matrices in one store; each costs a sidecar and, in memory, two descriptors.
MAX_MATRICES: Final = 100_000


@dataclass(slots=True)
class InMemory:
    arena: Arena


@dataclass(slots=True)
class OnDisk:
    """Spilled, persisted, or too large for memory from the first: a `.npy` file of ours."""

    path: Path
    data_offset: int
    size_bytes: int


@dataclass(slots=True)
class UserFile:
    """A user's own file, read in place and watched for change."""

    path: Path
    data_offset: int
    identity: FileIdentity
    descriptor: int


Place = InMemory | OnDisk | UserFile


@dataclass(slots=True)
class Upload:
    rectangle: Rectangle
    received_bytes: int = 0


@dataclass(slots=True)
class Matrix:
    """One matrix. Times are monotonic seconds but for `created_at`, which people see."""

    id: str
    type: MatrixType
    place: Place
    owner: str
    created_at: float
    ttl_s: float
    request_id: str = ""
    is_sealed: bool = False
    is_durable: bool = False
    is_given_up: bool = False
    holders: set[str] = field(default_factory=set)
    grants: int = 0
    used_s: float = 0.0
    uploads: dict[str, Upload] = field(default_factory=dict)

    @property
    def is_pinned(self) -> bool:
        return bool(self.holders) or self.grants > 0

    def expires_in_s(self, now: float) -> float:
        ttl_s = self.ttl_s if self.is_sealed else min(self.ttl_s, WRITING_TTL_S)
        return self.used_s + ttl_s - now


class Catalog:
    """All matrices of a store. `index` is where the sidecars of matrices in memory lie."""

    def __init__(
        self,
        pool: ArenaPool,
        disk: Path,
        disk_limit_bytes: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.pool = pool
        self.disk = disk
        self.disk_limit_bytes = disk_limit_bytes
        self.clock = clock
        self._matrices: dict[str, Matrix] = {}
        self._requests: dict[str, str] = {}

    def __iter__(self) -> Iterator[Matrix]:
        return iter(list(self._matrices.values()))

    @property
    def disk_bytes(self) -> int:
        places = (matrix.place for matrix in self._matrices.values())
        return sum(place.size_bytes for place in places if isinstance(place, OnDisk))

    def get(self, matrix_id: str) -> Matrix:
        """The matrix; raises NotFound for one that is unknown, expired or given up."""
        matrix = self._matrices.get(matrix_id)
        if matrix is None or (matrix.is_given_up and not matrix.is_pinned):
            raise NotFound(
                f"matrix {matrix_id!r} is not in the store (never was, given up, or expired): "
                "upload it or submit its job again",
                field="matrix_id",
            )
        matrix.used_s = self.clock()
        return matrix

    def find(self, matrix_id: str) -> Matrix | None:
        """Whatever is remembered under this id, given up or not."""
        return self._matrices.get(matrix_id)

    def sealed(self, matrix_id: str) -> Matrix:
        """The matrix, if it is complete and, where it is a user's file, unchanged."""
        matrix = self.get(matrix_id)
        if not matrix.is_sealed:
            raise Conflict(f"matrix {matrix_id!r} is still being written", field="matrix_id")
        check_unchanged(matrix)
        return matrix

    def by_request(self, request_id: str) -> Matrix | None:
        """What an earlier call with this request id made."""
        return self._matrices.get(self._requests.get(request_id, ""))

    def check_new(self, matrix_id: str) -> None:
        if len(self._matrices) >= MAX_MATRICES:
            raise LimitReached(f"the store has {MAX_MATRICES} matrices, its limit")
        if matrix_id in self._matrices:
            raise Conflict(f"matrix {matrix_id!r} exists already", field="matrix_id")
        if not matrix_id or len(matrix_id) > 64 or not matrix_id.replace("-", "").isalnum():
            raise InvalidInput(f"matrix id {matrix_id!r} is not 1 to 64 letters and digits")

    def add(self, matrix: Matrix) -> None:
        matrix.used_s = self.clock()
        self.save(matrix)
        self._matrices[matrix.id] = matrix
        if matrix.request_id:
            self._requests[matrix.request_id] = matrix.id

    def seal(self, matrix: Matrix) -> None:
        """From here on everybody reads it and nobody writes it. The sidecar's rename decides."""
        matrix.is_sealed = True
        try:
            self.save(matrix)
        except LimitReached:
            matrix.is_sealed = False  # Whoever makes room may seal it yet.
            raise
        matrix.uploads.clear()

    def release(self, holder: str) -> list[Matrix]:
        """Ends all that `holder` holds; returns what is now free to go."""
        for matrix in self._matrices.values():
            if holder in matrix.holders:
                matrix.holders.discard(holder)
                matrix.used_s = self.clock()
                self.save_if_possible(matrix)
        return self.reclaimable()

    def reclaimable(self) -> list[Matrix]:
        """Matrices whose room nobody needs any more."""
        return [matrix for matrix in self._matrices.values() if self.may_go(matrix)]

    def may_go(self, matrix: Matrix) -> bool:
        """Whether it is still here and nobody needs its room any more."""
        if matrix.is_pinned or self._matrices.get(matrix.id) is not matrix:
            return False
        return matrix.is_given_up or matrix.expires_in_s(self.clock()) <= 0

    def spillable(self) -> list[Matrix]:
        """Sealed matrices in memory that nobody maps, least recently used first."""
        found = [
            matrix
            for matrix in self._matrices.values()
            if matrix.is_sealed and matrix.grants == 0 and isinstance(matrix.place, InMemory)
        ]
        return sorted(found, key=lambda matrix: matrix.used_s)

    def remove(self, matrix: Matrix) -> Place:
        """Forgets a matrix that nobody needs; the caller frees the room that it returns."""
        del self._matrices[matrix.id]
        self._requests.pop(matrix.request_id, None)
        self._sidecar(matrix).unlink(missing_ok=True)
        return matrix.place

    def move_to_disk(self, matrix: Matrix, place: OnDisk) -> Place:
        """The file is complete and takes over; the caller frees the old room."""
        old, old_sidecar = matrix.place, self._sidecar(matrix)
        matrix.place = place
        try:
            self.save(matrix)
        except LimitReached:
            matrix.place = old
            raise
        old_sidecar.unlink(missing_ok=True)
        return old

    def free(self, place: Place) -> None:
        """Blocks while the system takes pages back: not for an event loop."""
        match place:
            case InMemory(arena):
                self.pool.give_back(arena)
            case OnDisk(path):
                path.unlink(missing_ok=True)
            case UserFile(descriptor=descriptor):
                os.close(descriptor)
            case _:
                assert_never(place)

    # Sidecars: one JSON file a matrix, replaced by rename.

    def _sidecar(self, matrix: Matrix) -> Path:
        in_memory = isinstance(matrix.place, InMemory)
        return (self.pool.directory if in_memory else self.disk) / f"{matrix.id}.json"

    def save_if_possible(self, matrix: Matrix) -> None:
        """For what must go on even if nothing can be written: a successor would know too much of
        this matrix, and keep it until it expires."""
        with suppress(LimitReached):
            self.save(matrix)

    def save(self, matrix: Matrix) -> None:
        """Raises LimitReached if there is no room for it; what was known before stays known."""
        place = matrix.place
        entry: dict[str, object] = {
            "id": matrix.id,
            "type": asdict(matrix.type),
            "owner": matrix.owner,
            "created_at": matrix.created_at,
            "ttl_s": matrix.ttl_s,
            "request_id": matrix.request_id,
            "is_sealed": matrix.is_sealed,
            "is_given_up": matrix.is_given_up,
            "holders": sorted(matrix.holders),
        }
        match place:
            case InMemory(arena):
                entry["arena"] = arena.path.name
            case OnDisk(path, data_offset, size_bytes):
                entry["file"] = [path.name, data_offset, size_bytes]
            case UserFile(path, data_offset, identity):
                entry["user_file"] = [str(path), data_offset, asdict(identity)]
            case _:
                assert_never(place)
        sidecar = self._sidecar(matrix)
        part = sidecar.with_suffix(".part")
        try:
            part.write_text(json.dumps(entry))
            part.replace(sidecar)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise LimitReached(f"cannot write {sidecar}: {error.strerror}") from None

    def rebuild(self) -> list[str]:
        """Reads the sidecars that a store before us left; returns what was dropped and why."""
        problems: list[str] = []
        for directory in (self.pool.directory, self.disk):
            for part in directory.glob("*.part"):
                part.unlink()
            for sidecar in sorted(directory.glob("*.json")):
                try:
                    self._restore(sidecar, json.loads(sidecar.read_text()))
                except (OSError, ValueError, KeyError, TypeError) as error:
                    problems.append(f"{sidecar.name}: {error}")
                    sidecar.unlink()
        self._remove_strays()
        return problems

    def _restore(self, sidecar: Path, entry: dict[str, object]) -> None:
        place: Place
        if isinstance(name := entry.get("arena"), str):
            place = InMemory(self.pool.adopt(self.pool.directory / name))
        elif isinstance(file := entry.get("file"), list):
            path = self.disk / str(file[0])
            if path.stat().st_size != file[1] + file[2]:
                raise ValueError(f"{path} has {path.stat().st_size} bytes, not {file[1] + file[2]}")
            place = OnDisk(path, int(file[1]), int(file[2]))
        elif isinstance(user_file := entry.get("user_file"), list):
            path, identity = Path(user_file[0]), FileIdentity(**user_file[2])
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            place = UserFile(path, int(user_file[1]), identity, descriptor)
        else:
            raise KeyError("place")
        matrix = Matrix(
            id=sidecar.stem,
            type=MatrixType(**entry["type"]),  # type: ignore[arg-type]
            place=place,
            owner=str(entry["owner"]),
            created_at=float(entry["created_at"]),  # type: ignore[arg-type]
            ttl_s=float(entry["ttl_s"]),  # type: ignore[arg-type]
            request_id=str(entry["request_id"]),
            is_sealed=bool(entry["is_sealed"]),
            is_given_up=bool(entry["is_given_up"]),
            holders=set(entry["holders"]),  # type: ignore[call-overload]
        )
        self.add(matrix)

    def _remove_strays(self) -> None:
        """Files that no sidecar names: the room of matrices that were being made or removed."""
        named: set[str] = set()
        for matrix in self._matrices.values():
            if isinstance(matrix.place, InMemory):
                named.add(matrix.place.arena.path.name)
            elif isinstance(matrix.place, OnDisk):
                named.add(matrix.place.path.name)
        for pattern, directory in (("arena-*", self.pool.directory), ("*.npy", self.disk)):
            for path in directory.glob(pattern):
                if path.name not in named:
                    path.unlink()


def check_unchanged(matrix: Matrix) -> None:
    """Raises Conflict if a user's file is not the one that was handed over."""
    place = matrix.place
    if isinstance(place, UserFile) and FileIdentity.of(place.descriptor) != place.identity:
        raise Conflict(
            f"file {place.path} was changed while deadheat was using it", field="matrix_id"
        )
