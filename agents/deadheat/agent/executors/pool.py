"""The CPU pool: threads that take panels from a shared queue, one BLAS thread each.

A core that somebody else is using does not hold up the rest, because nothing is cut in advance:
its thread simply takes fewer panels. Sub-tasks run by rank, so that a small job overtakes a big
one at the next panel.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from deadheat.agent.executors.epochs import Epoch
from deadheat.agent.executors.panels import Panel
from deadheat.agent.executors.sources import Source
from deadheat.runtime import wire
from deadheat.runtime.errors import DeadheatError
from deadheat.runtime.kernels import compute_panel
from deadheat.runtime.programs import MatrixType, Operation, Rectangle, needed_blocks
from deadheat.v1 import agent_pb2, local_pb2, types_pb2

Array = Any
Emit = Callable[[local_pb2.ExecutorEvent], None]
#: Computes one panel of a task into its place in the result; MemoryError asks for a smaller one.
Compute = Callable[["Task", Panel], None]

#: Progress of a sub-task is told at most so often, unless the scheduler says otherwise.
PROGRESS_INTERVAL_S: Final = 0.1


def never() -> bool:
    """Of memory that no card reads and writes by itself."""
    return False


@dataclass(eq=False)
class Block:
    """A part of a matrix in memory: `array` holds `rectangle` of it."""

    array: Array
    rectangle: Rectangle
    #: Whether a card reads and writes `array` by itself now; once it does, it does to the end.
    is_pinned: Callable[[], bool] = never


@dataclass(eq=False)
class Task:
    """A sub-task and what is known of it. Its fields are guarded by the pool's lock."""

    id: str
    rank: float
    operation: Operation
    #: The types of the operands, whole, by name.
    types: Mapping[str, MatrixType]
    #: In the order of the operation's operands.
    operands: Sequence[Block]
    result: Block
    panels: Source
    #: The result goes back in the event rather than in a mapping.
    is_inline: bool
    #: Progress is told at most so often.
    progress_s: float = PROGRESS_INTERVAL_S
    #: Names of the operands' contents, equal only where these are; empty where there is none.
    keys: Sequence[str] = ()
    arrival: int = 0
    running: int = 0
    started_s: float | None = None
    told_s: float = 0.0
    #: When its newest panel ended.
    at_s: float = 0.0
    cpu_s: float = 0.0
    wall_s: float = 0.0
    flops: float = 0.0
    #: The last word on it has been said.
    is_over: bool = False
    is_released: bool = False


class Pool:
    """What it has to say it puts down under its lock, and then says in that order, whichever
    thread does it: nobody may hear that rows are done before he hears which of them were given
    away. `emit` is called from any thread, by one at a time, outside the lock."""

    def __init__(
        self,
        threads: int,
        emit: Emit,
        compute: Compute | None = None,
        *,
        counts_cpu: bool = True,
    ) -> None:
        """`compute` is this process's own cores if nothing else is said. Where it is not these
        that do the work, their time says nothing of it (`counts_cpu`)."""
        self._emit = emit
        self._compute = compute or compute_here
        self._counts_cpu = counts_cpu
        self._changed = threading.Condition()
        self._unsaid: deque[local_pb2.ExecutorEvent] = deque()
        self._saying = threading.Lock()
        self._tasks: dict[str, Task] = {}
        self._arrivals = 0
        self.threads = threads
        self._is_closed = False
        for index in range(threads):
            name = f"panel-{index}"
            threading.Thread(target=self._work, name=name, daemon=True).start()

    def close(self) -> None:
        """Its threads end as soon as they have nothing to do."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def add(self, task: Task) -> None:
        with self._changed:
            self._arrivals += 1
            task.arrival = self._arrivals
            self._tasks[task.id] = task
            self._changed.notify_all()
            self._conclude(task)  # There may be nothing to compute.
        self._say()

    def rows_arrived(self, task_id: str, row: int) -> None:
        with self._changed:
            if task := self._tasks.get(task_id):
                task.panels.arrived(row)
                self._changed.notify_all()

    def summed(self, task_id: str, step: int, loss: float) -> None:
        """Of an epoch that is shared, the sum of all gradients of a step is there."""
        with self._changed:
            if (task := self._tasks.get(task_id)) and isinstance(task.panels, Epoch):
                task.panels.summed(step, loss)
                self._changed.notify_all()

    def tell(self, event: local_pb2.ExecutorEvent) -> None:
        """Says something in its turn. Not to be called with the lock."""
        with self._changed:
            self._unsaid.append(event)
        self._say()

    def cancel(self, task_id: str) -> None:
        """No further panel of it starts; what runs ends unheard."""
        with self._changed:
            if task := self._tasks.pop(task_id, None):
                task.is_over = True
                self._conclude(task)
        self._say()

    def resize(self, task_id: str, keep_area: int) -> None:
        """Gives up what was not started beyond so many elements, and says what that is."""
        resized = agent_pb2.Resized(subtask_id=task_id)
        with self._changed:
            if task := self._tasks.get(task_id):
                released = task.panels.release(keep_area)
                resized.released.extend(wire.rectangle_to_wire(piece) for piece in released)
            self._unsaid.append(local_pb2.ExecutorEvent(resized=resized))
            if task:  # Else it has ended already.
                self._conclude(task)
        self._say()

    def _conclude(self, task: Task) -> None:
        """With the lock: a task that is done ends, and of one that is over, and of which no panel
        runs, the blocks are released. Nothing writes there any more: only then may their memory
        serve somebody else."""
        if not task.is_over and task.panels.is_done:
            task.is_over = True
            self._tasks.pop(task.id, None)
            finished = local_pb2.ExecutorFinished(
                progress=_progress(task), finished_s=time.monotonic()
            )
            if task.is_inline:
                finished.inline = task.result.array.tobytes()
            self._unsaid.append(local_pb2.ExecutorEvent(finished=finished))
        if task.is_over and not task.running and not task.is_released:
            task.is_released = True
            released = local_pb2.Released(subtask_id=task.id)
            self._unsaid.append(local_pb2.ExecutorEvent(released=released))

    def _say(self) -> None:
        """Says what is unsaid, unless another thread is at it: that one looks again at its end."""
        while self._unsaid and self._saying.acquire(blocking=False):
            try:
                while self._unsaid:
                    self._emit(self._unsaid.popleft())
            finally:
                self._saying.release()

    def _work(self) -> None:
        while taken := self._take():
            task, panel, image = taken
            wall_s, cpu_s = time.monotonic(), time.thread_time()
            try:
                if isinstance(task.panels, Epoch):
                    task.panels.do(panel)
                elif image is None:
                    self._compute(task, panel)
                else:
                    part_of(task.result, panel.rectangle)[...] = part_of(task.result, image).T
            except MemoryError:
                self._retry_smaller(task, panel)
            except DeadheatError as error:
                self._fail(task, error.code, error.message)
            except Exception as error:  # noqa: BLE001 - reported with the sub-task it belongs to.
                self._fail(task, "internal", f"{type(error).__name__}: {error}")
            else:
                used_s = time.thread_time() - cpu_s if self._counts_cpu else 0.0
                spent = (used_s, time.monotonic() - wall_s)
                self._finish(task, panel, *spent, is_copied=image is not None)
            # An idle thread must not keep the last task's mappings alive.
            del taken, task, panel

    def _take(self) -> tuple[Task, Any, Rectangle | None] | None:
        """The next panel, and what it may be copied from instead of being computed; None when
        the pool is closed and has nothing left."""
        with self._changed:
            while True:
                for task in sorted(self._tasks.values(), key=lambda t: (t.rank, t.arrival)):
                    if panel := task.panels.take():
                        task.running += 1
                        if task.started_s is None:
                            # What ends soon is told once, at its end.
                            task.started_s = task.told_s = time.monotonic()
                        return task, panel, task.panels.mirror_of(panel)
                if self._is_closed:
                    return None
                self._changed.wait()

    def _finish(
        self, task: Task, panel: Any, cpu_s: float, wall_s: float, *, is_copied: bool
    ) -> None:
        with self._changed:
            task.running -= 1
            task.cpu_s += cpu_s
            task.wall_s += wall_s
            # A copy says nothing of how fast this device multiplies.
            task.flops += 0.0 if is_copied else task.panels.work_of(panel)
            task.at_s = time.monotonic()
            task.panels.finish(panel, 0.0 if is_copied else wall_s)
            if isinstance(task.panels, Epoch) and task.panels.has_turned:
                self._changed.notify_all()
            if not task.is_over and task.at_s - task.told_s >= task.progress_s:
                task.told_s = task.at_s
                self._unsaid.append(local_pb2.ExecutorEvent(progress=_progress(task)))
            self._conclude(task)
        self._say()

    def _retry_smaller(self, task: Task, panel: Any) -> None:
        with self._changed:
            halved = task.panels.halve(panel)
            if halved:
                task.running -= 1
                self._changed.notify_all()
                self._conclude(task)
        if halved:
            self._say()
        else:
            self._fail(task, "limit_reached", f"no memory for {panel}")

    def _fail(self, task: Task, code: str, message: str) -> None:
        """The panel that is running fails the whole task."""
        with self._changed:
            task.running -= 1
            if not task.is_over:
                task.is_over = True
                self._tasks.pop(task.id, None)
                failed = agent_pb2.Failed(
                    subtask_id=task.id,
                    failure=types_pb2.Failure(code=code, message=message),
                    row_done=task.panels.row_done,
                )
                self._unsaid.append(local_pb2.ExecutorEvent(failed=failed))
            self._conclude(task)
        self._say()


def _progress(task: Task) -> agent_pb2.SubtaskProgress:
    started_s = time.monotonic() if task.started_s is None else task.started_s
    return agent_pb2.SubtaskProgress(
        subtask_id=task.id,
        row_done=task.panels.row_done,
        area_done=task.panels.area_done,
        started_s=started_s,
        at_s=task.at_s or started_s,
        cpu_s=task.cpu_s,
        wall_s=task.wall_s,
        flops=task.flops,
    )


def compute_here(task: Task, panel: Panel) -> None:
    """By NumPy, in the calling thread."""
    out = part_of(task.result, panel.rectangle)
    needed = needed_blocks(task.operation, task.types, panel.rectangle)
    pairs = zip(task.operands, needed, strict=True)
    parts = [part_of(block, wanted) for block, (_, wanted) in pairs]
    compute_panel(np, task.operation, task.types, panel.rectangle, parts, out)


def part_of(block: Block, wanted: Rectangle) -> Array:
    """Some rows and columns of a matrix, as a view of the block that holds them."""
    held = block.rectangle
    if not (
        held.row_start <= wanted.row_start <= wanted.row_stop <= held.row_stop
        and held.column_start <= wanted.column_start <= wanted.column_stop <= held.column_stop
    ):
        # NumPy would take it from the other end: a wrong matrix rather than an error.
        raise IndexError(f"{wanted} is not in the block {held}")
    return block.array[
        wanted.row_start - held.row_start : wanted.row_stop - held.row_start,
        wanted.column_start - held.column_start : wanted.column_stop - held.column_start,
    ]
