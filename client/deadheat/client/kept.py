"""Operands that travel, to a store on another host or from it to agents on others, kept in the
store for this client's next jobs.

Rules of this file: what a matrix in the store holds is known by a strong hash of the very bytes
that were sent, and an operand is the same one only if all of its bytes, read anew for each job,
have that hash: an array that was changed in place is another operand. A few samples tell most
others apart without that. Where all agents map the store's memory nothing is kept: there a copy is
cheaper than a hash. The store is asked whether it still has a matrix before it is named again, and
forgets it some time after a client that died.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from deadheat.runtime.programs import MatrixType
from deadheat.runtime.units import GIB, KIB, MIB
from deadheat.store.regions import Region

#: What one client keeps in a store; least recently used out first.
MAX_KEPT_BYTES: Final = GIB
MAX_KEPT: Final = 64
#: Smaller operands are sent again: to ask whether they are there takes as long.
LEAST_BYTES: Final = MIB
#: The store forgets what was kept and not used for so long.
KEPT_TTL_S: Final = 600.0
#: So many pieces of this size, evenly spread, tell most contents apart.
SAMPLES: Final = 16
SAMPLE_BYTES: Final = 4 * KIB
#: Chunks that were sent and wait to be hashed.
MAX_UNHASHED: Final = 4


@dataclass(frozen=True)
class Content:
    """What a matrix holds: its type, and hashes of some and of all of its bytes."""

    matrix: MatrixType
    sampled: bytes
    digest: bytes

    @staticmethod
    def of(matrix: MatrixType, buffer: memoryview) -> Content:
        """Reads all of the bytes."""
        return Content(matrix, sampled(buffer), digest(buffer))


def sampled(buffer: memoryview) -> bytes:
    """A hash of some of the bytes."""
    found = hashlib.blake2b()
    last = max(0, len(buffer) - SAMPLE_BYTES)
    for number in range(SAMPLES):
        start = last * number // (SAMPLES - 1)
        found.update(buffer[start : start + SAMPLE_BYTES])
    return found.digest()


def digest(buffer: memoryview) -> bytes:
    """A hash of all the bytes, about 1 GB/s; other threads run meanwhile."""
    return hashlib.blake2b(buffer).digest()


class HashedRegion(Region):
    """A matrix whose bytes are hashed, in a thread, as they are read to be sent."""

    def __init__(self, buffer: memoryview, matrix: MatrixType) -> None:
        super().__init__(buffer, matrix, matrix.whole())
        self._matrix = matrix
        self._sampled = sampled(buffer)
        self._hash = hashlib.blake2b()
        self._position = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="deadheat-hash")
        self._waiting: deque[Future[None]] = deque()

    def read(self, offset: int, size: int) -> bytes:
        data = super().read(offset, size)
        if offset == self._position:
            self._position += len(data)
            self._waiting.append(self._thread.submit(self._hash.update, data))
            if len(self._waiting) > MAX_UNHASHED:
                self._waiting.popleft().result()
        else:
            # Sent anew after a break: what was sent before may have been something else.
            self._position = -1
        return data

    def content(self) -> Content | None:
        """What was sent, if that is known for sure. Blocks until it is hashed."""
        self._thread.shutdown(wait=True)
        if self._position != self.size_bytes:
            return None
        return Content(self._matrix, self._sampled, self._hash.digest())

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)


@dataclass
class _Entry:
    matrix: MatrixType
    #: None until it is known.
    content: Content | None
    #: Submissions that name it just now.
    uses: int = 1


class Kept:
    """What one client has in the store, by id. On its loop."""

    def __init__(self, limit_bytes: int = MAX_KEPT_BYTES) -> None:
        self.limit_bytes = limit_bytes
        self._entries: OrderedDict[str, _Entry] = OrderedDict()

    @property
    def used_bytes(self) -> int:
        return sum(entry.matrix.size_bytes for entry in self._entries.values())

    def may_be_same(self, matrix: MatrixType, sampled: bytes) -> bool:
        """Whether it is worth it to hash all of an operand."""
        return any(
            entry.content is not None
            and entry.content.matrix == matrix
            and entry.content.sampled == sampled
            for entry in self._entries.values()
        )

    def take(self, content: Content) -> str:
        """The id of a matrix that holds this, in use from now on; empty if there is none."""
        for id_, entry in self._entries.items():
            if entry.content == content:
                entry.uses += 1
                self._entries.move_to_end(id_)
                return id_
        return ""

    def add(self, matrix_id: str, matrix: MatrixType, content: Content | None = None) -> bool:
        """A matrix that was sent just now and is in use; its content may be told later. False if
        it is not kept."""
        if matrix.size_bytes > self.limit_bytes:
            return False
        self._entries[matrix_id] = _Entry(matrix, content)
        return True

    def tell(self, matrix_id: str, content: Content) -> None:
        """What a matrix holds, if it is still kept."""
        if entry := self._entries.get(matrix_id):
            entry.content = content

    def release(self, matrix_id: str) -> bool:
        """Ends one use; returns whether it is kept."""
        if entry := self._entries.get(matrix_id):
            entry.uses -= 1
        return entry is not None

    def forget(self, matrix_id: str) -> None:
        self._entries.pop(matrix_id, None)

    def in_use(self) -> list[str]:
        return [id_ for id_, entry in self._entries.items() if entry.uses]

    def surplus(self, *, everything: bool = False) -> Iterator[str]:
        """Forgets what is beyond the limits (or all) and not in use; yields the ids."""
        for id_, entry in list(self._entries.items()):
            if not everything and (
                self.used_bytes <= self.limit_bytes and len(self._entries) <= MAX_KEPT
            ):
                return
            if not entry.uses:
                del self._entries[id_]
                yield id_
