"""One simulated device: an agent with one executor of one thread, as the scheduler sees it.

Rules of this file: it plays what the real agent does (fetch, run, give back what was not started,
deliver, report; be lost, stopped and back) and decides nothing. Transfers of one device take
turns; the store's port is shared by all devices.
"""

from __future__ import annotations

from bisect import bisect
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

from deadheat.runtime.programs import Rectangle, work_shape
from deadheat.scheduler.core import effects, events
from deadheat.scheduler.simulator import panels
from deadheat.scheduler.simulator.curves import Supply
from deadheat.scheduler.simulator.network import Transfer
from deadheat.scheduler.simulator.processor import Processor
from deadheat.scheduler.simulator.scenario import DeviceSpec
from deadheat.scheduler.simulator.tasks import BlockKey, Phase, Task

#: An agent that was away for longer finds its session closed, and registers again.
LEASE_S: Final = 10.0


class Surroundings(Protocol):
    """What a device may ask of the simulation around it."""

    now: float

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


@dataclass(eq=False, slots=True)
class _Move:
    """Bytes on their way to or from the store, for one sub-task."""

    task: Task
    size_bytes: float


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
        self._moves: deque[_Move] = deque()
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
            most=panels.largest_area(flops, assign.rectangle.area, assign.predicted_s),
            asked_s=self._world.now,
        )
        self._tasks[task.id] = task
        if self.is_remote:
            task.bytes_in = self._claim_blocks(task)
            # What an earlier one of the job is fetching is waited for in the queue.
            if task.bytes_in or any(move.task.assign.job == assign.job for move in self._moves):
                self._move(_Move(task, task.bytes_in))
                return
        self._make_ready(task)

    def _claim_blocks(self, task: Task) -> int:
        """Bytes of operands that are not here; from now on they are, or will soon be."""
        here = self._cached.setdefault(task.assign.job, set())
        missing = [
            source
            for source in task.assign.operands
            if source.inline is None and (source.matrix_id, source.rectangle) not in here
        ]
        task.fetched = [(source.matrix_id, source.rectangle) for source in missing]
        here.update(task.fetched)
        return sum(source.rectangle.area * source.type.element.itemsize for source in missing)

    def _make_ready(self, task: Task) -> None:
        task.phase = Phase.READY
        if task.rectangle.area:
            self._processor.add(task, self._world.now)
        else:
            self._computed(task, self._world.now)

    def _cancelled(self, subtask: str) -> None:
        task = self._tasks.pop(subtask, None)
        if task is None:
            return
        if task.phase is Phase.READY:
            self._processor.cancel(task, self._world.now)
        else:
            self._drop_move(task)

    def _resize(self, subtask: str, keep_area: int) -> None:
        task = self._tasks.get(subtask)
        if task is None:
            return
        released: Sequence[Rectangle] = ()
        if task.phase is Phase.FETCHING:
            released = self._shrink_unfetched(task, keep_area)
        elif task.phase is Phase.READY:
            released = self._processor.release(task, keep_area, self._world.now)
        self._tell(events.SubtaskResized(self.name, subtask, released))
        if released and task.phase is Phase.READY and task.is_computed:
            self._computed(task, self._world.now)

    def _shrink_unfetched(self, task: Task, keep_area: int) -> list[Rectangle]:
        whole = task.rectangle
        keep_rows = -(-max(0, keep_area) // max(1, whole.columns))
        row = min(whole.row_stop, whole.row_start + keep_rows)
        if row == whole.row_stop:
            return []
        task.rectangle = whole.with_rows(whole.row_start, row)
        if row == whole.row_start:
            del self._tasks[task.id]
            self._drop_move(task)
        return [whole.with_rows(row, whole.row_stop)]

    # Blocks

    def _move(self, move: _Move) -> None:
        """Blocks of the best rank go first. (A real agent's transfers share its link evenly, which
        hardly slows a small one of a better rank down.)"""
        at = bisect(self._moves, move.task.order, key=lambda other: other.task.order)
        if at == 0:
            self._end_transfer()
        self._moves.insert(at, move)
        self._begin_transfer()

    def _begin_transfer(self) -> None:
        if self._moves and self._transfer is None and not self.is_stopped:
            self._transfer = self._world.begin_transfer(self, self._moves[0].size_bytes)

    def _end_transfer(self) -> None:
        """Stops what is under way; the rest of it is still to be moved."""
        if self._transfer is not None:
            self._moves[0].size_bytes = self._world.end_transfer(self, self._transfer)
            self._transfer = None

    def moved(self) -> None:
        """The first of the moves has ended."""
        move, self._transfer = self._moves.popleft(), None
        arrived_s = self._world.now + self.spec.latency_s
        self._world.at(arrived_s, self._arrived, (move.task, self._instance))
        self._begin_transfer()

    def _arrived(self, given: tuple[Task, int]) -> None:
        task, instance = given
        if self.is_stopped:
            self._inbox.append((self._arrived, given))
            return
        if instance != self._instance or self._tasks.get(task.id) is not task:
            return
        task.transfer_s += self._world.now - task.asked_s
        if task.phase is Phase.DELIVERING:
            self._finish(task, self._result_bytes(task))
        else:
            self._make_ready(task)

    def _drop_move(self, task: Task) -> None:
        """Nobody wants the blocks that it waits for."""
        index = next((i for i, move in enumerate(self._moves) if move.task is task), None)
        if index is None:
            return
        if task.phase is Phase.FETCHING:
            self._cached.get(task.assign.job, set()).difference_update(task.fetched)
        if index == 0:
            self._end_transfer()
        del self._moves[index]
        self._begin_transfer()

    # To the scheduler

    def _tell(self, event: events.Event) -> None:
        self._world.tell(self.spec.latency_s, event)

    def _delivers(self, task: Task) -> bool:
        return self.is_remote and bool(task.assign.result_id)

    def _tell_progress(self, task: Task, now: float) -> None:
        progress = task.progress(now, delivers=self._delivers(task))
        self._tell(events.SubtasksProgressed(self.name, (progress,)))

    def _result_bytes(self, task: Task) -> int:
        return task.area_done * task.assign.result_type.element.itemsize

    def _computed(self, task: Task, now: float) -> None:
        task.phase = Phase.DELIVERING
        if self._delivers(task) and task.area_done:
            task.asked_s = now
            self._move(_Move(task, self._result_bytes(task)))
        else:
            self._finish(task, 0)

    def _finish(self, task: Task, bytes_out: int) -> None:
        del self._tasks[task.id]
        now = self._world.now
        inline = b"" if task.assign.result_id else bytes(self._result_bytes(task))
        self._tell(
            events.SubtaskFinished(
                self.name,
                task.progress(now, delivers=False),
                now,
                task.bytes_in,
                bytes_out,
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


def flops_per_element(assign: effects.SendAssign) -> float:
    """The work in one element of an operation's result."""
    types = {operand.name: operand.type for operand in assign.operands}
    return replace(work_shape(assign.operation, types), rows=1, columns=1).flops
