"""`deadheat jobs`, `job show|wait|cancel|result`, `explain`."""

from __future__ import annotations

from concurrent.futures import CancelledError
from typing import Any, Final

import click

from deadheat.cli.options import (
    connected,
    json_option,
    print_json,
    print_table,
    scheduler_option,
)

#: Barriers that are listed one by one, like those of `explain`.
MAX_BARRIERS: Final = 12


@click.command()
@scheduler_option
@click.option("--limit", type=click.IntRange(1, 1000), default=30, show_default=True)
@json_option
def jobs(scheduler: str | None, limit: int, as_json: bool) -> int:
    """List your jobs, newest first."""
    with connected(scheduler) as client:
        reports = client.reports(limit=limit)
    if as_json:
        print_json({"jobs": [report.as_dict() for report in reports]})
        return 0
    rows = [
        [
            r.id,
            r.kind,
            r.state,
            r.submitted_at[:19].replace("T", " "),
            _seconds(r.makespan_s),
            _percent(r.finish_spread),
            r.error["message"] if r.error else "",
        ]
        for r in reports
    ]
    headers = ["ID", "KIND", "STATE", "SUBMITTED (UTC)", "MAKESPAN", "SPREAD", "ERROR"]
    print_table(headers, rows, right=frozenset({4, 5}))
    return 0


@click.group()
def job() -> None:
    """Show, wait for, cancel, or fetch the result of a job. ID may be "last"."""


@job.command()
@click.argument("job_id", metavar="ID")
@scheduler_option
@json_option
def show(job_id: str, scheduler: str | None, as_json: bool) -> int:
    """What was promised and what happened, by device and by barrier."""
    with connected(scheduler) as client:
        report = client.report(job_id)
    if as_json:
        print_json(report.as_dict())
        return 0
    click.echo(f"job {report.id}: {report.kind}, {report.state}")
    if report.error:
        click.echo(f"  {report.error['code']}: {report.error['message']}")
    facts = [
        ("submitted", report.submitted_at),
        (
            "makespan",
            f"{_seconds(report.makespan_s)}, predicted {_seconds(report.predicted_makespan_s)}",
        ),
        ("finish spread", _percent(report.finish_spread)),
        ("efficiency", _percent(report.efficiency)),
        ("serial", f"{_seconds(report.serial_s)}, fraction {_percent(report.serial_fraction)}"),
        ("re-splits", str(report.resplits)),
        *([("precision", report.precision)] if report.precision == "tf32" else []),
    ]
    for name, value in facts:
        click.echo(f"  {name:<14} {value}")
    if report.devices:
        click.echo()
        print_devices(report.devices)
    if report.barriers:
        click.echo()
        print_barriers(report.barriers)
    return 0


def print_devices(devices: list[dict[str, Any]]) -> None:
    """One line for each device: what it could give, what it got, when it finished."""
    from deadheat.runtime.units import format_flops

    rows = [
        [
            device["device"],
            _percent(device["share"]),
            _number(device["availability"]),
            format_flops(device["speed_flops"] or 0.0),
            _seconds(device["predicted_finish_s"]),
            _seconds(device["finish_s"]),
            _seconds(device["busy_s"]),
        ]
        for device in devices
    ]
    headers = ["DEVICE", "SHARE", "AVAILABLE", "IDLE SPEED", "PREDICTED", "FINISHED", "BUSY"]
    print_table(headers, rows, right=frozenset(range(1, 7)))


def print_barriers(barriers: list[dict[str, Any]]) -> None:
    """Those that cost most, in the order in which they were reached, and all together."""
    listed = sorted(barriers, key=lambda barrier: -barrier["wait_s"])[:MAX_BARRIERS]
    rows = [_barrier(f"after {one['after']}", [one]) for one in barriers if one in listed]
    if len(barriers) > len(listed):
        rest = [one for one in barriers if one not in listed]
        rows.append(_barrier(f"and {len(rest)} others", rest))
    if len(barriers) > 1:
        rows.append(_barrier("together", barriers))
    print_table(["BARRIER", "PREDICTED", "WAITED", "OF THE TIME"], rows, right=frozenset({1, 2, 3}))


def _barrier(name: str, barriers: list[dict[str, Any]]) -> list[str]:
    shares = [barrier["share"] for barrier in barriers]
    return [
        name,
        _seconds(sum(barrier["predicted_wait_s"] for barrier in barriers)),
        _seconds(sum(barrier["wait_s"] for barrier in barriers)),
        "-" if None in shares else _percent(sum(shares)),
    ]


@job.command()
@click.argument("job_id", metavar="ID")
@click.option("--timeout", metavar="SECONDS", help="Stop waiting after that; the job goes on.")
@scheduler_option
def wait(job_id: str, timeout: str | None, scheduler: str | None) -> int:
    """Wait until a job has ended; exit code 0 only if it is done."""
    from deadheat.client.progress import shown
    from deadheat.runtime.errors import JobCancelled, TimedOut
    from deadheat.runtime.units import parse_seconds

    limit = parse_seconds(timeout, field="--timeout") if timeout is not None else None
    with connected(scheduler) as client:
        found = client.job(job_id)
        try:
            with shown(found):
                found.result(limit)
        except CancelledError:
            raise JobCancelled(f"job {found.id} was cancelled") from None
        except TimedOut:
            raise
        except TimeoutError:
            raise TimedOut(f"job {found.id} has not ended within {limit:g} s") from None
        click.echo(f"job {found.id} is done", err=True)
    return 0


@job.command()
@click.argument("job_id", metavar="ID")
@scheduler_option
def cancel(job_id: str, scheduler: str | None) -> int:
    """Cancel a job; exit code 0 only if it is cancelled now."""
    with connected(scheduler) as client:
        state = client.cancel(job_id)
    click.echo(f"job {job_id} is {state}", err=True)
    return 0 if state == "cancelled" else 1


@job.command()
@click.argument("job_id", metavar="ID")
@click.option("-o", "--output", required=True, metavar="C.npy", help="Where the result goes.")
@scheduler_option
def result(job_id: str, output: str, scheduler: str | None) -> int:
    """Fetch the result of a job that is done."""
    from deadheat.cli.output import OutputFile

    with OutputFile(output) as file, connected(scheduler) as client:
        file.write(client.result(job_id))
    return 0


@click.command()
@click.argument("job_id", metavar="ID")
@scheduler_option
@json_option
def explain(job_id: str, scheduler: str | None, as_json: bool) -> int:
    """Say why each device got its share of a job."""
    with connected(scheduler) as client:
        click.echo(client.explain(job_id, as_json=as_json))
    return 0


def _seconds(value: float | None) -> str:
    from deadheat.runtime.units import format_seconds

    return "-" if value is None else format_seconds(value)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
