"""`deadheat scheduler` and `deadheat agent`: the daemons, in the foreground."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click


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


@click.command()
@click.option("--scheduler", metavar="HOST:PORT", help="Default: 127.0.0.1:7433.")
@click.option("--cpus", metavar="LIST", help="Cores, like 0,2-3. Default: all allowed.")
@click.option("--name", help="Default: the host's name.")
@click.option("--memory", metavar="SIZE", help="For blocks streamed here. Default: half of it.")
@click.option("--politeness", type=click.Choice(["normal", "idle"]), help="idle: others go first.")
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
def agent(config: Path | None, **flags: Any) -> int:
    """Run the agent of this machine until SIGTERM."""
    from deadheat.agent.daemon import run
    from deadheat.runtime.settings import Sources

    return run(Sources("agent", flags, config=config))
