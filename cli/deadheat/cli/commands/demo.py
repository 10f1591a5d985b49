"""`deadheat demo`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from deadheat.cli.demo import Cores, Outcome
    from deadheat.client import Client


@click.command()
def demo() -> int:
    """See two unequal halves of real work finish in a dead heat.

    Two agents of one core each; a busy process has one of the cores too. All patches of one
    photograph are compared with all patches of another, once with shares cut to what each core can
    give, once with equal shares, and the result is checked against NumPy.
    """
    from deadheat.cli import demo as parts
    from deadheat.client import Client, LocalCluster
    from deadheat.runtime.units import format_bytes

    cores = parts.Cores.choose()
    click.echo(
        f"starting a scheduler, its store, and agents on cores {cores.free} and "
        f"{cores.shared}; a busy process shares core {cores.shared}"
    )
    with (
        LocalCluster(cores.agents()) as cluster,
        Client(cluster.address) as client,
        parts.busy_process(cores.shared),
    ):
        _wait(client, cores)
        a, b = parts.patches(parts.free_speed_flops(client))
        size = format_bytes(4 * a.shape[0] * b.shape[1])
        click.echo(
            f"comparing {a.shape[0]:,} patches of one photograph with {b.shape[1]:,} of "
            f"another: {a.shape[0]} x {a.shape[1]} @ {b.shape[0]} x {b.shape[1]} float32, "
            f"{size} of similarities\n"
        )
        _wait(client, cores)  # Cutting patches was work of this process.
        balanced, product = parts.run_once(client, a, b, "balanced")
        _print(balanced, "shares cut to what each core can give")
        click.echo("\nchecking every element against NumPy ...")
        worst, bound = parts.largest_error(a, b, product)
        del product
        verdict = "equal" if worst <= bound else "WRONG"
        click.echo(
            f"{verdict}: largest difference {worst:.2e}, rounding explains {bound:.2e}; "
            f"the best match is {balanced.best_match:.3f}\n"
        )
        _wait(client, cores)
        equal, _ = parts.run_once(client, a, b, "equal")
        _print(equal, "the same job, cut equally")
        faster = (equal.report.makespan_s or 0.0) / (balanced.report.makespan_s or 1.0)
        click.echo(
            f"\nfinish spread {balanced.report.finish_spread or 0:.1%} against "
            f"{equal.report.finish_spread or 0:.1%}; {faster:.2f} times as fast"
        )
    return 0 if worst <= bound else 1


def _wait(client: Client, cores: Cores) -> None:
    from deadheat.cli.demo import wait_until_noticed

    if note := wait_until_noticed(client, cores):
        click.echo(f"({note})")


def _print(outcome: Outcome, title: str) -> None:
    from deadheat.cli.commands.jobs import print_devices
    from deadheat.runtime.units import format_seconds

    report = outcome.report
    click.echo(f"{title} (job {report.id})")
    print_devices(report.devices)
    click.echo(
        f"makespan {format_seconds(report.makespan_s or 0.0)}, predicted "
        f"{format_seconds(report.predicted_makespan_s or 0.0)}; finish spread "
        f"{report.finish_spread or 0:.1%}"
    )
