"""`deadheat up`: everything on this machine, in the foreground, looked after."""

from __future__ import annotations

import signal
from typing import Any

import click


@click.command()
@click.option("--state-dir", help="Database and matrices. Default: ~/.local/state/deadheat.")
@click.option("--listen", metavar="HOST:PORT", default="127.0.0.1:7433", show_default=True)
@click.option(
    "--agent-cpus",
    multiple=True,
    metavar="LIST",
    help="Cores of one agent, like 0,2-3; again for another agent. Default: one with all.",
)
@click.option("--memory", metavar="SIZE", help="Shared memory for matrices.")
def up(state_dir: str | None, listen: str, agent_cpus: tuple[str, ...], memory: str | None) -> int:
    """Start a scheduler and an agent on this machine, and stop them with Ctrl-C.

    What was submitted and computed stays in the state directory for the next start.
    """
    from deadheat.client import LocalCluster
    from deadheat.runtime.credentials import check_exposure
    from deadheat.runtime.hosts import host_name
    from deadheat.runtime.rpc import split_address
    from deadheat.runtime.settings import SchedulerSettings, Sources

    check_exposure(split_address(listen)[0], None, insecure=False)
    flags = {"state_dir": state_dir, "listen": listen, "memory": memory}
    settings = SchedulerSettings.load(Sources("scheduler", flags))
    name = host_name()
    agents: list[dict[str, Any]] = [{"name": name}]
    if agent_cpus:
        agents = [{"name": f"{name}-{k}", "cpus": cpus} for k, cpus in enumerate(agent_cpus)]
    signal.signal(signal.SIGTERM, _interrupt)
    with LocalCluster(
        agents,
        state_dir=settings.state_dir,
        listen=listen,
        memory_bytes=settings.memory_bytes,
    ) as cluster:
        click.echo(f"scheduler at {cluster.address}, state in {cluster.state_dir}", err=True)
        click.echo("try: deadheat run matmul A.npy B.npy -o C.npy; Ctrl-C ends", err=True)
        try:
            cluster.supervise(lambda message: click.echo(message, err=True))
        except KeyboardInterrupt:
            click.echo("stopping", err=True)
    return 0


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt
