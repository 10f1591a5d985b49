"""`deadheat nodes`, `node drain|resume`."""

from __future__ import annotations

import click

from deadheat.cli.options import (
    connected,
    json_option,
    print_json,
    print_table,
    scheduler_option,
)


@click.command()
@scheduler_option
@json_option
def nodes(scheduler: str | None, as_json: bool) -> int:
    """List nodes and devices, and what they have to give."""
    from deadheat.runtime.units import format_bytes, format_flops, format_seconds

    with connected(scheduler) as client:
        found = client.nodes()
    if as_json:
        print_json({"nodes": found})
        return 0
    rows = []
    for node in found:
        for device in node["devices"]:
            speeds = device["speed_flops"]
            free = device["memory_free_bytes"]
            queue_s = device["queue_s"]
            rows.append(
                [
                    device["id"],
                    "yields" if device["yields"] and node["state"] == "up" else node["state"],
                    device["model"],
                    str(device["threads"]),
                    _ratio(device["busy"]),
                    _ratio(device["foreign"]),
                    _ratio(device["availability"]),
                    format_flops(speeds["float64"]) if "float64" in speeds else "-",
                    "-" if free is None else format_bytes(free),
                    "-" if queue_s is None else format_seconds(queue_s),
                ]
            )
    headers = [
        *("DEVICE", "STATE", "MODEL", "THREADS", "BUSY", "FOREIGN", "AVAILABLE", "FLOAT64"),
        *("FREE", "QUEUE"),
    ]
    print_table(headers, rows, right=frozenset(range(3, 10)))
    if not found:
        click.echo("no agent has registered yet; start one with: deadheat agent", err=True)
    for node in found:
        if node["host"] and node["host"]["problem"]:
            click.echo(f"{node['name']}: {node['host']['problem']}")
        for device in node["devices"]:
            if device["yields"]:
                click.echo(f"{device['id']} gives way: {device['yields']}")
            if device["problem"]:
                click.echo(f"{device['id']}: {device['problem']}")
    return 0


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


@click.group()
def node() -> None:
    """Drain a node, or resume it."""


@node.command()
@click.argument("name")
@click.option("--reason", default="", help="Shown to those who wonder.")
@scheduler_option
def drain(name: str, reason: str, scheduler: str | None) -> int:
    """No new work for a node; what it has, it finishes."""
    with connected(scheduler) as client:
        client.drain(name, reason)
    click.echo(f"node {name} is draining", err=True)
    return 0


@node.command()
@click.argument("name")
@scheduler_option
def resume(name: str, scheduler: str | None) -> int:
    """Give a drained node work again."""
    with connected(scheduler) as client:
        client.resume(name)
    click.echo(f"node {name} takes work again", err=True)
    return 0
