"""`deadheat db upgrade|check|backup`."""

from __future__ import annotations

from pathlib import Path

import click


def _database(state_dir: str | None, *, must_exist: bool) -> Path:
    from deadheat.runtime.settings import SchedulerSettings, Sources
    from deadheat.scheduler.records.database import FILE_NAME

    settings = SchedulerSettings.load(Sources("scheduler", {"state_dir": state_dir}))
    path = settings.state_dir / FILE_NAME
    if must_exist and not path.exists():
        raise click.ClickException(f"{path}: there is no database")
    return path


_STATE_DIR = click.option("--state-dir", help="Default: ~/.local/state/deadheat.")


@click.group()
def db() -> None:
    """Upgrade, check or back up the database."""


@db.command()
@_STATE_DIR
def upgrade(state_dir: str | None) -> int:
    """Bring the schema up to date (a scheduler does it at its start; backup first)."""
    from deadheat.scheduler.records import database

    path = _database(state_dir, must_exist=False)
    database.lock_state_dir(path.parent)
    backup_path = database.migrate(path)
    if backup_path:
        click.echo(f"the database as it was: {backup_path}", err=True)
    click.echo(f"{path} is up to date", err=True)
    return 0


@db.command()
@_STATE_DIR
def check(state_dir: str | None) -> int:
    """Look for damage; exit code 0 only if there is none."""
    from deadheat.scheduler.records import database

    path = _database(state_dir, must_exist=True)
    problems = database.check(path)
    for problem in problems:
        click.echo(f"{path}: {problem}", err=True)
    if not problems:
        click.echo(f"{path} is sound", err=True)
    return 1 if problems else 0


@db.command()
@click.argument("target", type=click.Path(path_type=Path))
@_STATE_DIR
def backup(target: Path, state_dir: str | None) -> int:
    """Copy the database to TARGET, also while a scheduler writes."""
    from deadheat.scheduler.records import database

    database.backup(_database(state_dir, must_exist=True), target)
    click.echo(f"{target} written", err=True)
    return 0
