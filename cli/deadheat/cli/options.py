"""Options that several commands share."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deadheat.client import Client

F = TypeVar("F", bound=Callable[..., Any])


def scheduler_option(command: F) -> F:
    """Which scheduler to speak to; TLS files come from the environment (DEADHEAT_TLS_...)."""
    return click.option(
        "--scheduler",
        metavar="HOST:PORT",
        help="The scheduler's address. Default: DEADHEAT_SCHEDULER, else 127.0.0.1:7433.",
    )(command)


def precision_option(command: F) -> F:
    return click.option(
        "--precision",
        type=click.Choice(["strict", "tf32"]),
        default="strict",
        show_default=True,
        help="tf32: GPUs may keep ten bits of each float32 factor; cores compute in full.",
    )(command)


def json_option(command: F) -> F:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


@contextmanager
def connected(scheduler: str | None) -> Iterator[Client]:
    """A client of a scheduler that is there; no cluster is started for a command."""
    from deadheat.client import Client
    from deadheat.runtime.settings import ClientSettings, Sources

    address = ClientSettings.load(Sources("client", {"scheduler": scheduler})).scheduler
    with Client(address) as client:
        yield client


def print_json(document: object) -> None:
    json.dump(document, sys.stdout, indent=2, allow_nan=False)
    sys.stdout.write("\n")


def print_table(headers: list[str], rows: list[list[str]], *, right: frozenset[int]) -> None:
    """A table for people on stdout; `right` are the columns of numbers."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, header in enumerate(headers):
        table.add_column(header, justify="right" if index in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    width = None if sys.stdout.isatty() else 200
    Console(width=width).print(table)


def warn_of_unread() -> None:
    """Says on stderr which variables look like settings, and are none."""
    import os

    from deadheat.runtime import variables

    for sentence in variables.unread(os.environ):
        click.echo(f"warning: {sentence}", err=True)
