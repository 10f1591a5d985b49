"""What networks are trained for: losses, what they want of targets, and where descent begins.

Rules of this file: a loss is a mean over the batch, computed in this process in float64 from what
the network made (whoever asks looks whether it is finite); its gradient is an expression, computed
where the network is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from deadheat.client import arrays
from deadheat.client.arrays import Array, ArrayLike
from deadheat.client.lazy import Lazy
from deadheat.client.nn.layers import Activation
from deadheat.client.nn.parameters import check_finite, taken_as
from deadheat.client.nn.sequential import Sequential
from deadheat.runtime.errors import InvalidInput

LossName = Literal["cross_entropy", "mse"]
Targets = ArrayLike


class CrossEntropy:
    """The mean of -log(softmax(output)[label]): the network ends without a softmax of its own."""

    @staticmethod
    def targets(network: Sequential, y: Targets, rows: int) -> Array:
        """Labels from 0 to outputs - 1, one for each row; raises InvalidInput for others."""
        if network[-1] == Activation("softmax"):
            raise InvalidInput(
                "the network ends with softmax, and cross_entropy has one of its own; leave it out",
                field="loss",
            )
        labels = arrays.array_of(y, "y")
        if labels.ndim != 1 or labels.dtype.kind not in "iu":
            raise InvalidInput(
                f"y is {labels.dtype} of shape {labels.shape}; for cross_entropy it has a whole "
                "number for each row",
                field="y",
            )
        _check_rows(labels, rows)
        wrong = np.flatnonzero((labels < 0) | (labels >= network.outputs))
        if len(wrong):
            raise InvalidInput(
                f"y[{wrong[0]}] is {labels[wrong[0]]}; labels go from 0 to {network.outputs - 1}, "
                f"since the network has {network.outputs} outputs",
                field="y",
            )
        return labels.astype(np.int64)

    @staticmethod
    def goal(targets: Array, network: Sequential) -> Array:
        """One row for each label, with a one at it."""
        made = np.zeros((len(targets), network.outputs), network.dtype)
        made[np.arange(len(targets)), targets] = 1
        return made

    @staticmethod
    def gradient(output: Lazy, goal: Lazy) -> Lazy:
        return (output.softmax() - goal) * (1 / output.shape[0])

    @staticmethod
    def value(output: Array, targets: Array) -> float:
        with np.errstate(all="ignore"):
            wide = output.astype(np.float64)
            wide -= wide.max(axis=1, keepdims=True)
            chosen = wide[np.arange(len(targets)), targets]
            return float((np.log(np.exp(wide).sum(axis=1)) - chosen).mean())


class MeanSquares:
    """The mean of (output - y)^2 over all elements."""

    @staticmethod
    def targets(network: Sequential, y: Targets, rows: int) -> Array:
        """Finite numbers, rows x outputs; raises InvalidInput for others."""
        wanted = arrays.array_of(y, "y")
        if wanted.ndim == 1 and network.outputs == 1:
            wanted = wanted.reshape(-1, 1)
        _check_rows(wanted, rows)
        if wanted.shape != (rows, network.outputs) or wanted.dtype.kind == "c":
            raise InvalidInput(
                f"y is {wanted.dtype} of shape {wanted.shape}; for mse it has real numbers of "
                f"shape ({rows}, {network.outputs})",
                field="y",
            )
        check_finite(wanted, "y")
        return taken_as(wanted, network.dtype, "y")

    @staticmethod
    def goal(targets: Array, network: Sequential) -> Array:
        del network
        return targets

    @staticmethod
    def gradient(output: Lazy, goal: Lazy) -> Lazy:
        return (output - goal) * (2 / (output.shape[0] * output.shape[1]))

    @staticmethod
    def value(output: Array, targets: Array) -> float:
        with np.errstate(all="ignore"):
            return float(np.square(output.astype(np.float64) - targets).mean())


LOSSES: Final[dict[str, type[CrossEntropy | MeanSquares]]] = {
    "cross_entropy": CrossEntropy,
    "mse": MeanSquares,
}


@dataclass(frozen=True)
class Gradients:
    """A loss, and its gradients in the order (and of the shapes and dtypes) of
    `network.parameters`."""

    loss: float
    parameters: tuple[Array, ...]


@dataclass(frozen=True)
class Epoch:
    """One pass over the samples: the mean loss over them, each as it was before its step.

    `waiting` is the share of their time that the threads of the device waited for one another
    between steps, `spread` how far apart the first and the last of them ended, as a share of a
    step; None where each step is a job.
    """

    number: int
    loss: float
    seconds: float
    steps: int
    waiting: float | None = None
    spread: float | None = None


@dataclass(frozen=True)
class Training:
    """What came of a training, epoch by epoch."""

    epochs: tuple[Epoch, ...]
    #: The job that it was; empty where there was none, or one for each step.
    job: str = ""

    @property
    def losses(self) -> tuple[float, ...]:
        return tuple(epoch.loss for epoch in self.epochs)

    @property
    def seconds(self) -> float:
        return sum(epoch.seconds for epoch in self.epochs)

    def as_dict(self) -> dict[str, Any]:
        return {
            "job": self.job,
            "seconds": self.seconds,
            "epochs": [vars(epoch).copy() for epoch in self.epochs],
        }


def _check_rows(targets: Array, rows: int) -> None:
    count = len(targets) if targets.ndim else 0
    if count != rows:
        raise InvalidInput(f"y has {count} rows, but X has {rows}", field="y")
