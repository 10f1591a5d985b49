"""A simulated job's report with the keys that `job show --json` has (the contract's).

Moments are written as times of day: virtual time zero is midnight of 1 January 2000, UTC.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Final

from deadheat.scheduler.core.barriers import Barrier, barriers
from deadheat.scheduler.core.report import DeviceReport, JobReport, PlacementReport

EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)


def iso(at_s: float | None) -> str | None:
    """
    >>> iso(1.5)
    '2000-01-01T00:00:01.500000Z'
    """
    if at_s is None:
        return None
    moment = EPOCH + timedelta(seconds=at_s)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def report_as_dict(report: JobReport) -> dict[str, object]:
    failure = report.failure
    return {
        "id": report.id,
        "kind": report.kind,
        "state": report.state.value,
        "submitted_at": iso(report.submitted_at_s),
        "started_at": iso(report.started_at_s),
        "finished_at": iso(report.finished_at_s),
        "makespan_s": _number(report.makespan_s),
        "predicted_makespan_s": _number(report.predicted_makespan_s),
        "finish_spread": _number(report.finish_spread),
        "efficiency": _number(report.efficiency),
        "serial_s": _number(report.serial_s),
        "serial_fraction": _number(report.serial_fraction),
        "bytes_moved": report.bytes_moved,
        "bytes_lower_bound": report.bytes_lower_bound,
        "resplits": report.resplits,
        "precision": report.precision.value,
        "error": {"code": failure.code, "message": failure.message} if failure else None,
        "devices": [_device(device) for device in report.devices],
        "placements": [_placement(placement) for placement in report.placements],
        "barriers": [_barrier(one, report.makespan_s) for one in barriers(report.placements)],
    }


def _barrier(barrier: Barrier, makespan_s: float | None) -> dict[str, object]:
    return {
        "after": barrier.after,
        "predicted_wait_s": barrier.predicted_wait_s,
        "wait_s": barrier.wait_s,
        "share": barrier.wait_s / makespan_s if makespan_s else None,
        "devices": barrier.devices,
    }


def _device(device: DeviceReport) -> dict[str, object]:
    return {
        "node": device.node,
        "device": device.device,
        "kind": device.kind,
        "share": device.share,
        "availability": device.availability,
        "speed_flops": device.speed_flops,
        "predicted_finish_s": _number(device.predicted_finish_s),
        "finish_s": _number(device.finish_s),
        "busy_s": device.busy_s,
        "flops": device.flops,
        "bytes_in": device.bytes_in,
        "bytes_out": device.bytes_out,
    }


def _placement(placement: PlacementReport) -> dict[str, object]:
    r = placement.rectangle
    return {
        "operation": placement.operation,
        "rows": [r.row_start, r.row_stop],
        "cols": [r.column_start, r.column_stop],
        "node": placement.node,
        "device": placement.device,
        "attempt": placement.attempt,
        "predicted_start_s": _number(placement.predicted_start_s),
        "predicted_finish_s": _number(placement.predicted_finish_s),
        "start_s": _number(placement.start_s),
        "finish_s": _number(placement.finish_s),
        "state": placement.state.value,
    }
