"""`deadheat run` and `deadheat submit`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from deadheat.cli.options import connected, json_option, print_json, scheduler_option

if TYPE_CHECKING:
    from deadheat.client import Client, Job

F = TypeVar("F", bound=Callable[..., Any])

_CUTS = click.Choice(["balanced", "equal", "peak", "one-minus-utilization"])


def _job_options(command: F) -> F:
    for option in (
        click.option("--cut", type=_CUTS, default="balanced", show_default=True),
        click.option("--timeout", metavar="SECONDS", help="The job fails when it takes longer."),
        click.option(
            "--durability",
            type=click.Choice(["process", "power"]),
            default="process",
            show_default=True,
            help="power: operands are on disk before the job is accepted.",
        ),
        click.option("--alpha", type=float, default=1.0, show_default=True),
        click.option("--bias", metavar="FILE.npy", help="One row, added to each row."),
        click.option(
            "--activation",
            default="none",
            show_default=True,
            type=click.Choice(["none", "relu", "gelu", "gelu_tanh", "tanh", "sigmoid"]),
        ),
        click.argument("b", metavar="B.npy"),
        click.argument("a", metavar="A.npy"),
        scheduler_option,
    ):
        command = option(command)
    return command


@click.group()
def run() -> None:
    """Multiply matrices and wait for the result."""


@click.group()
def submit() -> None:
    """Hand work over, print the job's id, and return."""


@run.command("matmul")
@_job_options
@click.option("-o", "--output", required=True, metavar="C.npy", help="Where the product goes.")
@json_option
def run_matmul(output: str, as_json: bool, scheduler: str | None, **options: Any) -> int:
    """C = A @ B, from and to .npy files. Ctrl-C cancels the job."""
    from deadheat.cli.output import OutputFile
    from deadheat.client.progress import shown

    with OutputFile(output) as file, connected(scheduler) as client:
        job = _submit(client, **options)
        try:
            with shown(job):
                _say_why_it_waits(job)
                result = job.result()
        except KeyboardInterrupt:
            job.cancel()
            click.echo(f"job {job.id} cancelled", err=True)
            return 130
        file.write(result)
        report = job.report()
        if as_json:
            print_json(report.as_dict())
        else:
            spread = "" if report.finish_spread is None else f", spread {report.finish_spread:.1%}"
            made = " x ".join(str(length) for length in result.shape) or "scalar"
            click.echo(
                f"{output}: {made} {result.dtype} in {report.makespan_s or 0:.2f} s "
                f"on {len(report.devices)} devices{spread} (job {job.id})",
                err=True,
            )
    return 0


@submit.command("matmul")
@_job_options
def submit_matmul(scheduler: str | None, **options: Any) -> int:
    """Submit C = A @ B; `deadheat job result ID -o C.npy` fetches it later."""
    with connected(scheduler) as client:
        click.echo(_submit(client, **options).id)
    return 0


def _submit(
    client: Client,
    *,
    a: str,
    b: str,
    bias: str | None,
    timeout: str | None,
    **options: Any,
) -> Job:
    from deadheat.runtime.units import parse_seconds

    limit = parse_seconds(timeout, field="--timeout") if timeout is not None else None
    return client.submit_matmul(a, b, bias=bias, timeout=limit, **options)


def _say_why_it_waits(job: Job) -> None:
    """A job that waits for agents says so once, also where no progress bar is shown."""
    import sys

    said: list[str] = []

    def tell(update: Any) -> None:
        if update.note and update.note not in said and not sys.stderr.isatty():
            said.append(update.note)
            click.echo(f"job {job.id}: {update.note}", err=True)

    job.on_update(tell)
