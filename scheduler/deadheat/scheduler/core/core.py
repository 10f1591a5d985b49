"""The core itself: one event in, all of its consequences out, in one synchronous call."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

from deadheat.scheduler.core import epochs, events, jobs, lineage, nodes, outcomes, presence
from deadheat.scheduler.core.effects import Effect
from deadheat.scheduler.core.world import World


class Core:
    """All of the scheduler's decisions. Not thread-safe: one caller, one event at a time."""

    def __init__(self, host: str, store_bytes_per_s: float = math.inf) -> None:
        self.world = World(host, store_bytes_per_s)

    def handle(self, event: events.Event, now: float) -> list[Effect]:
        """Applies an event that happened at `now` (monotonic seconds); returns what to do, in
        order. Raises IllegalTransition, and has then changed nothing, for an impossible event."""
        self.world.now = now
        try:
            _HANDLERS[type(event)](self.world, event)
            jobs.retry_waiting(self.world)
            nodes.check_drained(self.world)
            presence.tell_idle(self.world)
            epochs.record_ends(self.world)
        finally:
            effects = self.world.take_effects()
        return effects

    def next_deadline_s(self) -> float | None:
        """When `Ticked` is due."""
        return self.world.next_deadline_s()


def _on_tick(world: World, event: events.Ticked) -> None:
    del event
    for kind, key in world.take_due():
        if kind == "node":
            nodes.check_silence(world, key)
        elif kind == "job":
            jobs.check_timeout(world, key)
        else:
            jobs.check_balance(world, key)


_HANDLERS: Final[Mapping[type[Any], Callable[[World, Any], None]]] = {
    events.NodeRegistered: nodes.on_registered,
    events.DeviceAppeared: presence.on_appeared,
    events.DeviceYields: presence.on_yields,
    events.NodeSampled: nodes.on_sampled,
    events.SpeedMeasured: nodes.on_speed_measured,
    events.SessionBroken: nodes.on_session_broken,
    events.NodeLeft: nodes.on_left,
    events.DrainAsked: nodes.on_drain,
    events.ResumeAsked: nodes.on_resume,
    events.JobSubmitted: jobs.on_submitted,
    events.CancelAsked: jobs.on_cancel,
    events.PlanMade: jobs.on_plan_made,
    events.ResultsMade: jobs.on_results_made,
    events.ResultSealed: jobs.on_result_sealed,
    events.StoreRestarted: lineage.on_store_restarted,
    events.MatricesFound: lineage.on_matrices_found,
    events.SubtasksProgressed: outcomes.on_progress,
    events.SubtaskFinished: outcomes.on_finished,
    events.SubtaskFailed: outcomes.on_failed,
    events.SubtaskResized: outcomes.on_resized,
    events.Ticked: _on_tick,
}
