"""`deadheat install-units`: systemd's unit files for what is installed here."""

from __future__ import annotations

import os
from pathlib import Path

import click

_NEXT_SYSTEM = """\
Next:
  systemd-sysusers && systemctl daemon-reload
  systemctl enable --now deadheat-scheduler    # on one machine
  systemctl enable --now deadheat-agent        # on every machine that computes
"""
_NEXT_USER = """\
Next:
  systemctl --user daemon-reload
  systemctl --user enable --now deadheat-scheduler deadheat-agent
  loginctl enable-linger                       # to go on when you are logged out
"""


@click.command("install-units")
@click.option(
    "--user", "for_user", is_flag=True, help="For your own service manager, not the system's."
)
@click.option(
    "--root",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("/"),
    help="Install below this directory, for an image. Default: /.",
)
@click.option("--exec", "executable", metavar="PATH", help="The command. Default: this one.")
@click.option("--gpu/--no-gpu", default=None, help="Open GPUs to agents. Default: if one is here.")
@click.option("--idle/--no-idle", default=None, help="Agents get what nobody else wants.")
def install_units(
    for_user: bool, root: Path, executable: str | None, gpu: bool | None, idle: bool | None
) -> int:
    """Write systemd units for the scheduler and for agents; starts nothing.

    Run it again after an upgrade. It replaces its own files, and never what is in /etc: change a
    unit with `systemctl edit`.
    """
    from deadheat.cli import installation
    from deadheat.runtime.errors import PermissionRefused

    if executable is not None:
        if not Path(executable).is_absolute():
            raise click.UsageError(f"--exec {executable}: give the absolute path of the command")
        command = installation.quoted(Path(executable))
    else:
        if not for_user:
            installation.check_reachable()
        command = installation.own_command()
    if for_user and gpu is not None:
        raise click.UsageError("--gpu is for system units; your own see what you see")
    if for_user and idle is not None:
        raise click.UsageError("--idle is for system units; your own may say politeness = idle")
    if for_user:
        files = installation.user_files(command, os.environ)
    else:
        wanted = Path("/dev/nvidiactl").exists() if gpu is None else gpu
        files = installation.system_files(command, gpu=wanted, idle=bool(idle))
    try:
        for path in installation.write(files, root):
            click.echo(path)
    except PermissionError as error:
        if for_user:
            raise
        raise PermissionRefused(
            f"{error.filename}: {error.strerror}; system units are root's: run this as root, or "
            "say --user"
        ) from None
    unwanted = ((installation.GPU_DROP_IN, gpu), (installation.IDLE_DROP_IN, idle))
    for path in (
        path for name, it in unwanted if it is False for path in installation.drop_ins(name)
    ):
        (root / path.relative_to("/")).unlink(missing_ok=True)
    if root == Path("/"):
        click.echo(_NEXT_USER if for_user else _NEXT_SYSTEM, err=True, nl=False)
    return 0
