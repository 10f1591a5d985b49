"""Who shares an epoch with whom: what each member is told of the others.

Rules of this file: the members are the sub-tasks of one plan, and their order is their place in the
tree in which gradients travel. An assignment that is sent again after a break says the same.
"""

from __future__ import annotations

from typing import Final

from deadheat.scheduler.core.effects import Share
from deadheat.scheduler.core.state import Job, Subtask
from deadheat.scheduler.core.world import World
from deadheat.scheduler.planner.wholes import is_whole

#: How long a member waits for another one, besides twice the time of the whole epoch: it may have
#: other work before, or its operands come slowly. One that is lost is heard of much sooner.
PATIENCE_S: Final = 60.0


def share_of(world: World, job: Job, subtask: Subtask) -> Share | None:
    """None for a sub-task that shares an epoch with nobody."""
    step = job.steps[subtask.operation]
    if not is_whole(step.operation):
        return None
    members = [one for one in step.parts if one.plan == subtask.plan]
    if len(members) < 2:
        return None
    members.sort(key=lambda one: int(one.id.rpartition("-")[2]))
    placement = subtask.placement
    return Share(
        exchange=members[0].id,
        member=members.index(subtask),
        addresses=tuple(world.nodes[one.node].peer_address for one in members),
        patience_s=PATIENCE_S + 2 * (placement.predicted_finish_s - placement.predicted_start_s),
    )
