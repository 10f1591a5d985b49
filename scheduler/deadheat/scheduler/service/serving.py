"""Serving: calls of one model that come at about the same time are computed as one job.

Rules of this file: nothing is computed here. A call is checked before it joins a batch, so that it
cannot spoil the others'; a batch that fails tells each of its callers why; one that all its callers
have left is cancelled. A batch is a job of nobody's (`USER`), so that whoever asks for their own
last job finds their own, and all batches together are one user to the queue.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from deadheat.runtime import errors, logs
from deadheat.runtime.errors import InvalidInput, LimitReached, NotFound
from deadheat.runtime.ids import new_id
from deadheat.scheduler.core import events
from deadheat.scheduler.core.batching import Batcher, Call
from deadheat.scheduler.core.effects import PruneServed
from deadheat.scheduler.core.models import Version
from deadheat.scheduler.core.serving import Pass
from deadheat.scheduler.service.admission import Admission
from deadheat.scheduler.service.shell import Shell

log = logs.get("serving")

USER: Final = "serving"
#: How long a call waits for others where it does not say.
DEFAULT_WAIT_S: Final = 0.005
MAX_WAIT_S: Final = 1.0
#: Rows of all models that wait or are computed.
MAX_BYTES: Final = 64 << 20
#: Models whose forward pass is kept at hand; others are read from the database first.
MAX_LINES: Final = 256
#: A batch that has not ended by then fails; a client gives its call up sooner.
TIMEOUT_S: Final = 60.0
#: Batches after which the oldest records of batches are given up.
PRUNE_EVERY: Final = 1_000


@dataclass(eq=False)
class _Caller:
    rows: int
    data: bytes
    answer: asyncio.Future[tuple[bytes, str]]


@dataclass(eq=False)
class _Line:
    """The callers of one model."""

    version: Version
    pass_: Pass
    batcher: Batcher
    callers: dict[int, _Caller] = field(default_factory=dict)
    timer: asyncio.TimerHandle | None = None
    is_deleted: bool = False
    #: Set when nothing of a deleted model is under way any more.
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class Serving:
    """One per daemon, on its event loop."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell
        self._admission = Admission(shell)
        self._loop = asyncio.get_running_loop()
        self._lines: OrderedDict[str, _Line] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()
        self._bytes = 0
        self._calls = 0
        self._batches = 0

    def pass_of(self, version: Version) -> Pass | None:
        """A model's forward pass, if it is at hand."""
        line = self._lines.get(version.id)
        return line.pass_ if line else None

    def keep(self, version: Version, pass_: Pass) -> None:
        """Has a model's forward pass at hand from now on."""
        self._line(version, pass_)

    async def forward(
        self, version: Version, pass_: Pass, rows: int, data: bytes, wait_s: float | None
    ) -> tuple[bytes, str]:
        """What the model makes of some rows that fit it, and the job that computed it."""
        check_rows(pass_, rows, data)
        bound_s = DEFAULT_WAIT_S if wait_s is None else wait_s
        if not 0.0 <= bound_s <= MAX_WAIT_S:
            raise InvalidInput(
                f"max_wait_s is {bound_s:g}; it must be 0 to {MAX_WAIT_S:g}", field="max_wait_s"
            )
        self._admission.check_room()
        if self._bytes + len(data) > MAX_BYTES:
            raise LimitReached(
                f"busy: calls of {self._bytes} bytes wait or are computed; the limit is "
                f"{MAX_BYTES}; call again later"
            )
        line = self._line(version, pass_)
        self._calls += 1
        number = self._calls
        line.batcher.add(Call(number, rows, self._loop.time() + bound_s))
        caller = line.callers[number] = _Caller(rows, data, self._loop.create_future())
        self._bytes += len(data)
        self._pump(line)
        try:
            return await caller.answer
        finally:
            # Who goes away (then the future is cancelled) need not wait any more.
            line.batcher.remove(number)
            line.callers.pop(number, None)
            self._bytes -= len(data)
            self._pump(line)

    async def drop(self, version: Version) -> None:
        """A model was deleted: calls that wait are refused; returns when none is computed."""
        line = self._lines.pop(version.id, None)
        if line is None:
            return
        line.is_deleted = True
        for call in line.batcher.drop_all():
            if caller := line.callers.get(call.number):
                _refuse(caller, NotFound(f"model {version} was deleted", field="name"))
        self._pump(line)
        if line.batcher.in_flight:
            await line.ended.wait()

    def close(self) -> None:
        for line in self._lines.values():
            if line.timer:
                line.timer.cancel()
        for task in self._tasks:
            task.cancel()

    def _line(self, version: Version, pass_: Pass) -> _Line:
        line = self._lines.get(version.id)
        if line is None:
            line = self._lines[version.id] = _Line(version, pass_, Batcher(pass_.max_rows))
            for key, other in list(self._lines.items()):
                if len(self._lines) <= MAX_LINES:
                    break
                if other is not line and other.batcher.is_idle and not other.callers:
                    del self._lines[key]
        self._lines.move_to_end(version.id)
        return line

    def _pump(self, line: _Line) -> None:
        """Sends what is to be sent now, and comes back when more is."""
        if line.timer:
            line.timer.cancel()
            line.timer = None
        while batch := line.batcher.take(self._loop.time()):
            callers = [line.callers[call.number] for call in batch]
            task = self._loop.create_task(self._run(line, callers))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        due_s = line.batcher.due_s()
        if math.isfinite(due_s):
            line.timer = self._loop.call_at(due_s, self._pump, line)

    # A batch

    async def _run(self, line: _Line, callers: Sequence[_Caller]) -> None:
        try:
            made, job_id = await self._computed(line, callers)
        except errors.DeadheatError as error:
            for caller in callers:
                _refuse(caller, error)
        except Exception as error:
            log.exception("a batch failed", extra=logs.keys("batch", model=str(line.version)))
            for caller in callers:
                _refuse(caller, errors.DeadheatError(f"batch: {type(error).__name__}: see the log"))
        else:
            _hand_out(made, callers, line.pass_.outputs.size_bytes, job_id)
        finally:
            line.batcher.ended()
            if line.is_deleted and not line.batcher.in_flight:
                line.ended.set()
            self._pump(line)

    async def _computed(self, line: _Line, callers: Sequence[_Caller]) -> tuple[bytes, str]:
        """The rows of a batch, computed by a job, and its id."""
        rows = sum(caller.rows for caller in callers)
        program = line.pass_.of(rows, b"".join(caller.data for caller in callers))
        job_id = new_id("j")
        submitted = events.JobSubmitted(
            job=job_id,
            request_id=f"serve-{job_id}",
            user=USER,
            kind="mlp",
            program=program,
            policy=events.JobPolicy(timeout_s=TIMEOUT_S),
            result_ids=["" for _ in program.operations],
            model=str(line.version),
        )
        self._batches += 1
        if self._batches % PRUNE_EVERY == 0:
            self._shell.writer.submit([PruneServed()], lambda: None)
        with self._shell.watchers.watching(job_id) as news:
            self._shell.feed(submitted)
            job = self._shell.core.world.jobs[job_id]
            # A call that is not answered any more wakes us too.
            for caller in callers:
                caller.answer.add_done_callback(lambda _: news.set())
            while not job.state.is_final or self._shell.is_ending(job_id):
                if not job.state.is_final and all(caller.answer.done() for caller in callers):
                    self._shell.feed(events.CancelAsked(job_id))
                news.clear()
                await news.wait()
        if job.failure:
            raise errors.from_code(job.failure.code, f"{job.failure.message} (job {job_id})")
        inline = job.steps[-1].inline
        assert inline is not None, "results of a batch travel inline"
        return bytes(inline), job_id


def check_rows(pass_: Pass, rows: int, data: bytes) -> None:
    """Raises InvalidInput for rows that cannot go through with others."""
    if not 1 <= rows <= pass_.max_rows:
        raise InvalidInput(
            f"X has {rows} rows; a call of this model may have 1 to {pass_.max_rows}", field="X"
        )
    if len(data) != rows * pass_.row.size_bytes:
        raise InvalidInput(
            f"{rows} rows of {pass_.row} are {rows * pass_.row.size_bytes} bytes; {len(data)} came",
            field="data",
        )


def _hand_out(made: bytes, callers: Sequence[_Caller], row_bytes: int, job_id: str) -> None:
    """Each caller's own rows."""
    start = 0
    for caller in callers:
        stop = start + caller.rows * row_bytes
        if not caller.answer.done():
            caller.answer.set_result((made[start:stop], job_id))
        start = stop


def _refuse(caller: _Caller, error: errors.DeadheatError) -> None:
    """An error of its own for each: one that is raised twice would grow."""
    if not caller.answer.done():
        caller.answer.set_exception(errors.from_code(error.code, error.message, field=error.field))
