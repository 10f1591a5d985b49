"""An epoch of training as a source of pieces for the pool's threads.

Rules of this file: bookkeeping under the pool's lock, but for `do`. Threads take the pieces of a
phase from one queue, so that one whose core somebody else uses takes fewer. When all of a phase are
done there is one piece more, the *turn*: whichever thread takes it goes on to the next phase, while
the others wait; and through phases so small that waking somebody would take longer. Nothing of an
epoch can be given away, nor does any of its result count before all. Of one that devices share
there is no piece while others' gradients are awaited: threads go on with other sub-tasks.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np

from deadheat.runtime.descending import Pass, Piece, Work
from deadheat.runtime.operations import Descent
from deadheat.runtime.programs import Rectangle
from deadheat.runtime.shared_descending import Given, Part, SharedPass

Array = Any

#: Memory of an epoch that has ended is kept so long for the next one of the same training: first
#: touch of as much would take longer than some steps.
KEPT_S: Final = 5.0
#: And no more than this.
MAX_KEPT_BYTES: Final = 1 << 30

#: A phase of no more work than this, about 0.1 ms of a core, is done by one thread alone.
ALONE_FLOPS: Final = 1e7
#: One turn goes through such phases for so long at most: others may go first, or cancel it.
TURN_S: Final = 0.02


@dataclass(eq=False)
class Turn:
    """The way to the next phase, with what was worked on it."""

    flops: float = 0.0


class _Kept:
    """The memory of the last epoch, for a while."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: tuple[object, Work] | None = None
        self._timer: threading.Timer | None = None

    def take(self, key: object) -> Work | None:
        with self._lock:
            held, self._held = self._held, None
            if self._timer:
                self._timer.cancel()
                self._timer = None
        return held[1] if held and held[0] == key else None

    def keep(self, key: object, work: Work) -> None:
        if work.size_bytes > MAX_KEPT_BYTES:
            return
        with self._lock:
            self._held = key, work
            if self._timer:
                self._timer.cancel()
            self._timer = threading.Timer(KEPT_S, self.take, [None])
            self._timer.daemon = True
            self._timer.start()


_KEPT: Final = _Kept()


@dataclass(frozen=True, eq=False)
class Exchanged:
    """Where the gradient of an epoch that is shared leaves (`own`), and where the sum arrives.
    `tell` is called, outside the pool's lock, when a gradient is there."""

    own: Array
    total: Array
    tell: Callable[[Given], None]


@dataclass(eq=False)
class Epoch:
    """The pieces of one epoch; what `Panels` is to a product. `parts` are the operands' blocks, in
    the order of the operation's, and `out` is what this device writes of the result: all of it,
    unless there is an `exchange` with others."""

    rectangle: Rectangle
    kind: Descent
    parts: Sequence[Array]
    out: Array
    threads: int
    exchange: Exchanged | None = None
    area_done: int = field(init=False, default=0)
    is_done: bool = field(init=False, default=False)
    _pass: Pass | None = field(init=False, default=None)
    _waiting: deque[Piece] = field(init=False, default_factory=deque)
    _running: int = field(init=False, default=0)
    _flops_done: float = field(init=False, default=0.0)
    #: Since when a thread has found nothing to do in this phase.
    _idle_since_s: float | None = field(init=False, default=None)
    _began_s: float = field(init=False, default=0.0)
    _busy_s: float = field(init=False, default=0.0)
    _apart_s: float = field(init=False, default=0.0)

    def take(self) -> Piece | Turn | None:
        """The next piece; None when all of this phase are taken."""
        if self.is_done:
            return None
        if self._waiting:
            self._running += 1
            return self._waiting.popleft()
        if not self._running and not self._awaits_others:
            self._running = 1
            return Turn()
        if self._idle_since_s is None:
            self._idle_since_s = time.monotonic()
        return None

    @property
    def _awaits_others(self) -> bool:
        return isinstance(self._pass, SharedPass) and self._pass.given is not None

    def summed(self, step: int, loss: float) -> None:
        """The sum of all gradients of a step is there; one of another step is not waited for."""
        made = self._pass
        if isinstance(made, SharedPass) and made.given is not None and made.given.step == step:
            made.taken(loss)

    def do(self, piece: Piece | Turn) -> None:
        """Outside the lock. Raises InvalidInput where the training cannot go on."""
        made = self._pass
        if isinstance(piece, Piece):
            assert made is not None
            made.do(piece)
            return
        turned_s = time.monotonic()
        until_s = turned_s + TURN_S
        if made is None:
            self._began_s = time.monotonic()
            made = self._pass = self._begun()
            made.begin()
        else:
            made.proceed()
        while made.pieces and time.monotonic() < until_s:
            if sum(one.effort for one in made.pieces) > ALONE_FLOPS:
                break
            for one in made.pieces:
                made.do(one)
                piece.flops += one.flops
            made.proceed()
        if made.is_over:
            self._record(made, turned_s)
        elif self.exchange and isinstance(made, SharedPass) and made.given:
            self.exchange.tell(made.given)

    def _begun(self) -> Pass:
        samples, before = self.parts[0], self.parts[3]
        kept = _KEPT.take(self._key)
        if self.exchange is None:
            work = kept or Work.of(np, self.kind, samples)
            return Pass(np, self.kind, self.parts, self.out, self.threads, work)
        part = Part.of(self.kind, self.rectangle)
        first, last = part.rows(min(self.kind.batch_size, len(samples)))
        # Rounding gives a smaller batch no more rows than this.
        work = kept or Work.of(np, self.kind, samples, last - first + 1)
        work.gradient = self.exchange.own
        state = np.empty_like(before)
        args = np, self.kind, self.parts, state, self.threads, work
        return SharedPass(*args, part, self.out, self.exchange.total)

    def _record(self, made: Pass, turned_s: float) -> None:
        """What was measured of the epoch, in its last turn, which has begun at this moment."""
        now_s = time.monotonic()
        elapsed_s = max(1e-9, now_s - self._began_s)
        # This turn is not over, so nobody has counted it; of small steps it may be the only one.
        busy_s = self._busy_s + now_s - max(turned_s, self._began_s)
        waiting = max(0.0, 1.0 - busy_s / (self.threads * elapsed_s))
        made.record(elapsed_s, waiting, self._apart_s / elapsed_s)
        _KEPT.keep(self._key, made.work)

    @property
    def _key(self) -> object:
        samples = self.parts[0]
        return replace(self.kind, epoch=0), samples.shape, samples.dtype, self._part_of_work

    @property
    def _part_of_work(self) -> object:
        return None if self.exchange is None else self.rectangle

    def finish(self, piece: Piece | Turn, wall_s: float) -> None:
        """A piece is done."""
        self._running -= 1
        self._busy_s += wall_s
        if isinstance(piece, Turn):
            assert self._pass is not None
            self._waiting.extend(self._pass.pieces)
            self._idle_since_s = None
            self.is_done = self._pass.is_over
        elif not self._running and not self._waiting and self._idle_since_s is not None:
            self._apart_s += time.monotonic() - self._idle_since_s
        if self.is_done:
            self.area_done = self.rectangle.area
        elif self._pass is not None:
            self._flops_done += piece.flops
            share = self._flops_done / max(1.0, self._pass.flops)
            self.area_done = int(min(1.0, share) * (self.rectangle.area - 1))

    @property
    def has_turned(self) -> bool:
        """Whether threads that found nothing may find something now."""
        return bool(self._waiting) or (not self._running and not self._awaits_others)

    @property
    def row_done(self) -> int:
        """Rows count when all is done."""
        return self.rectangle.row_stop if self.is_done else self.rectangle.row_start

    # What a pool asks of panels, and has one answer here

    @staticmethod
    def work_of(piece: Piece | Turn) -> float:
        return piece.flops

    @staticmethod
    def mirror_of(piece: Piece | Turn) -> None:
        del piece

    @staticmethod
    def halve(piece: Piece | Turn) -> bool:
        del piece
        return False

    @staticmethod
    def arrived(row: int) -> None:
        del row

    @staticmethod
    def release(keep_area: int) -> list[Rectangle]:
        del keep_area
        return []
