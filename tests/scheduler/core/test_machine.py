"""State machines: what is not in the table raises and changes nothing."""

from __future__ import annotations

import pytest

from deadheat.scheduler.core.machine import (
    JOB,
    NODE,
    SUBTASK,
    IllegalTransition,
    JobEvent,
    JobState,
    NodeEvent,
    NodeState,
    SubtaskEvent,
    SubtaskState,
)


def test_an_illegal_event_names_event_and_state() -> None:
    with pytest.raises(IllegalTransition, match="job: event 'finish' is illegal in state 'queued'"):
        JOB.next(JobState.QUEUED, JobEvent.FINISH)


@pytest.mark.parametrize("state", [state for state in JobState if state.is_final])
def test_what_has_ended_stays_ended(state: JobState) -> None:
    for event in JobEvent:
        if JOB.allows(state, event):
            assert JOB.next(state, event) is state


@pytest.mark.parametrize("state", [state for state in SubtaskState if not state.is_active])
def test_a_sub_task_that_ended_takes_no_event(state: SubtaskState) -> None:
    allowed = {event for event in SubtaskEvent if SUBTASK.allows(state, event)}
    # What it has made may be lost with the store, and nothing else.
    assert allowed == ({SubtaskEvent.SUPERSEDE} if state is SubtaskState.DONE else set())


@pytest.mark.parametrize("state", NodeState)
def test_every_node_can_register_drain_and_resume(state: NodeState) -> None:
    for event in (NodeEvent.REGISTERED, NodeEvent.DRAIN, NodeEvent.RESUME):
        assert NODE.allows(state, event)


def test_every_state_can_be_reached() -> None:
    for machine, start in (
        (JOB, JobState.QUEUED),
        (SUBTASK, SubtaskState.ASSIGNED),
        (NODE, NodeState.UP),
    ):
        reached = {start}
        for _ in range(5):
            reached |= {to for (source, _), to in machine.table.items() if source in reached}
        assert reached == set(type(start))
