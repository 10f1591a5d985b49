"""The story of a job, for `explain`: how it went, then every plan with its cause and reasons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from deadheat.runtime.programs import Precision
from deadheat.runtime.units import format_seconds
from deadheat.scheduler.core.barriers import barriers
from deadheat.scheduler.core.machine import JobState
from deadheat.scheduler.core.report import JobReport

#: Devices of a job that are listed one by one.
MAX_LISTED: Final = 40
#: And barriers, those at which devices waited longest.
MAX_BARRIERS: Final = 12


def story(report: JobReport, plans: Sequence[str]) -> str:
    """Text for people; `plans` are the texts of its plans, in order."""
    return "\n\n".join([_outcome(report), *plans]) if plans else _outcome(report)


def document(report: JobReport, plans: Sequence[Mapping[str, object]]) -> Mapping[str, object]:
    """The same for programs: how it went, and the documents of its plans."""
    failure = report.failure
    return {
        "job": report.id,
        "state": report.state.value,
        "makespan_s": report.makespan_s,
        "predicted_makespan_s": report.predicted_makespan_s,
        "finish_spread": report.finish_spread,
        "efficiency": report.efficiency,
        "serial_s": report.serial_s,
        "parallel_s": _parallel_s(report),
        "waiting_s": _waiting_s(report),
        "barriers": [barrier.as_dict() for barrier in barriers(report.placements)],
        "serial_fraction": report.serial_fraction,
        "resplits": report.resplits,
        "precision": report.precision.value,
        "error": {"code": failure.code, "message": failure.message} if failure else None,
        "plans": list(plans),
    }


def _parallel_s(report: JobReport) -> float | None:
    """Seconds in which devices worked: from the first sub-task's start to the last one's end."""
    starts = [p.start_s for p in report.placements if p.start_s is not None]
    if report.makespan_s is None or not starts:
        return None
    return max(0.0, report.makespan_s - min(starts))


def _waiting_s(report: JobReport) -> float | None:
    """Seconds that a device waited between its parts, on the average: what barriers really took,
    with planning, sending and sealing. None for jobs without any barrier but the last."""
    spans: dict[str, list[tuple[float, float]]] = {}
    for placement in report.placements:
        start_s, finish_s = placement.start_s, placement.finish_s
        if start_s is not None and finish_s is not None:
            spans.setdefault(placement.device, []).append((start_s, finish_s))
    if len({placement.operation for placement in report.placements}) < 2 or not spans:
        return None
    waited_s = 0.0
    for own in spans.values():
        reached_s = min(start_s for start_s, _ in own)
        for start_s, finish_s in sorted(own):
            waited_s += max(0.0, start_s - reached_s)
            reached_s = max(reached_s, finish_s)
    return waited_s / len(spans)


def _outcome(report: JobReport) -> str:
    if report.state is not JobState.DONE or report.makespan_s is None:
        return _unfinished(report)
    predicted = _seconds(report.predicted_makespan_s)
    took = f"done in {_seconds(report.makespan_s)}, predicted {predicted}"
    lines = [f"job {report.id} ({report.kind}): {took}", *_precision(report)]
    width = max((len(device.device) for device in report.devices), default=0)
    lines += [
        f"  {device.device:<{width}}  did {device.share:6.1%}, finished at "
        f"{_seconds(device.finish_s)}, predicted {_seconds(device.predicted_finish_s)}"
        for device in report.devices[:MAX_LISTED]
    ]
    if len(report.devices) > MAX_LISTED:
        lines.append(f"  and {len(report.devices) - MAX_LISTED} devices more")
    if report.finish_spread is not None and len(report.devices) > 1:
        again = "once" if report.resplits == 1 else f"{report.resplits} times"
        moved = f"work was moved {again}" if report.resplits else "no work had to be moved"
        lines.append(
            f"  the first and the last device finished {report.finish_spread:.1%} of that time "
            f"apart; {moved}"
        )
    waited_s = _waiting_s(report)
    if waited_s is not None:
        lines.append(
            f"  between operations a device waited {_seconds(waited_s)} on the average, with their "
            "planning, sending and collecting"
        )
        lines += _barriers(report)
    lines += _amdahl(report)
    return "\n".join(lines)


def _precision(report: JobReport) -> list[str]:
    if report.precision is Precision.STRICT:
        return []
    means = "GPUs may keep ten bits of each float32 factor, cores compute in full"
    return [f"  precision tf32 was asked for: {means}"]


def _barriers(report: JobReport) -> list[str]:
    """Those that cost most, in the order in which they were reached."""
    found = barriers(report.placements)
    listed = sorted(found, key=lambda barrier: -barrier.wait_s)[:MAX_BARRIERS]
    lines = [
        f"    after {barrier.after}: {_seconds(barrier.wait_s)}, predicted "
        f"{_seconds(barrier.predicted_wait_s)}"
        for barrier in found
        if barrier in listed
    ]
    if len(found) > len(listed):
        lines.append(f"    and less after {len(found) - len(listed)} others")
    return lines


def _amdahl(report: JobReport) -> list[str]:
    parallel_s = _parallel_s(report)
    if report.serial_s is None or parallel_s is None:
        return []
    line = (
        f"  devices worked for {_seconds(parallel_s)}; planning, sending and collecting took "
        f"{_seconds(report.serial_s)}"
    )
    if report.serial_fraction is not None:
        line += f"; as if {report.serial_fraction:.1%} of the work had been serial (Karp-Flatt)"
    lines = [line]
    if report.efficiency is not None:
        lines.append(
            f"  {report.efficiency:.0%} of what all devices had to give, by their samples, was used"
        )
    return lines


def _unfinished(report: JobReport) -> str:
    line = f"job {report.id} ({report.kind}): {report.state.value}"
    if report.failure:
        line += f", {report.failure.message}"
    elif report.note:
        line += f", {report.note}"
    elif report.predicted_makespan_s is not None:
        line += f", predicted to take {_seconds(report.predicted_makespan_s)}"
    return "\n".join([line, *_precision(report)])


def _seconds(value: float | None) -> str:
    return "?" if value is None else format_seconds(value)
