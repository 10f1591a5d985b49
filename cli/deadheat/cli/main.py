"""The command's root: a table of commands, each imported when it is called.

Rules of this package: data on stdout, messages on stderr, exit code 0 only on success; an error
is one line that says what is wrong, never a traceback (unless DEADHEAT_DEBUG is set).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Final

import click

#: Name, module in deadheat.cli.commands, and the line that `deadheat --help` shows.
_COMMANDS: Final = (
    ("up", "up", "Start a scheduler and an agent on this machine."),
    ("demo", "demo", "See two unequal halves of real work finish in a dead heat."),
    ("scheduler", "daemons", "Run the scheduler daemon."),
    ("agent", "daemons", "Run the agent of this machine."),
    ("run", "run", "Multiply matrices and wait for the result."),
    ("submit", "run", "Like run, but print the job's id and return at once."),
    ("train", "train", "Train a network, and write it to a safetensors file."),
    ("jobs", "jobs", "List your jobs."),
    ("job", "jobs", "Show, wait for, cancel, or fetch the result of a job."),
    ("explain", "jobs", "Say why each device got its share of a job."),
    ("estimate", "estimate", "Say what work would cost, before anything runs."),
    ("models", "models", "Keep networks on the cluster, by name and version."),
    ("nodes", "nodes", "List nodes and devices, and what they have to give."),
    ("node", "nodes", "Drain a node, or resume it."),
    ("simulate", "simulate", "Run a scenario on devices that do not exist."),
    ("db", "db", "Upgrade, check or back up the database."),
    ("install-units", "units", "Write systemd units for scheduler and agents."),
    ("doctor", "doctor", "Look for what could be wrong on this machine."),
)
INTERRUPTED: Final = 130
#: These say in their logs what is wrong with the environment.
_DAEMONS: Final = ("scheduler", "agent")


class _Root(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name, _, _ in _COMMANDS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        for name, module, _ in _COMMANDS:
            if name == cmd_name:
                found = import_module(f"deadheat.cli.commands.{module}")
                command: click.Command = getattr(found, name.replace("-", "_"))
                return command
        return None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Suggests what may have been meant."""
        names = self.list_commands(ctx)
        if args and args[0] not in names and not args[0].startswith("-"):
            from difflib import get_close_matches

            close = get_close_matches(args[0], names, 1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise click.UsageError(f"No such command {args[0]!r}.{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """From the table, so that help imports no command."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, _, text in _COMMANDS])


EXAMPLES: Final = """\b
Examples:
  deadheat up                                      # in one terminal
  deadheat run matmul A.npy B.npy -o C.npy         # in another
  deadheat job show last
  deadheat explain last
"""


def _version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    del param
    if value and not ctx.resilient_parsing:
        from deadheat.runtime.version import VERSION

        click.echo(f"deadheat {VERSION}")
        ctx.exit()


@click.command(cls=_Root, context_settings={"help_option_names": ["-h", "--help"]}, epilog=EXAMPLES)
@click.option(
    "--version",
    is_flag=True,
    callback=_version,
    expose_value=False,
    is_eager=True,
    help="Show the version and exit.",
)
@click.pass_context
def root(context: click.Context) -> None:
    """Matrix work split into unequal shares that all finish at the same moment."""
    has_ours = any(name.startswith("DEADHEAT_") for name in os.environ)
    if has_ours and context.invoked_subcommand not in _DAEMONS:
        from deadheat.cli.options import warn_of_unread

        warn_of_unread()


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    try:
        result: Any = root.main(
            args=list(arguments) if arguments is not None else None,
            prog_name="deadheat",
            standalone_mode=False,
        )
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone: say nothing more, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if os.environ.get("DEADHEAT_DEBUG"):
            raise
        click.echo(f"error: {_one_line(error)}", err=True)
        return 1
    return result if isinstance(result, int) else 0


def _one_line(error: Exception) -> str:
    from deadheat.runtime.errors import DeadheatError

    if isinstance(error, DeadheatError):
        return error.message
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return f"{type(error).__name__}: {error} (set DEADHEAT_DEBUG=1 for the traceback)"
