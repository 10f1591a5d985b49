"""`deadheat estimate matmul|cycles`: what work would cost, before anything runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from deadheat.cli.options import (
    connected,
    json_option,
    precision_option,
    print_json,
    print_table,
    scheduler_option,
)

if TYPE_CHECKING:
    from deadheat.client import Estimate

#: Longer ones are beyond any limit, and Python would refuse to read them in its own words.
_MAX_DIGITS: Final = 40
_CUTS: Final = click.Choice(["balanced", "equal", "peak", "one-minus-utilization"])


@click.group()
def estimate() -> None:
    """Say what work would cost, before anything runs."""


@estimate.command()
@click.argument("product", nargs=-1, required=True, metavar="(M K N | A.npy B.npy)")
@click.option("--dtype", help="Of the elements, with M K N. Default: float64.")
@click.option("--cut", type=_CUTS, default="balanced", show_default=True)
@click.option("--timeout", metavar="SECONDS", help="Say whether it would fit into that.")
@precision_option
@scheduler_option
@json_option
def matmul(
    product: tuple[str, ...],
    dtype: str | None,
    cut: Any,
    timeout: str | None,
    precision: Any,
    scheduler: str | None,
    as_json: bool,
) -> int:
    """Time, memory and bytes of a product on the pool as it is now, by device.

    M x K by K x N, or two files, of which only the headers are read. Nothing is uploaded or run.
    """
    from deadheat.runtime.units import parse_seconds

    limit = parse_seconds(timeout, field="--timeout") if timeout is not None else None
    given: tuple[Any, ...] = _sizes(product) if len(product) == 3 else product
    if len(product) not in (2, 3):
        raise click.UsageError(f"give M K N or A.npy B.npy; {len(product)} values came")
    with connected(scheduler) as client:
        found = client.estimate(*given, dtype=dtype, cut=cut, timeout=limit, precision=precision)
    if as_json:
        print_json(found.as_dict())
    else:
        _print(found)
    return 0


def _sizes(product: tuple[str, ...]) -> tuple[int, ...]:
    sizes = []
    for name, text in zip("MKN", product, strict=True):
        if not (text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS):
            raise click.UsageError(
                f"{name} is {text[:_MAX_DIGITS]!r}; it must be a whole number, 0 or more"
            )
        sizes.append(int(text))
    return tuple(sizes)


def _print(found: Estimate) -> None:
    from deadheat.runtime.units import format_bytes, format_flops, format_seconds

    click.echo(
        f"{found.m} x {found.k} by {found.k} x {found.n} {found.dtype}: "
        f"{format_flops(found.flops).removesuffix('/s')}"
    )
    if found.refused:
        click.echo(f"  would be refused: {found.refused['message']}")
    if found.note:
        click.echo(f"  would wait: {found.note.removeprefix('waiting: ')}")
    if found.predicted_makespan_s is not None and not found.devices:
        click.echo("  nothing to compute")
    elif found.predicted_makespan_s is not None:
        click.echo(
            f"  predicted  {format_seconds(found.predicted_makespan_s)} "
            f"on {len(found.devices)} of {len(found.devices) + len(found.left_out)} devices, "
            f"which have {format_flops(found.pool_flops or 0.0)} to give now"
        )
        click.echo(
            f"  moves      {format_bytes(found.bytes_to_move or 0)} between hosts, "
            f"at least {format_bytes(found.bytes_lower_bound or 0)}"
        )
        if found.rounds and found.rounds > 1:
            click.echo(
                f"  rounds     {found.rounds}: the devices' memories do not hold all of it at once"
            )
    if found.devices:
        click.echo()
        _print_devices(found.devices)
    if found.alternatives or found.left_out:
        click.echo()
    for other in found.alternatives:
        click.echo(f"instead, {other['name']}: {format_seconds(other['makespan_s'])}")
    for out in found.left_out:
        click.echo(f"left out: {out['device']}: {out['reason']}")


def _print_devices(devices: list[dict[str, Any]]) -> None:
    from deadheat.runtime.units import format_bytes, format_flops, format_seconds

    rows = []
    for device in devices:
        free = device["memory_free_bytes"]
        rows.append(
            [
                device["device"],
                f"{device['share']:.1%}",
                f"{device['availability']:.2f}",
                format_flops(device["speed_flops"]),
                format_seconds(device["ready_s"]),
                format_seconds(device["transfer_s"]),
                format_seconds(device["compute_s"]),
                format_seconds(device["predicted_finish_s"]),
                format_bytes(device["bytes_in"] + device["bytes_out"]),
                format_bytes(device["memory_bytes"]),
                "-" if free is None else format_bytes(free),
            ]
        )
    headers = [
        *("DEVICE", "SHARE", "AVAILABLE", "IDLE SPEED", "READY", "TRANSFERS", "COMPUTES"),
        *("FINISHES", "MOVES", "NEEDS", "FREE"),
    ]
    print_table(headers, rows, right=frozenset(range(1, len(headers))))


@estimate.command()
@click.option("--inputs", type=int, required=True, help="Of the layer; K of a product.")
@click.option("--outputs", type=int, required=True, help="Of the layer; N of a product.")
@click.option(
    "--samples", type=int, default=1, show_default=True, help="Rows of input; M of a product."
)
@click.option("--clock-ghz", type=float, required=True)
@click.option(
    "--register-cycles", required=True, metavar="READ+WRITE", help="Of a register, like 1+1."
)
@click.option("--multiply-cycles", type=float, required=True)
@click.option("--add-cycles", type=float, required=True)
@click.option("--cache-cycles", type=float, help="Of a read, for operands in cache.")
@click.option("--memory-cycles", type=float, help="Of a read, for operands in memory.")
@click.option(
    "--operands",
    type=click.Choice(["registers", "cache", "memory"]),
    default="registers",
    show_default=True,
    help="Where they lie, and so which read counts.",
)
@json_option
def cycles(
    inputs: int, outputs: int, samples: int, operands: str, as_json: bool, **machine: Any
) -> int:
    """Cycles and time of a layer (or product) on a processor that you describe.

    One multiply-accumulate at a time: nothing overlaps. Needs no scheduler.
    """
    from deadheat.scheduler.planner.cycles import Operands, described, estimate_layer

    found = estimate_layer(
        described(**machine), inputs, outputs, samples, operands=Operands(operands)
    )
    if as_json:
        print_json(found.as_dict())
    else:
        click.echo(str(found))
    return 0
