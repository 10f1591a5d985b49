"""`deadheat train`."""

from __future__ import annotations

import zipfile
from concurrent.futures import CancelledError
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deadheat.cli.options import connected, json_option, print_json, scheduler_option

if TYPE_CHECKING:
    from deadheat.client.arrays import Array
    from deadheat.client.nn import Sequential
    from deadheat.client.nn.losses import Epoch, Training


@click.command()
@click.argument("data", nargs=-1, required=True, metavar="DATA.npz | X.npy y.npy")
@click.option(
    "--sizes",
    metavar="N[,N...]",
    help="Of the layers, from the samples' columns to the result's: 784,256,10.",
)
@click.option("--model", metavar="FILE", help="Train this network further, instead of a new one.")
@click.option(
    "--activations",
    metavar="NAME[,NAME...]",
    help="One for all layers but the last, or one for each layer. Default: relu.",
)
@click.option("--epochs", type=int, required=True, help="Passes over all samples.")
@click.option("--batch-size", type=int, default=256, show_default=True, help="Rows of a step.")
@click.option("--learning-rate", type=float, default=0.01, show_default=True)
@click.option("--momentum", type=float, default=0.0, show_default=True)
@click.option(
    "--loss",
    type=click.Choice(["cross_entropy", "mse"]),
    default="cross_entropy",
    show_default=True,
    help="cross_entropy takes labels, mse numbers.",
)
@click.option("--dtype", type=click.Choice(["float32", "float64"]), help="Default: float32.")
@click.option("--seed", type=int, help="Of new weights, and of the order of samples.")
@click.option(
    "--where",
    type=click.Choice(["cluster", "local"]),
    default="cluster",
    show_default=True,
    help="local: in this process, without a job.",
)
@click.option(
    *("-o", "--output"),
    required=True,
    metavar="MODEL.safetensors",
    help="Where the trained network goes.",
)
@json_option
@scheduler_option
def train(
    data: tuple[str, ...],
    sizes: str | None,
    model: str | None,
    activations: str | None,
    dtype: str | None,
    seed: int | None,
    where: str,
    output: str,
    as_json: bool,
    scheduler: str | None,
    **options: Any,
) -> int:
    """Train a network on samples X and their targets y, by stochastic gradient descent.

    DATA is an .npz file with X and y, or two .npy files. Each epoch's loss is told on stderr; the
    model has the parameters of the last complete epoch, whatever ends the training. Ctrl-C cancels
    the job.
    """
    from deadheat.cli.output import OutputFile
    from deadheat.client import nn
    from deadheat.client.nn.files import check_installed

    check_installed()
    x, y = _read(data)
    network = _network(sizes, model, activations, dtype, seed)
    trained: list[Epoch] = []

    def tell(epoch: Epoch) -> None:
        trained.append(epoch)
        click.echo(f"epoch {epoch.number}: loss {epoch.loss:.6g}, {epoch.seconds:.2f} s", err=True)

    options |= {"seed": seed, "on_epoch": tell}
    with OutputFile(output) as file:  # What cannot be written is said before anything is trained.
        try:
            report = _trained(network, x, y, where, scheduler, options)
        except CancelledError:
            raise click.ClickException("the training was cancelled") from None
        finally:
            if trained:
                nn.save(file.path, network)
                click.echo(f"{output}: as it is after epoch {trained[-1].number}", err=True)
    if as_json:
        print_json(report.as_dict())
    else:
        job = f", job {report.job}" if report.job else ""
        click.echo(
            f"loss {report.losses[0]:.6g} to {report.losses[-1]:.6g} in {len(report.epochs)} "
            f"epochs, {report.seconds:.2f} s{job}",
            err=True,
        )
    return 0


def _trained(
    network: Sequential,
    x: Array | str,
    y: Array | str,
    where: str,
    scheduler: str | None,
    options: dict[str, Any],
) -> Training:
    from deadheat.client import Offline

    if where == "local":
        return Offline().train(network, x, y, where="local", **options)
    with connected(scheduler) as client:
        return client.train(network, x, y, **options)


def _read(data: tuple[str, ...]) -> tuple[Array | str, Array | str]:
    """Samples and targets, or the .npy files where they are."""
    import numpy as np

    if len(data) == 2:
        return data
    if len(data) != 1 or not data[0].endswith(".npz"):
        count = "one file is" if len(data) == 1 else f"{len(data)} files are"
        raise click.UsageError(f"{count} given; give one .npz file, or X.npy and y.npy")
    path = Path(data[0])
    try:
        with np.load(path, allow_pickle=False) as found:
            for name in ("X", "y"):
                if name not in found.files:
                    has = ", ".join(found.files) or "nothing"
                    raise click.UsageError(f"{path} has {has}, but no {name}")
            return found["X"], found["y"]
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise click.UsageError(f"{path}: {error}") from None


def _network(
    sizes: str | None,
    model: str | None,
    activations: str | None,
    dtype: str | None,
    seed: int | None,
) -> Sequential:
    from deadheat.cli import models
    from deadheat.client import nn

    if (sizes is None) == (model is None):
        raise click.UsageError("give --sizes of a new network, or the --model to train further")
    if model is not None:
        if dtype is not None:
            raise click.UsageError("--dtype is for --sizes; a model has its own")
        return models.read((model,), activations)
    assert sizes is not None
    try:
        numbers = [int(size) for size in sizes.split(",")]
    except ValueError:
        message = f"--sizes is {sizes!r}; it must be whole numbers with commas between them"
        raise click.UsageError(message) from None
    names = (activations or "relu").split(",")
    return nn.MLP(numbers, names[0] if len(names) == 1 else names, dtype=dtype, seed=seed)
