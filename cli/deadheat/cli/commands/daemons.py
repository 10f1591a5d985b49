"""`deadheat scheduler` and `deadheat agent`: the daemons, in the foreground."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from deadheat.cli.options import json_option, print_json, print_table, warn_of_unread


@click.command()
@click.option("--state-dir", help="Database and matrices. Default: ~/.local/state/deadheat.")
@click.option("--listen", metavar="HOST:PORT", help="Default: 127.0.0.1:7433.")
@click.option("--insecure", is_flag=True, default=None, help="Other machines without TLS.")
@click.option("--tls-cert", metavar="PEM", help="This daemon's certificate.")
@click.option("--tls-key", metavar="PEM", help="Its key.")
@click.option("--tls-ca", metavar="PEM", help="The CA whose certificates are let in.")
@click.option("--memory", metavar="SIZE", help="Shared memory for matrices. Default: 60 % of it.")
@click.option("--memory-dir", metavar="DIR", help="A tmpfs. Default: /dev/shm.")
@click.option("--disk", metavar="SIZE", help="Disk for matrices. Default: 64 GiB.")
@click.option("--log-level", metavar="LEVEL", help="debug, info, warning or error.")
@click.option("--config", type=click.Path(path_type=Path), help="TOML file, table [scheduler].")
def scheduler(config: Path | None, **flags: Any) -> int:
    """Run the scheduler daemon until SIGTERM.

    It listens on loopback, unless TLS files or --insecure are given.
    """
    from deadheat.runtime.settings import Sources
    from deadheat.scheduler.daemon import run

    return run(Sources("scheduler", flags, config=config))


_numa = click.option(
    "--numa",
    type=click.Choice(["auto", "split", "whole"]),
    help="Whether cores of each NUMA node are a device. Default: auto, where memory is far.",
)


@click.group(invoke_without_command=True)
@click.option("--scheduler", metavar="HOST:PORT", help="Default: 127.0.0.1:7433.")
@click.option("--cpus", metavar="LIST", help="Cores, like 0,2-3 or node:0. Default: all allowed.")
@click.option("--name", help="Default: the host's name.")
@click.option("--memory", metavar="SIZE", help="For blocks streamed here. Default: half of it.")
@click.option("--politeness", type=click.Choice(["normal", "idle"]), help="idle: others go first.")
@click.option("--yield-above", metavar="SHARE", help="No work while others use more; like 0.5.")
@click.option("--yield-hours", metavar="LIST", help="No work then; like 08:00-12:00,22:00-06:00.")
@click.option("--once", is_flag=True, default=None, help="Leave when the work is done.")
@click.option("--until", metavar="TIME", help="Be gone by then: 90m, 17:30, a date, or slurm.")
@_numa
@click.option("--gpus", metavar="LIST", help="all, none, or numbers and UUIDs. Default: all.")
@click.option("--shares-cpus", is_flag=True, default=None, help="Other agents use these cores too.")
@click.option(
    "--peers", metavar="HOST:PORT", help="Where other agents get blocks. Default: a port; or off."
)
@click.option("--tls-cert", metavar="PEM", help="This agent's certificate.")
@click.option("--tls-key", metavar="PEM", help="Its key.")
@click.option("--tls-ca", metavar="PEM", help="The CA that signed the scheduler's.")
@click.option("--cache-dir", help="Calibrations. Default: ~/.cache/deadheat.")
@click.option("--log-level", metavar="LEVEL", help="debug, info, warning or error.")
@click.option("--config", type=click.Path(path_type=Path), help="TOML file, table [agent].")
@click.pass_context
def agent(context: click.Context, /, config: Path | None, **flags: Any) -> int:
    """Run the agent of this machine until SIGTERM, or what the command says."""
    if context.invoked_subcommand:
        if config or any(value is not None for value in flags.values()):
            raise click.UsageError(f"give options after {context.invoked_subcommand!r}")
        warn_of_unread()
        return 0
    from deadheat.agent.daemon import run
    from deadheat.runtime.settings import Sources

    return run(Sources("agent", flags, config=config))


@agent.command()
@click.option("--cpus", metavar="LIST", help="Cores, like 0,2-3. Default: all allowed.")
@_numa
@click.option("--cache-dir", help="Calibrations. Default: ~/.cache/deadheat.")
@click.option("--again", is_flag=True, help="Also what is known already.")
@json_option
def calibrate(
    cpus: str | None, numa: str | None, cache_dir: str | None, again: bool, as_json: bool
) -> int:
    """Measure how fast this machine multiplies, as an agent does at its first start.

    It takes seconds, at low priority and while others are quiet; what it finds is kept for agents
    on as many cores, and one that was interrupted is gone on with. Where an agent would have a
    device for each NUMA node, one of each size is measured. GPUs are measured by the agent that
    uses them; what is kept of them is shown.
    """
    import asyncio
    import os

    from deadheat.agent import calibration
    from deadheat.agent.calibrating import calibrate_here
    from deadheat.agent.corepool import places
    from deadheat.cli import calibrations
    from deadheat.runtime.settings import AgentSettings, Sources

    flags = {"cpus": cpus, "numa": numa, "cache_dir": cache_dir}
    settings = AgentSettings.load(Sources("agent", flags))
    # Pools of equal size share a calibration.
    pools = {len(one.cpus): one.cpus for one in places("", settings.cpus, settings.numa)}
    measured = []
    for cores in pools.values():
        os.sched_setaffinity(0, cores)
        measured.append(asyncio.run(calibrate_here(settings.cache_dir, cores, anew=again)))
    cards = list(calibration.all_kept(settings.cache_dir, ("gpu",)))
    kept = [(k.fingerprint, k.points) for k in cards if isinstance(k, calibration.Kept)]
    if as_json:
        first, *others = (calibrations.document(*one) for one in measured)
        first["other_pools"] = others
        first["cards"] = [calibrations.document(*one) for one in kept]
        print_json(first)
        return 0
    for fingerprint, points in (*measured, *kept):
        click.echo(calibrations.title(fingerprint))
        headers, rows = calibrations.table(points)
        print_table(headers, rows, right=frozenset(range(2, len(headers))))
    for sentence in (one for one in cards if isinstance(one, str)):
        click.echo(sentence, err=True)
    return 0
