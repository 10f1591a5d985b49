"""`deadheat models list|show|save|load|delete`: networks that the cluster keeps."""

from __future__ import annotations

import json
from typing import Any

import click

from deadheat.cli.options import (
    connected,
    json_option,
    print_json,
    print_table,
    scheduler_option,
)

version_option = click.option(
    "--version", "number", type=click.IntRange(1), help="Default: the newest."
)


@click.group()
def models() -> None:
    """Keep networks on the cluster by name and version, to be loaded and served."""


@models.command("list")
@click.argument("name", required=False)
@scheduler_option
@click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True)
@json_option
def list_models(name: str | None, scheduler: str | None, limit: int, as_json: bool) -> int:
    """List versions, newest first: of one NAME, or of all."""
    from deadheat.runtime.units import format_bytes

    with connected(scheduler) as client:
        found = client.models.list(name, limit=limit)
    if as_json:
        print_json({"models": [model.as_dict() for model in found]})
        return 0
    rows = [
        [
            model.name,
            str(model.version),
            model.created_at[:19].replace("T", " "),
            model.user,
            _sizes(model.inputs, model.outputs),
            model.dtype or "-",
            format_bytes(model.size_bytes),
            _listed(model.metadata),
        ]
        for model in found
    ]
    headers = ["NAME", "VERSION", "SAVED (UTC)", "USER", "IN -> OUT", "DTYPE", "SIZE", "METADATA"]
    print_table(headers, rows, right=frozenset({1, 6}))
    return 0


@models.command("show")
@click.argument("name")
@version_option
@scheduler_option
@json_option
def show_model(name: str, number: int | None, scheduler: str | None, as_json: bool) -> int:
    """What a version is made of, and what made it."""
    from deadheat.runtime.units import format_bytes

    with connected(scheduler) as client:
        model = client.models.show(name, number)
    if as_json:
        print_json(model.as_dict())
        return 0
    click.echo(f"model {model.name}, version {model.version}")
    layers = [_layer(layer) for layer in model.layers or ()]
    facts = [
        ("saved", f"{model.created_at} by {model.user}, deadheat {model.code_version}"),
        ("layers", ", ".join(layers)),
        ("size", format_bytes(model.size_bytes)),
        ("served", "yes" if model.inputs else "no: load it"),
        ("data", model.data_hash or "not said"),
        ("training", _training(model.training)),
        ("metadata", _listed(model.metadata) or "none"),
    ]
    for title, value in facts:
        click.echo(f"  {title:<10} {value}")
    return 0


@models.command("save")
@click.argument("name")
@click.argument("model", nargs=-1, required=True)
@click.option(
    "--activations",
    metavar="NAME[,NAME...]",
    help="One for all layers but the last, or one for each layer. Default: what the model says; "
    "of .npy files, relu.",
)
@click.option(
    "--data",
    multiple=True,
    metavar="FILE.npy",
    help="What it was trained on: a hash of it is recorded. May be given several times.",
)
@click.option(
    "--metadata",
    multiple=True,
    metavar="KEY=VALUE",
    help="What else is recorded; VALUE is JSON, or text. May be given several times.",
)
@scheduler_option
@json_option
def save_model(
    name: str,
    model: tuple[str, ...],
    activations: str | None,
    data: tuple[str, ...],
    metadata: tuple[str, ...],
    scheduler: str | None,
    as_json: bool,
) -> int:
    """Keep a network as the next version of NAME; prints the version.

    MODEL is a safetensors file, or the weights (inputs x outputs) and biases of each layer:
    W1.npy b1.npy W2.npy b2.npy ...
    """
    from deadheat.cli import models as files

    network = files.read(model, activations)
    known = dict(_pair(text) for text in metadata)
    with connected(scheduler) as client:
        version = client.models.save(name, network, data=list(data) or None, **known)
    if as_json:
        print_json({"name": name, "version": version})
    else:
        click.echo(version)
    return 0


@models.command("load")
@click.argument("name")
@version_option
@click.option(
    *("-o", "--output"),
    required=True,
    metavar="FILE.safetensors",
    help="Where the network goes: parameters, and in the header the layers.",
)
@scheduler_option
def load_model(name: str, number: int | None, output: str, scheduler: str | None) -> int:
    """Write a version to a safetensors file, as nn.load and others read it."""
    with connected(scheduler) as client:
        version = number or client.models.show(name).version
        client.models.export(name, version, output)
    click.echo(f"{output}: model {name}, version {version}", err=True)
    return 0


@models.command("delete")
@click.argument("name")
@click.option("--version", "number", type=click.IntRange(1), help="The version to give up.")
@click.option("--all", "is_all", is_flag=True, help="All versions of NAME.")
@scheduler_option
@json_option
def delete_model(
    name: str, number: int | None, is_all: bool, scheduler: str | None, as_json: bool
) -> int:
    """Give up a version, or all of NAME. Their numbers are not used again."""
    if is_all == (number is not None):
        raise click.UsageError("give either --version or --all")
    with connected(scheduler) as client:
        gone = client.models.delete(name, number)
    if as_json:
        print_json({"name": name, "versions": list(gone)})
    else:
        click.echo(f"model {name}: deleted {', '.join(map(str, gone))}", err=True)
    return 0


def _pair(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not key.isidentifier() or not equals or key in ("data", "training"):
        raise click.UsageError(f"--metadata is {text!r}; give KEY=VALUE, KEY being a name")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def _sizes(inputs: int | None, outputs: int | None) -> str:
    return "-" if inputs is None else f"{inputs} -> {outputs}"


def _listed(metadata: Any) -> str:
    return ", ".join(f"{key}={json.dumps(value)}" for key, value in metadata.items())


def _layer(layer: Any) -> str:
    if "bias" in layer:
        return f"{layer['layer']} {layer['inputs']} x {layer['outputs']}"
    return str(layer["layer"])


def _training(report: Any) -> str:
    if report is None:
        return "not said"
    epochs = report.get("epochs") or []
    last = f", loss {epochs[-1]['loss']:.4g}" if epochs and "loss" in epochs[-1] else ""
    return f"{len(epochs)} epochs{last}"
