"""`deadheat run` and `deadheat submit`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from deadheat.cli.options import (
    connected,
    json_option,
    precision_option,
    print_json,
    scheduler_option,
)

if TYPE_CHECKING:
    from deadheat.cli.output import OutputFile
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
        precision_option,
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


def _network_options(command: F) -> F:
    for option in (
        click.option("--softmax", is_flag=True, help="Softmax along each row comes last."),
        click.option(
            "--activations",
            metavar="NAME[,NAME...]",
            help="One for all layers but the last, or one for each layer. Default: what the model "
            "says; of .npy files, relu.",
        ),
        click.argument("model", nargs=-1, required=True, metavar="MODEL"),
        click.argument("x", metavar="X.npy"),
    ):
        command = option(command)
    return command


def _place_options(command: F) -> F:
    """What is waited for."""
    where = click.option(
        "--where",
        type=click.Choice(["auto", "cluster", "local"]),
        default="cluster",
        show_default=True,
        help="local: in this process, without a job; auto: where it is predicted to be faster.",
    )
    return _output_options(where(command))


def _output_options(command: F) -> F:
    output = click.option(
        *("-o", "--output"), required=True, metavar="OUT.npy", help="Where the result goes."
    )
    return json_option(output(command))


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
@_place_options
def run_matmul(**options: Any) -> int:
    """C = A @ B, from and to .npy files. Ctrl-C cancels the job."""
    return _run("matmul", **options)


@run.command("chain")
@_matrices
@_job_options
@_place_options
def run_chain(**options: Any) -> int:
    """OUT = M1 @ M2 @ ..., in the order that is fastest on this cluster. Ctrl-C cancels the job."""
    return _run("chain", **options)


@run.command("mlp")
@_network_options
@_job_options
@_place_options
def run_mlp(**options: Any) -> int:
    """OUT = what a network makes of the rows of X. Ctrl-C cancels the job.

    MODEL is a safetensors file, or the weights (inputs x outputs) and biases of each layer:
    W1.npy b1.npy W2.npy b2.npy ...
    """
    return _run("mlp", **options)


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


@submit.command("mlp")
@_network_options
@_job_options
def submit_mlp(scheduler: str | None, **options: Any) -> int:
    """Submit a network's forward pass; `deadheat job result ID -o OUT.npy` fetches it later.

    MODEL is a safetensors file, or the weights (inputs x outputs) and biases of each layer:
    W1.npy b1.npy W2.npy b2.npy ...
    """
    with connected(scheduler) as client:
        click.echo(_submit_mlp(client, **options).id)
    return 0


def _run(
    kind: str, *, output: str, as_json: bool, scheduler: str | None, where: str, **options: Any
) -> int:
    """Computes, writes the result, and says how it went."""
    from deadheat.cli.output import OutputFile

    with OutputFile(output) as file:
        if where == "local":
            return _run_here(kind, file, output, as_json, **options)
        with connected(scheduler) as client:
            if where == "auto" and _is_here(client, kind, options):
                return _run_here(kind, file, output, as_json, **options)
            return _run_job(_SUBMIT[kind](client, **options), file, output, as_json)


def _is_here(client: Client, kind: str, options: dict[str, Any]) -> bool:
    """Whether it may be computed in this process, and should."""
    has_job_options = (
        options["timeout"] is not None
        or options["cut"] != "balanced"
        or options["durability"] != "process"
    )
    if has_job_options:
        return False
    if kind == "matmul":
        return client.place(options["a"], options["b"], bias=options["bias"]) == "local"
    if kind == "mlp":
        from deadheat.cli import models

        network = models.read(options["model"], options["activations"])
        return client.place_forward(network, options["x"]) == "local"
    return client.place(*options["matrices"]) == "local"


def _run_here(kind: str, file: OutputFile, output: str, as_json: bool, **options: Any) -> int:
    """In this process: there is no job, so most of a report is unknown."""
    from deadheat.cli import models
    from deadheat.client import Offline, Report

    offline, started_s = Offline(), time.perf_counter()
    timeout = _limit_s(options.pop("timeout"))
    if kind == "matmul":
        a, b = options.pop("a"), options.pop("b")
        result = offline.matmul(a, b, where="local", timeout=timeout, **options)
    elif kind == "mlp":
        network = models.read(options.pop("model"), options.pop("activations"))
        x = options.pop("x")
        result = offline.forward(network, x, where="local", timeout=timeout, **options)
    else:
        matrices = options.pop("matrices")
        result = offline.multi_dot(matrices, where="local", timeout=timeout, **options)
    seconds = time.perf_counter() - started_s
    file.write(result)
    if as_json:
        known = {"kind": kind, "state": "done", "makespan_s": seconds, "resplits": 0}
        known["precision"] = options["precision"]
        lists: dict[str, list[Any]] = {"devices": [], "placements": []}
        print_json({**dict.fromkeys(Report.__slots__), **known, **lists})
    else:
        click.echo(f"{output}: {_made(result)} in {seconds:.2f} s in this process", err=True)
    return 0


def _made(result: Any) -> str:
    return f"{' x '.join(str(length) for length in result.shape) or 'scalar'} {result.dtype}"


def _run_job(job: Job, file: OutputFile, output: str, as_json: bool) -> int:
    from deadheat.client.progress import shown
    from deadheat.runtime.errors import JobCancelled

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
        click.echo(
            f"{output}: {_made(result)} in {report.makespan_s or 0:.2f} s "
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


def _submit_mlp(
    client: Client,
    *,
    x: str,
    model: tuple[str, ...],
    activations: str | None,
    timeout: str | None,
    **options: Any,
) -> Job:
    from deadheat.cli import models

    network = models.read(model, activations)
    return client.submit_forward(network, x, timeout=_limit_s(timeout), **options)


_SUBMIT: Final[Mapping[str, Callable[..., Job]]] = {
    "matmul": _submit_matmul,
    "chain": _submit_chain,
    "mlp": _submit_mlp,
}


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
