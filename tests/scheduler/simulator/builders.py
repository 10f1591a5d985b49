"""Builders of scenarios, as the tables that a TOML file would give."""

from __future__ import annotations

from deadheat.scheduler.core.machine import SubtaskState
from deadheat.scheduler.core.report import JobReport, PlacementReport
from deadheat.scheduler.simulator.parsing import parse
from deadheat.scheduler.simulator.scenario import Scenario


def device(name: str = "d", **changes: object) -> dict[str, object]:
    return {"name": name, "speed_gflops": 10.0, **changes}


def matmul(size: int = 4096, **changes: object) -> dict[str, object]:
    return {"kind": "matmul", "m": size, "k": size, "n": size, **changes}


def scenario(
    devices: list[dict[str, object]],
    jobs: list[dict[str, object]] | None = None,
    faults: list[dict[str, object]] | None = None,
    **more: object,
) -> Scenario:
    jobs = [matmul()] if jobs is None else jobs
    return parse({"seed": 1, "device": devices, "job": jobs, "fault": faults or [], **more})


def done(report: JobReport) -> list[PlacementReport]:
    return [p for p in report.placements if p.state is SubtaskState.DONE]


def check_cover(report: JobReport) -> None:
    """Done placements cover each operation's result exactly once (each result begins at 0, 0)."""
    by_operation: dict[str, list[PlacementReport]] = {}
    for placement in done(report):
        by_operation.setdefault(placement.operation, []).append(placement)
    assert by_operation
    for placements in by_operation.values():
        pieces = [p.rectangle for p in placements if p.rectangle.area]
        rows = max(piece.row_stop for piece in pieces)
        columns = max(piece.column_stop for piece in pieces)
        assert sum(piece.area for piece in pieces) == rows * columns
        for index, one in enumerate(pieces):
            for other in pieces[:index]:
                apart = (
                    one.row_stop <= other.row_start
                    or other.row_stop <= one.row_start
                    or one.column_stop <= other.column_start
                    or other.column_stop <= one.column_start
                )
                assert apart, f"{one} and {other} overlap"


def share_of(report: JobReport, name: str) -> float:
    return sum(found.share for found in report.devices if found.device == name)
