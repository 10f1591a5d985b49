"""Networks as the command takes them: one safetensors file, or weights and biases as .npy files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from deadheat.client.nn import Sequential


def read(files: tuple[str, ...], activations: str | None) -> Sequential:
    """The network in files.

    Of .npy files, each with two dimensions is a weight of inputs x outputs, and one with one
    dimension is the bias of the weight before it. `activations` is one name, or several with
    commas between them, as `nn.MLP` takes them. Raises what `nn.load` and `nn.MLP` do.
    """
    from deadheat.client import nn

    names = activations.split(",") if activations is not None else None
    chosen: Any = names[0] if names is not None and len(names) == 1 else names
    if not any(_is_npy(file) for file in files):
        if len(files) > 1:
            raise click.UsageError(f"{len(files)} models are given; give one, or .npy files")
        return nn.load(files[0], activations=chosen)
    for file in files:
        if not _is_npy(file):
            raise click.UsageError(f"{file} stands among .npy files; give a model or these")
    return nn.MLP(_pairs(files), "relu" if chosen is None else chosen)


def _is_npy(file: str) -> bool:
    return file.endswith(".npy")


def _pairs(files: tuple[str, ...]) -> list[tuple[str, str | None]]:
    from pathlib import Path

    from deadheat.store.npyfiles import read_header

    pairs: list[tuple[str, str | None]] = []
    for file in files:
        dimensions = len(read_header(Path(file).expanduser().absolute()).shape)
        if dimensions != 1:
            pairs.append((file, None))
        elif not pairs or pairs[-1][1] is not None:
            raise click.UsageError(
                f"{file} has one dimension, so it is a bias, but no weight stands before it"
            )
        else:
            pairs[-1] = pairs[-1][0], file
    return pairs
