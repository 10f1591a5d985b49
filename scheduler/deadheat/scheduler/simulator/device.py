"""One simulated device: an agent with one executor of one thread, as the scheduler sees it.

Rules of this file: it plays what the real agent does (fetch, run, give back what was not started,
deliver, report; be lost, stopped and back) and decides nothing. What every row of a sub-task needs
comes first, then it computes while further rows come and results go. Transfers of one device take
turns (a real one's link has two directions); the store's port is shared by all devices.
"""

from __future__ import annotations

from bisect import bisect
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from deadheat.runtime.programs import Rectangle, read_by_rows
from deadheat.scheduler.core import effects, events
from deadheat.scheduler.simulator import panels
from deadheat.scheduler.simulator.curves import Supply
from deadheat.scheduler.simulator.network import Transfer
from deadheat.scheduler.simulator.processor import Processor
from deadheat.scheduler.simulator.scenario import DeviceSpec
from deadheat.scheduler.simulator.tasks import (
    BlockKey,
    Move,
    Phase,
    Task,
    flops_per_element,
    is_mapped,
)

#: An agent that was away for longer finds its session closed, and registers again.
LEASE_S: Final = 10.0


class Surroundings(Protocol):
    """What a device may ask of the simulation around it."""

    now: float
    #: When the store answers again; it does now unless that is to come.
    store_back_s: float

    def at(self, when_s: float, action: Callable[[Any], None], argument: Any) -> None: ...

    def tell(self, latency_s: float, event: events.Event) -> None:
        """A message to the scheduler."""
        ...

    def begin_transfer(self, device: Device, size_bytes: float) -> Transfer:
        """`device.moved()` is called at its end."""
        ...

    def end_transfer(self, device: Device, transfer: Transfer) -> float:
        """Stops one; returns the bytes that were still to go."""
        ...


#: Rows come in so many runs at most after the first, each with an event of its own.
ROW_RUNS: Final = 16
#: Rows are delivered while others are computed when they are so many bytes together.
DELIVERY_BYTES: Final = 4 << 20


class Device:
    """`index` seeds its noise together with the scenario's seed."""

    def __init__(
        self, spec: DeviceSpec, supply: Supply, seeds: tuple[int, int], world: Surroundings
    ) -> None:
        self.spec = spec
        self.name = spec.name
        self.supply = supply
        self.is_lost = False
        self.is_stopped = False
        self._world = world
        self._instance = 1
        self._stopped_at_s = 0.0
        self._tasks: dict[str, Task] = {}
        self._arrivals = 0
        self._processor = Processor(
            spec, supply, seeds, world.at, self._tell_progress, self._computed
        )
        self._moves: deque[Move] = deque()
        self._transfer: Transfer | None = None
        self._cached: dict[str, set[BlockKey]] = {}
        #: What came while it was stopped.
        self._inbox: list[tuple[Callable[[Any], None], Any]] = []

    @property
    def is_remote(self) -> bool:
        return self.spec.bandwidth_bytes_per_s is not None

    @property
    def instance(self) -> str:
        return str(self._instance)

    @property
    def held(self) -> tuple[events.HeldSubtask, ...]:
        return tuple(events.HeldSubtask(task, is_finished=False) for task in self._tasks)

    def own_s(self) -> tuple[float, float]:
        return self._processor.own_s(self._world.now)

    # From the scheduler

    def receive(self, order: effects.Effect) -> None:
        if self.is_lost:
            return
        if self.is_stopped:
            self._inbox.append((self.receive, order))
            return
        match order:
            case effects.SendAssign():
                self._assigned(order)
            case effects.SendCancel(_, subtasks):
                for subtask in subtasks:
                    self._cancelled(subtask)
            case effects.SendResize(_, subtask, keep_area):
                self._resize(subtask, keep_area)
            case _:
                raise AssertionError(f"no agent carries out {order}")

    def forget_job(self, job: str) -> None:
        """Its blocks are needed no more."""
        self._cached.pop(job, None)

    def _assigned(self, assign: effects.SendAssign) -> None:
        if assign.subtask in self._tasks:
            return  # Sent again after a break; it is here.
        self._arrivals += 1
        flops = flops_per_element(assign)
        task = Task(
            id=assign.subtask,
            assign=assign,
            order=(assign.rank, self._arrivals),
            rectangle=assign.rectangle,
            flops_per_element=flops,
            sizes=panels.sizes_of(flops, assign.rectangle.area, assign.predicted_s),
        )
        self._tasks[task.id] = task
        if self.is_remote:
            first, rest = self._claim_blocks(task)
            # What an earlier one of the job is fetching is waited for in the queue.
            if first or rest or any(m.task.assign.job == assign.job for m in self._moves):
                self._fetch(task, first, rest)
                return
        elif self._world.store_back_s > self._world.now and is_mapped(assign):
            self._world.at(self._world.store_back_s, self._mapped, (task, self._instance))
            return
        self._make_ready(task)

    def _mapped(self, given: tuple[Task, int]) -> None:
        """The store is there again, and has given what it was asked for."""
        task, instance = given
        if self.is_stopped:
            self._inbox.append((self._mapped, given))
        elif instance == self._instance and self._tasks.get(task.id) is task:
            self._make_ready(task)

    def _claim_blocks(self, task: Task) -> tuple[int, int]:
        """Bytes of operands that are not here (from now on they are, or will soon be): of those
        that every row needs, and of those of which each row needs its own."""
        here = self._cached.setdefault(task.assign.job, set())
        sizes, task.fetched = [0, 0], []
        types = {source.name: source.type for source in task.assign.operands}
        by_rows = read_by_rows(task.assign.operation, types)
        for source, is_by_rows in zip(task.assign.operands, by_rows, strict=True):
            key = (source.matrix_id, source.rectangle)
            if source.inline is None and key not in here:
                sizes[is_by_rows] += source.rectangle.area * source.type.element.itemsize
                task.fetched.append(key)
                here.add(key)
        return sizes[0], sizes[1]

    def _fetch(self, task: Task, whole_bytes: int, row_bytes: int) -> None:
        """What every row needs and the first rows come first, then the others in runs."""
        rows = task.rectangle.rows
        first = min(rows, panels.FIRST_ROWS) if row_bytes else rows
        run = max(panels.FIRST_ROWS, -(-(rows - first) // ROW_RUNS))
        stops = [*range(first, rows, run), rows]
        if row_bytes:
            task.highest = panels.FIRST_ROWS
        task.bytes_in = whole_bytes + row_bytes
        start, ahead = 0, whole_bytes
        for stop in dict.fromkeys(stops):
            share = row_bytes * (stop - start) / max(1, rows)
            self._move(Move(task, ahead + share, stop))
            start, ahead = stop, 0

    def _make_ready(self, task: Task) -> None:
        task.phase = Phase.READY
        if task.rectangle.area:
            self._processor.add(task, self._world.now)
        else:
            self._computed(task)

    def _cancelled(self, subtask: str) -> None:
        task = self._tasks.pop(subtask, None)
        if task is None:
            return
        if task.phase is Phase.READY:
            self._processor.cancel(task, self._world.now)
        self._drop_moves(task)

    def _resize(self, subtask: str, keep_area: int) -> None:
        task = self._tasks.get(subtask)
        if task is None:
            return
        released: Sequence[Rectangle] = ()
        if task.phase is Phase.FETCHING:
            released = self._shrink_unfetched(task, keep_area)
        elif task.phase is Phase.READY:
            released = self._processor.release(task, keep_area, self._world.now)
            if released:
                self._trim_moves(task)
        self._tell(events.SubtaskResized(self.name, subtask, released))
        if released and task.phase is Phase.READY and task.is_computed:
            self._computed(task)

    def _shrink_unfetched(self, task: Task, keep_area: int) -> list[Rectangle]:
        whole = task.rectangle
        keep_rows = -(-max(0, keep_area) // max(1, whole.columns))
        row = min(whole.row_stop, whole.row_start + keep_rows)
        if row == whole.row_stop:
            return []
        task.rectangle = whole.with_rows(whole.row_start, row)
        if row == whole.row_start:
            del self._tasks[task.id]
            self._drop_moves(task)
        return [whole.with_rows(row, whole.row_stop)]

    # Blocks

    def _move(self, move: Move) -> None:
        """Blocks of the best rank go first. (A real agent's transfers share its link evenly, which
        hardly slows a small one of a better rank down.)"""
        at = bisect(self._moves, move.task.order, key=lambda other: other.task.order)
        if at == 0:
            self._end_transfer()
        self._moves.insert(at, move)
        self._begin_transfer()

    def _trim_moves(self, task: Task) -> None:
        """Operands of rows that were given away do not come; what is under way does."""
        kept = task.layout.panels[-1].bottom if task.layout.panels else 0
        under_way = self._moves[0] if self._moves and self._transfer else None
        before = 0
        for move in [m for m in self._moves if m.task is task and not m.is_result]:
            if before >= kept and move is not under_way:
                self._moves.remove(move)
                task.bytes_in -= round(move.size_bytes)
            before = move.rows

    def _begin_transfer(self) -> None:
        if self._moves and self._transfer is None and not self.is_stopped:
            self._moves[0].begun_s = self._world.now
            self._transfer = self._world.begin_transfer(self, self._moves[0].size_bytes)

    def _end_transfer(self) -> None:
        """Stops what is under way; the rest of it is still to be moved."""
        if self._transfer is not None:
            move = self._moves[0]
            move.size_bytes = self._world.end_transfer(self, self._transfer)
            move.moved_s += self._world.now - move.begun_s
            self._transfer = None

    def moved(self) -> None:
        """The first of the moves has ended."""
        move, self._transfer = self._moves.popleft(), None
        move.moved_s += self._world.now - move.begun_s
        arrived_s = self._world.now + self.spec.latency_s
        self._world.at(arrived_s, self._arrived, (move, self._instance))
        self._begin_transfer()

    def _arrived(self, given: tuple[Move, int]) -> None:
        move, instance = given
        task = move.task
        if self.is_stopped:
            self._inbox.append((self._arrived, given))
            return
        if instance != self._instance or self._tasks.get(task.id) is not task:
            return
        task.transfer_s += move.moved_s
        if move.is_result:
            task.rows_delivered = max(task.rows_delivered, move.rows)
            if task.phase is Phase.DELIVERING:
                self._finish_if_there(task)
            return
        task.rows_here = move.rows
        if task.phase is Phase.FETCHING:
            self._make_ready(task)
        elif task.phase is Phase.READY:
            self._processor.rows_arrived(task, self._world.now)

    def _drop_moves(self, task: Task) -> None:
        """Nobody wants the blocks that it waits for, or its result."""
        mine = [move for move in self._moves if move.task is task]
        if any(not move.is_result for move in mine):
            self._cached.get(task.assign.job, set()).difference_update(task.fetched)
        if mine and mine[0] is self._moves[0]:
            self._end_transfer()
        for move in mine:
            self._moves.remove(move)
        self._begin_transfer()

    # To the scheduler

    def _tell(self, event: events.Event) -> None:
        self._world.tell(self.spec.latency_s, event)

    def _delivers(self, task: Task) -> bool:
        return self.is_remote and bool(task.assign.result_id)

    def _tell_progress(self, task: Task, now: float) -> None:
        delivers = self._delivers(task)
        self._tell(events.SubtasksProgressed(self.name, (task.progress(now, delivers=delivers),)))
        rows = task.layout.row_done(task.done)
        if delivers and rows > task.rows_sent:
            whole = sum(
                r.area for r in task.released if r.row_start - task.rectangle.row_start < rows
            )
            area = rows * task.rectangle.columns - whole - task.area_sent
            if area * self._itemsize(task) >= DELIVERY_BYTES:
                self._send(task, rows, area)

    def _send(self, task: Task, rows: int, area: int) -> None:
        """A part of its result."""
        task.rows_sent, task.area_sent = rows, task.area_sent + area
        task.bytes_out += area * self._itemsize(task)
        self._move(Move(task, area * self._itemsize(task), rows, is_result=True))

    def _itemsize(self, task: Task) -> int:
        return task.assign.result_type.element.itemsize

    def _result_bytes(self, task: Task) -> int:
        return task.area_done * self._itemsize(task)

    def _computed(self, task: Task) -> None:
        task.phase = Phase.DELIVERING
        rest = task.area_done - task.area_sent
        if self._delivers(task) and rest:
            self._send(task, task.layout.row_done(len(task.layout.panels)), rest)
        else:
            self._finish_if_there(task)

    def _finish_if_there(self, task: Task) -> None:
        """When nothing of its result is on its way any more."""
        if task.rows_delivered < task.rows_sent:
            return
        del self._tasks[task.id]
        now = self._world.now
        inline = b"" if task.assign.result_id else bytes(self._result_bytes(task))
        self._tell(
            events.SubtaskFinished(
                self.name,
                task.progress(now, delivers=False),
                now,
                task.bytes_in,
                task.bytes_out,
                task.transfer_s,
                inline,
            )
        )

    # Faults

    def lose(self) -> None:
        """The machine is gone, and what was on it."""
        self._end_transfer()
        self._moves.clear()
        self._processor.clear()
        self._tasks.clear()
        self._cached.clear()
        self._inbox.clear()
        if not self.is_lost:
            self._tell(events.SessionBroken(self.name, self.instance))
        self.is_lost, self.is_stopped = True, False

    def stop(self) -> None:
        """As by SIGSTOP. That nothing is computed meanwhile, its supply knows."""
        if not self.is_lost and not self.is_stopped:
            self._end_transfer()
            self.is_stopped = True
            self._stopped_at_s = self._world.now

    def come_back(self) -> bool:
        """Whatever it was, it is as new; returns whether it has to register again."""
        was_away = self.is_lost
        if self.is_lost:
            self._instance += 1
        if self.is_stopped:
            was_away = self._world.now - self._stopped_at_s >= LEASE_S
        self.is_lost = self.is_stopped = False
        self._begin_transfer()
        inbox, self._inbox = self._inbox, []
        for action, argument in inbox:
            action(argument)
        return was_away
