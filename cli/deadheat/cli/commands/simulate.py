"""`deadheat simulate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from deadheat.cli.options import json_option, print_json, print_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deadheat.scheduler.core.report import JobReport
    from deadheat.scheduler.simulator.outcome import Outcome
    from deadheat.scheduler.simulator.scenario import Scenario

#: A file that is larger is no scenario.
MAX_FILE_BYTES = 64 << 20
#: Devices shown to people; the rest is in --json.
MAX_SHOWN = 32


@click.command()
@click.argument(
    "scenario",
    metavar="SCENARIO.toml",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
)
@click.option(
    "--seed",
    type=click.IntRange(0, (1 << 63) - 1),
    help="Instead of the scenario's own.",
)
@click.option(
    "--no-baselines", is_flag=True, help="Only the scenario, not what it is compared with."
)
@json_option
def simulate(scenario: Path, seed: int | None, no_baselines: bool, as_json: bool) -> int:
    """Run jobs on devices that do not exist, by the scheduler's own rules.

    The scenario says which devices there are, what they are given to do and what befalls them. No
    scheduler is needed. See docs/howto/simulate.md.
    """
    import gc
    from time import perf_counter

    from deadheat.scheduler.simulator.outcome import simulate as run

    found = _load(scenario, seed)
    # A large pool is millions of objects without a cycle to collect: looking for one takes as
    # long as the simulation itself.
    gc.disable()
    try:
        outcome = run(found, stopwatch=perf_counter, with_baselines=not no_baselines)
    finally:
        gc.enable()
    if as_json:
        print_json(outcome.as_dict())
    else:
        _print(found, outcome)
    return 0


def _load(path: Path, seed: int | None) -> Scenario:
    """Raises InvalidInput that names the file and the field."""
    import tomllib
    from dataclasses import replace

    from deadheat.runtime.errors import InvalidInput
    from deadheat.scheduler.simulator.parsing import parse

    size_bytes = path.stat().st_size
    if size_bytes > MAX_FILE_BYTES:
        raise InvalidInput(f"{path}: {size_bytes} bytes; the limit is {MAX_FILE_BYTES}")
    try:
        scenario = parse(tomllib.loads(path.read_text()))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path}: {error}") from None
    except InvalidInput as error:
        raise InvalidInput(f"{path}: {error.message}", field=error.field) from None
    return scenario if seed is None else replace(scenario, seed=seed)


def _print(scenario: Scenario, outcome: Outcome) -> None:
    reports = outcome.result.reports
    headers = [
        *("JOB", "KIND", "STATE", "START", "MAKESPAN", "PREDICTED", "SPREAD", "RE-SPLITS"),
        "ERROR",
    ]
    print_table(headers, [_job_row(report) for report in reports], right=frozenset(range(3, 8)))
    click.echo()
    _print_devices(scenario, reports)
    click.echo()
    ours_s = outcome.result.makespan_s
    compared = {"this run": (ours_s, outcome.result.spread), **outcome.baselines}
    rows = [
        [name.replace("_", " "), _seconds(makespan_s), _percent(spread), _ratio(makespan_s, ours_s)]
        for name, (makespan_s, spread) in compared.items()
    ]
    headers = ["RULE", "MAKESPAN", "SPREAD", "TO THIS RUN"]
    print_table(headers, rows, right=frozenset({1, 2, 3}))


def _job_row(report: JobReport) -> list[str]:
    return [
        report.id,
        report.kind,
        report.state.value,
        _seconds(report.started_at_s),
        _seconds(report.makespan_s),
        _seconds(report.predicted_makespan_s),
        _percent(report.finish_spread),
        str(report.resplits),
        report.failure.message if report.failure else "",
    ]


def _print_devices(scenario: Scenario, reports: Sequence[JobReport]) -> None:
    """What each device did of all jobs together."""
    from deadheat.runtime.units import format_bytes, format_flops

    flops: dict[str, float] = {}
    moved_bytes: dict[str, int] = {}
    for report in reports:
        for device in report.devices:
            flops[device.device] = flops.get(device.device, 0.0) + device.flops
            moved = device.bytes_in + device.bytes_out
            moved_bytes[device.device] = moved_bytes.get(device.device, 0) + moved
    total = sum(flops.values())
    rows = [
        [
            spec.name,
            spec.kind,
            format_flops(spec.speed_flops),
            _percent(flops.get(spec.name, 0.0) / total if total else None),
            format_bytes(moved_bytes.get(spec.name, 0)),
        ]
        for spec in scenario.devices[:MAX_SHOWN]
    ]
    if len(scenario.devices) > MAX_SHOWN:
        rows.append([f"and {len(scenario.devices) - MAX_SHOWN} more", "", "", "", ""])
    headers = ["DEVICE", "KIND", "IDLE SPEED", "OF ALL WORK", "MOVED"]
    print_table(headers, rows, right=frozenset({2, 3, 4}))


def _seconds(value: float | None) -> str:
    from deadheat.runtime.units import format_seconds

    return "-" if value is None else format_seconds(value)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _ratio(value: float | None, base: float | None) -> str:
    return f"{value / base:.2f}" if value is not None and base else "-"
