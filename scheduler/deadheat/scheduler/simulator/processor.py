"""What computes on a simulated device: one thread that takes panels by rank.

At any time at most one event is under way for it, at the end of the next panel at which something
happens: progress is to be told, another sub-task's turn has come, or the sub-task is done. All
panels before that one are passed over: their ends are read off the device's supply when wanted.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable
from typing import Any

import numpy as np

from deadheat.runtime.programs import Rectangle
from deadheat.scheduler.simulator import panels
from deadheat.scheduler.simulator.curves import Supply
from deadheat.scheduler.simulator.scenario import DeviceSpec
from deadheat.scheduler.simulator.tasks import Task

Schedule = Callable[[float, Callable[[Any], None], Any], None]


class Processor:
    """`schedule(when_s, action, argument)` calls back at a moment; `on_progress` and `on_computed`
    get a sub-task that has something to tell, or is done. `seeds` are of its noise."""

    def __init__(
        self,
        spec: DeviceSpec,
        supply: Supply,
        seeds: tuple[int, int],
        schedule: Schedule,
        on_progress: Callable[[Task, float], None],
        on_computed: Callable[[Task], None],
    ) -> None:
        self._spec = spec
        self._supply = supply
        self._seeds = seeds
        self._schedule = schedule
        self._on_progress = on_progress
        self._on_computed = on_computed
        self._random: np.random.Generator | None = None
        #: By rank; the one that runs stays in it until its panel has ended.
        self._ready: list[Task] = []
        #: Those that can go on when further rows of their operands are here.
        self._waiting: list[Task] = []
        self._running: Task | None = None
        #: It was cancelled while one of its panels ran.
        self._is_cancelled = False
        self._ticket = 0
        #: The panel end up to which everything is booked, and the supply's functions there.
        self._booked_s = 0.0
        self._booked_cpu_s = 0.0
        self._booked_effort_s = 0.0
        self._own_cpu_s = 0.0
        self._own_wall_s = 0.0

    def own_s(self, now: float) -> tuple[float, float]:
        """Processor seconds and elapsed seconds of all panels up to now."""
        if self._running is None:
            return self._own_cpu_s, self._own_wall_s
        cpu_s = self._supply.cpu.at(now) - self._booked_cpu_s
        return self._own_cpu_s + cpu_s, self._own_wall_s + now - self._booked_s

    def clear(self) -> None:
        """All that it had is gone."""
        self._ready.clear()
        self._waiting.clear()
        self._running, self._is_cancelled = None, False
        self._ticket += 1

    def add(self, task: Task, now: float) -> None:
        r = task.rectangle
        task.layout = panels.lay_out(r.rows, r.columns, task.sizes, task.highest)
        self._draw_efforts(task, 0)
        self._enqueue(task, now)

    def rows_arrived(self, task: Task, now: float) -> None:
        """Its `rows_here` are more than they were."""
        if task is self._running and not self._is_cancelled:
            self._wake_next(task, now)
        elif task in self._waiting and task.available > task.done:
            self._waiting.remove(task)
            self._enqueue(task, now)

    def _enqueue(self, task: Task, now: float) -> None:
        if task.available <= task.done:
            self._waiting.append(task)
            return
        insort(self._ready, task)
        if self._running is None:
            self._run_first(now)
        elif self._ready[0] is task and not self._is_cancelled:
            self._wake_next(self._running, now)

    def cancel(self, task: Task, now: float) -> None:
        """No further panel of it starts; the one that runs ends unheard."""
        if task is not self._running:
            (self._waiting if task in self._waiting else self._ready).remove(task)
            return
        self._is_cancelled = True
        self._wake_at(task, self._begun(task, now), now)

    def release(self, task: Task, keep_area: int, now: float) -> list[Rectangle]:
        """Gives up what was not started beyond so many elements; returns it. A sub-task that has
        then nothing left to do, and does not run, is dropped: it `is_computed`."""
        begun = self._begun(task, now) if task is self._running else task.done
        released, layout = panels.release(
            task.layout, begun, keep_area, task.rectangle, task.sizes, task.highest
        )
        if released:
            task.layout = layout
            task.released += released
            self._draw_efforts(task, begun)
            if task is self._running:
                self._wake_next(task, now)
            elif task.is_computed:
                (self._waiting if task in self._waiting else self._ready).remove(task)
        return released

    def _draw_efforts(self, task: Task, known: int) -> None:
        """Idle seconds of all panels after the first `known`: chance has its say for each."""
        areas = task.layout.areas
        pace_s = task.flops_per_element / self._spec.speed_flops
        if not self._spec.noise:
            task.efforts = [area * pace_s for area in areas]
            return
        if self._random is None:
            self._random = np.random.default_rng(self._seeds)
        factors = self._random.standard_normal(len(areas) - 1 - known)
        factors *= self._spec.noise
        np.exp(factors, out=factors)
        factors *= task.layout.sizes[known:]
        factors *= pace_s
        # Panels that are known keep what chance gave them.
        before = task.efforts[known]
        ends = (before + np.cumsum(factors)).tolist()
        task.efforts = [*task.efforts[: known + 1], *ends]

    def _run_first(self, now: float) -> None:
        self._is_cancelled = False
        if not self._ready:
            self._running = None
            return
        task = self._running = self._ready[0]
        self._booked_s = now
        self._booked_cpu_s = self._supply.cpu.at(now)
        self._booked_effort_s = self._supply.effort.at(now)
        if task.started_s is None:
            task.started_s = now
        self._wake_next(task, now)

    def _begun(self, task: Task, now: float) -> int:
        """Panels of the running sub-task that are done or running now."""
        effort = self._supply.effort.at(now) - self._booked_effort_s + task.efforts[task.done]
        ended = bisect_right(task.efforts, effort, lo=task.done) - 1
        return min(max(ended, task.done) + 1, task.available)

    def _wake_next(self, task: Task, now: float) -> None:
        last = task.available
        if self._ready[0] is not task:
            count = self._begun(task, now)
        else:
            due_s = max(task.told_s + task.assign.progress_s, self._booked_s)
            passed = self._supply.effort.at(due_s) - self._booked_effort_s
            effort = task.efforts[task.done] + passed
            count = min(bisect_left(task.efforts, effort, lo=min(task.done + 1, last)), last)
        self._wake_at(task, count, now)

    def _wake_at(self, task: Task, count: int, now: float) -> None:
        """When the first `count` panels of the running sub-task are done."""
        self._ticket += 1
        passed = task.efforts[count] - task.efforts[task.done]
        when_s = self._supply.effort.when(self._booked_effort_s + passed)
        if when_s < math.inf:
            self._schedule(max(when_s, now), self._on_panel_end, (self._ticket, count, when_s))

    def _on_panel_end(self, given: tuple[int, int, float]) -> None:
        ticket, count, now = given
        task = self._running
        if ticket != self._ticket or task is None:
            return
        cpu = self._supply.cpu.at(now)
        wall_s, cpu_s = now - self._booked_s, cpu - self._booked_cpu_s
        self._own_wall_s += wall_s
        self._own_cpu_s += cpu_s
        task.wall_s += wall_s
        task.cpu_s += cpu_s
        self._booked_effort_s += task.efforts[count] - task.efforts[task.done]
        self._booked_s, self._booked_cpu_s = now, cpu
        task.done, task.at_s = count, now
        if self._is_cancelled:
            self._ready.remove(task)
            self._run_first(now)
        elif task.is_computed:
            self._ready.remove(task)
            self._on_computed(task)
            self._run_first(now)
        elif task.available <= task.done:
            self._ready.remove(task)
            self._waiting.append(task)
            self._tell_if_due(task, now)
            self._run_first(now)
        else:
            self._tell_if_due(task, now)
            if self._ready[0] is task:
                self._wake_next(task, now)
            else:
                self._run_first(now)

    def _tell_if_due(self, task: Task, now: float) -> None:
        if now >= task.told_s + task.assign.progress_s:
            task.told_s = now
            self._on_progress(task, now)
