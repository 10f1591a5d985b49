"""`deadheat run` and `deadheat submit`."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any, TypeVar

import click

from deadheat.cli.options import connected, json_option, print_json, scheduler_option

if TYPE_CHECKING:
    from deadheat.client import Client, Job

F = TypeVar("F", bound=Callable[..., Any])

_CUTS = click.Choice(["balanced", "equal", "peak", "one-minus-utilization"])


def _job_options(command: F) -> F:
    """What every kind of job takes."""
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
        scheduler_option,
    ):
        command = option(command)
    return command


def _product_options(command: F) -> F:
    for option in (
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
    ):
        command = option(command)
    return command


_matrices = click.argument("matrices", nargs=-1, required=True, metavar="M1.npy M2.npy ...")


@click.group()
def run() -> None:
    """Multiply matrices and wait for the result."""


@click.group()
def submit() -> None:
    """Hand work over, print the job's id, and return."""


@run.command("matmul")
@_product_options
@_job_options
@click.option("-o", "--output", required=True, metavar="C.npy", help="Where the product goes.")
@json_option
def run_matmul(output: str, as_json: bool, scheduler: str | None, **options: Any) -> int:
    """C = A @ B, from and to .npy files. Ctrl-C cancels the job."""
    return _run(output, as_json, scheduler, lambda client: _submit_matmul(client, **options))


@run.command("chain")
@_matrices
@_job_options
@click.option("-o", "--output", required=True, metavar="OUT.npy", help="Where the product goes.")
@json_option
def run_chain(output: str, as_json: bool, scheduler: str | None, **options: Any) -> int:
    """OUT = M1 @ M2 @ ..., in the order that is fastest on this cluster. Ctrl-C cancels the job."""
    return _run(output, as_json, scheduler, lambda client: _submit_chain(client, **options))


@submit.command("matmul")
@_product_options
@_job_options
def submit_matmul(scheduler: str | None, **options: Any) -> int:
    """Submit C = A @ B; `deadheat job result ID -o C.npy` fetches it later."""
    with connected(scheduler) as client:
        click.echo(_submit_matmul(client, **options).id)
    return 0


@submit.command("chain")
@_matrices
@_job_options
def submit_chain(scheduler: str | None, **options: Any) -> int:
    """Submit M1 @ M2 @ ...; `deadheat job result ID -o OUT.npy` fetches it later."""
    with connected(scheduler) as client:
        click.echo(_submit_chain(client, **options).id)
    return 0


def _run(
    output: str, as_json: bool, scheduler: str | None, submit_to: Callable[[Client], Job]
) -> int:
    """Submits, waits, writes the result, and says how it went."""
    from deadheat.cli.output import OutputFile
    from deadheat.client.progress import shown
    from deadheat.runtime.errors import JobCancelled

    with OutputFile(output) as file, connected(scheduler) as client:
        job = submit_to(client)
        try:
            with shown(job):
                _say_why_it_waits(job)
                result = job.result()
        except KeyboardInterrupt:
            ending = "cancelled" if job.cancel() else f"is {job.state}: too late to cancel it"
            click.echo(f"job {job.id} {ending}", err=True)
            return 130
        except CancelledError:
            raise JobCancelled(f"job {job.id} was cancelled") from None
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


def _submit_matmul(client: Client, *, a: str, b: str, timeout: str | None, **options: Any) -> Job:
    return client.submit_matmul(a, b, timeout=_limit_s(timeout), **options)


def _submit_chain(
    client: Client, *, matrices: tuple[str, ...], timeout: str | None, **options: Any
) -> Job:
    return client.submit_multi_dot(matrices, timeout=_limit_s(timeout), **options)


def _limit_s(timeout: str | None) -> float | None:
    from deadheat.runtime.units import parse_seconds

    return parse_seconds(timeout, field="--timeout") if timeout is not None else None


def _say_why_it_waits(job: Job) -> None:
    """A job that waits for agents says so once, also where no progress bar is shown."""
    import sys

    said: list[str] = []

    def tell(update: Any) -> None:
        if update.note and update.note not in said and not sys.stderr.isatty():
            said.append(update.note)
            click.echo(f"job {job.id}: {update.note}", err=True)

    job.on_update(tell)
