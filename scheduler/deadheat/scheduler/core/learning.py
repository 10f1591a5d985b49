"""What the core learns of devices: from their claims, their samples, and what they deliver.

Rules of this file: a device's word is taken within bounds and corrected by what it does. Nothing
that an agent sends can raise here; what cannot be is clamped or dropped, counted by reason, and
told in an event at most once a minute.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from deadheat.runtime.programs import GemmShape
from deadheat.scheduler.core import events
from deadheat.scheduler.core.effects import EventRow, SampleRow, SpeedRows
from deadheat.scheduler.core.state import Device, Job, Node, Subtask
from deadheat.scheduler.core.world import World
from deadheat.scheduler.planner.availability import Sample, of_sample
from deadheat.scheduler.planner.history import SpeedHistory, Verdict, digest
from deadheat.scheduler.planner.speed import SpeedPoint

ROLL_UP_S: Final = 10.0
#: What was learnt of a device is recorded at most so often: losing some seconds of it is nothing.
RECORD_INTERVAL_S: Final = 10.0
#: How old a sample may claim to be, and how far ahead of our clock, before it is dropped.
MAX_SAMPLE_AGE_S: Final = 30.0
MAX_SAMPLE_LEAD_S: Final = 1.0
#: A window longer than this says nothing about now.
MAX_WINDOW_S: Final = 60.0
#: Ratios may come out so far beyond 0 and 1 by rounding; that is nobody's fault.
ROUNDING: Final = 1e-6
#: The same complaint about one device is told at most so often.
COMPLAINT_INTERVAL_S: Final = 60.0
#: So many held matrices of a device are believed.
MAX_HELD: Final = 64
#: A GPU that seems free to this degree is idle: what the stopwatch says then is its idle speed.
IDLE_AVAILABILITY: Final = 0.95

# Claims


def registered(world: World, node: Node, facts: events.DeviceFacts) -> Device:
    """A device as it registers. What was learnt of it is kept as long as its claims are the same;
    others mean that its hardware or its library is not what it was."""
    known = world.devices.get(facts.id)
    if known is None or known.node != node.name:
        if known:
            world.note_held(known, frozenset())
        known = Device(facts, node.name, SpeedHistory(), facts.memory_bytes)
    else:
        before = world.nodes.get(node.name)
        if before is None or before.instance != node.instance:
            known.history = known.history.after_start()
            world.note_held(known, frozenset())
    known.facts, known.yields = facts, facts.yields
    take_claims(world, known, facts.points)
    return known


def take_claims(world: World, device: Device, points: Sequence[SpeedPoint]) -> None:
    claims = tuple(points)
    if device.history.calibration == digest(claims):
        return
    device.history = SpeedHistory.of_claims(claims)
    if refused := sum(not point.is_sane for point in claims):
        detail = f"{device.facts.id}: {refused} of {len(claims)} claimed speeds cannot be"
        world.commit(EventRow(world.now, "claims_refused", node=device.node, detail=detail))


def record(world: World, device: Device) -> None:
    device.recorded_s, device.is_unrecorded = world.now, False
    world.commit(SpeedRows(device.facts.id, device.history))


def record_if_due(world: World, device: Device) -> None:
    if device.is_unrecorded and world.now - device.recorded_s >= RECORD_INTERVAL_S:
        record(world, device)


# Deliveries


def learn(world: World, job: Job, subtask: Subtask, event: events.SubtaskFinished) -> None:
    """Takes in how long a finished sub-task took, and its transfers. What was learnt is recorded by
    whoever records its end."""
    device = world.devices[subtask.device]
    device.learn_bandwidth(event.bytes_in + event.bytes_out, event.transfer_s)
    shape = job.program.shape_of(job.steps[subtask.operation].operation)
    piece = subtask.pieces[0]
    if not shape.times:  # A part of an epoch has all of its products, on fewer rows.
        shape = replace(shape, rows=piece.rows, columns=piece.columns)
    made = event.progress
    # A re-split sub-task did another amount of work than its first piece's.
    share = shape.flops / made.flops if made.flops > 0.0 else math.nan
    if made.cpu_s > 0.0:
        # Processor seconds are the same whoever else runs, so they are idle seconds.
        _take(world, device, shape, made.cpu_s / device.facts.threads * share)
    elif device.facts.kind == "gpu":
        _learn_by_stopwatch(world, device, shape, made.wall_s / device.facts.threads * share)


def _learn_by_stopwatch(world: World, device: Device, shape: GemmShape, wall_s: float) -> None:
    """A GPU does not count our seconds apart from those of others. Idle, its stopwatch is its
    speed; shared, it is what NVML's figures mean, and wins over them."""
    is_idle = not device.samples or of_sample(device.samples[-1]) >= IDLE_AVAILABILITY
    if is_idle or not device.model.points:
        _take(world, device, shape, wall_s)
    elif wall_s > 0.0:
        device.seen.check(device.history.expected_s(shape) / wall_s)


def _take(world: World, device: Device, shape: GemmShape, idle_s: float) -> None:
    device.history, verdict = device.history.learn(shape, idle_s)
    if verdict in (Verdict.REFUSED, Verdict.FIRST):
        return
    device.is_unrecorded = True
    if verdict is Verdict.FLUSHED:
        detail = (
            f"{device.facts.id}: speed of {shape.dtype} is learnt anew, it was not as we knew it"
        )
        world.commit(EventRow(world.now, "speed_flushed", node=device.node, detail=detail))


# Samples


def take_sample(world: World, device: Device, sampled: events.DeviceSampled) -> None:
    """Takes in what can be believed of a sample, and complains of the rest."""
    sample, reasons = believable(sampled.sample, world.now)
    if sampled.memory_free_bytes < 0:
        reasons = (*reasons, "negative")
    _complain(world, device, tuple(dict.fromkeys(reasons)))
    if sample is None:
        return
    device.samples.append(sample)
    device.seen.add(sample)
    if sampled.memory_free_bytes > device.memory_free_bytes and device.facts.kind == "gpu":
        world.released += 1  # Somebody else has left the card.
    if sampled.memory_short_bytes < device.memory_short_bytes:
        world.released += 1  # Others have given memory of the machine back.
    device.memory_short_bytes = max(0, sampled.memory_short_bytes)
    device.unknown = sampled.unknown
    device.memory_free_bytes = max(0, sampled.memory_free_bytes)
    device.gpu = sampled.gpu
    world.note_held(device, frozenset(sampled.held[:MAX_HELD]))
    _roll_up(world, device, sample)
    record_if_due(world, device)


def believable(sample: Sample, now: float) -> tuple[Sample | None, tuple[str, ...]]:
    """The sample with its values in range, and why they were not; None for one that is not a
    number, too old, yet to come, or over no time at all."""
    share = 1.0 if sample.fair_share is None else sample.fair_share
    ratios = (sample.busy, sample.own, sample.foreign, sample.steal, sample.quota, share)
    amounts = (sample.foreign_runnable, sample.run_s, sample.wait_s)
    if not all(map(math.isfinite, (*ratios, *amounts, sample.at_s, sample.window_s))):
        return None, ("not_a_number",)
    if sample.at_s > now + MAX_SAMPLE_LEAD_S:
        return None, ("future",)
    if sample.at_s < now - MAX_SAMPLE_AGE_S:
        return None, ("stale",)
    if not 0.0 < sample.window_s <= MAX_WINDOW_S:
        return None, ("window",)
    reasons = []
    if min(*ratios, *amounts) < -ROUNDING:
        reasons.append("negative")
    if max(ratios) > 1.0 + ROUNDING:
        reasons.append("over_one")
    busy, own, foreign, steal, quota, share = (min(1.0, max(0.0, ratio)) for ratio in ratios)
    runnable, run_s, wait_s = (max(0.0, amount) for amount in amounts)
    kept = replace(
        sample,
        at_s=min(sample.at_s, now),
        busy=busy,
        own=own,
        foreign=foreign,
        steal=steal,
        quota=quota,
        fair_share=None if sample.fair_share is None else share,
        foreign_runnable=runnable,
        run_s=run_s,
        wait_s=wait_s,
    )
    return kept, tuple(reasons)


def _complain(world: World, device: Device, reasons: Sequence[str]) -> None:
    for reason in reasons:
        device.bad_samples[reason] += 1
        if world.now - device.bad_told_s.get(reason, -math.inf) < COMPLAINT_INTERVAL_S:
            continue
        device.bad_told_s[reason] = world.now
        detail = f"{device.facts.id}: {reason}, {device.bad_samples[reason]} so far"
        world.commit(EventRow(world.now, "bad_sample", node=device.node, detail=detail))


def _roll_up(world: World, device: Device, sample: Sample) -> None:
    device.rolled_up.append((sample, of_sample(sample)))
    window_s = sum(one.window_s for one, _ in device.rolled_up)
    if window_s < ROLL_UP_S:
        return
    count = len(device.rolled_up)
    world.commit(
        SampleRow(
            device=device.facts.id,
            at_s=sample.at_s,
            window_s=window_s,
            busy=sum(one.busy for one, _ in device.rolled_up) / count,
            own=sum(one.own for one, _ in device.rolled_up) / count,
            foreign=sum(one.foreign for one, _ in device.rolled_up) / count,
            availability=sum(value for _, value in device.rolled_up) / count,
            availability_low=min(value for _, value in device.rolled_up),
        )
    )
    device.rolled_up.clear()
