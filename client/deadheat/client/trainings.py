"""Training networks: all of it as one job; or, shared out step by step, a job for each step."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from deadheat.client.arrays import Array, ArrayLike
from deadheat.client.choices import CutName, choice, number
from deadheat.client.epochs import Epochs, Lesson, OnEpoch, Pupil, assign
from deadheat.client.lazy import Lazy
from deadheat.client.nn.descent import Far, Near, Rule, begin
from deadheat.client.nn.layers import Seed, generator
from deadheat.client.nn.losses import LOSSES, Epoch, Gradients, LossName, Targets, Training
from deadheat.client.nn.parameters import matrix_of, taken_as
from deadheat.client.nn.passes import backward, forward
from deadheat.client.nn.sequential import Sequential
from deadheat.client.nn.states import descent_of, orders
from deadheat.client.products import policy_of
from deadheat.client.programs import PLACES
from deadheat.runtime.errors import InvalidInput
from deadheat.runtime.programs import Descent
from deadheat.v1 import job_pb2

#: A number of epochs or of rows that is larger is a mistake.
MAX_COUNT: Final = 1 << 40
#: Gradients of shorter floats vanish, unless losses are scaled, which this does not do.
TRAINED: Final = ("float32", "float64")


@dataclass(frozen=True)
class _Task:
    """What a training is about, checked; samples are of the network's dtype."""

    network: Sequential
    x: Array
    targets: Array
    loss: LossName
    policy: job_pb2.JobPolicy


class Trainings(Epochs):
    """The part of `Client` that trains networks."""

    def gradients(
        self,
        network: Sequential,
        X: ArrayLike,  # noqa: N803 - as everybody calls it.
        y: Targets,
        *,
        loss: LossName = "cross_entropy",
        cut: CutName = "balanced",
        timeout: float | None = None,
        where: Literal["cluster", "local"] = "cluster",
    ) -> Gradients:
        """A network's loss over samples, and its gradients, as one job.

        Takes what `train` takes, and raises what it raises. The loss is a mean over the rows.
        """
        if choice(where, "where", PLACES) == "local":
            return Trainings(None).gradients(network, X, y, loss=loss, cut=cut, timeout=timeout)
        task = self._task(network, X, y, loss, policy_of(cut, "process", timeout))
        parameters = [self.put(matrix_of(array)) for array in network.parameters]
        output, made = self._backward(task, np.arange(len(task.x)), parameters)
        found = self._persisted([output, *made], task.policy)
        value, *gradients = (lazy.compute() for lazy in found)
        pairs = zip(gradients, network.parameters, strict=True)
        shaped = tuple(gradient.reshape(array.shape) for gradient, array in pairs)
        return Gradients(LOSSES[loss].value(value, task.targets), shaped)

    def train(
        self,
        network: Sequential,
        X: ArrayLike,  # noqa: N803
        y: Targets,
        *,
        epochs: int,
        batch_size: int = 256,
        learning_rate: float = 0.01,
        momentum: float = 0.0,
        loss: LossName = "cross_entropy",
        seed: Seed = None,
        cut: CutName = "balanced",
        on_epoch: OnEpoch | None = None,
        share: bool = False,
        where: Literal["cluster", "local"] = "cluster",
    ) -> Training:
        """Trains a network by stochastic gradient descent, in place, epoch by epoch.

        For each batch, v = momentum * v + gradient and p = p - learning_rate * v, for each
        parameter p. The network gets its new parameters at the end of each epoch: whatever ends a
        training, it has those of the last complete one.

        The training is one job, which goes on if this process ends (`follow` finds it) and if the
        scheduler is started anew. Each epoch is worked by one device with all of its cores, or by
        several, each with a part of every batch; the weights stay there between its steps.

        Args:
            network: Of float32 or float64.
            X: Samples or images, as `forward` takes them; taken in the network's dtype.
            y: For "cross_entropy" n labels from 0 to `network.outputs` - 1; for "mse" numbers of
                n x `network.outputs`.
            epochs: Passes over all samples, each in a new random order.
            batch_size: Rows of a step; the last of an epoch may have fewer.
            learning_rate: Above 0.
            momentum: From 0 up to, and without, 1.
            loss: "cross_entropy" (softmax is part of it) or "mse".
            seed: Of the order of samples: the same seed takes them in the same order.
            cut: As for `compute`, where steps are shared.
            on_epoch: Called with each epoch's report, when the network has its parameters. Epochs
                that take less than a tenth of a second are told several at a time.
            share: Whether each step is shared out among all devices, as a job of its own, driven
                by this process: for steps that take far longer than the milliseconds that a job
                costs.
            where: "local" trains in this process, with the same kernels.

        Returns:
            A report: loss, seconds and steps of each epoch, and how long threads waited for one
            another.

        Raises:
            InvalidInput: A value does not fit; a label is out of range; X or y is not finite; or
                the loss is not finite any more. The message names what, where and the limit.
            JobFailed: The cluster could not compute a step; `cause` is the reason's code.

        """
        by = Trainings(None) if choice(where, "where", PLACES) == "local" else self
        epochs, batch_size = _count(epochs, "epochs"), _count(batch_size, "batch_size")
        rule = Rule(_between(learning_rate, "learning_rate"), _between(momentum, "momentum"))
        task = self._task(network, X, y, loss, policy_of(cut, "process", None))
        source = generator(seed)
        if share:
            return by._step_by_step(  # noqa: SLF001 - it is one of us.
                task, rule, source, epochs, batch_size, on_epoch
            )
        kind = descent_of(task.network, loss, rule, epochs=epochs, batch_size=batch_size)
        lesson = _lesson(task, kind, orders(source, epochs, len(task.x)))
        pupil = Pupil(network, on_epoch)
        return by._descend(lesson, task.policy, pupil)  # noqa: SLF001

    def _step_by_step(
        self,
        task: _Task,
        rule: Rule,
        source: np.random.Generator,
        epochs: int,
        batch_size: int,
        on_epoch: OnEpoch | None,
    ) -> Training:
        """A job for each step."""
        network = task.network
        matrices = [matrix_of(array) for array in network.parameters]
        state = [begin(self.put(array), array, rule) for array in matrices]
        made: list[Epoch] = []
        for at in range(1, epochs + 1):
            batches = _batches(source, len(task.x), batch_size)
            made.append(self._epoch(task, state, rule, at, batches))
            if on_epoch is not None:
                on_epoch(made[-1])
        return Training(tuple(made))

    def _epoch(
        self,
        task: _Task,
        state: Sequence[Near | Far],
        rule: Rule,
        at: int,
        batches: Sequence[Array],
    ) -> Epoch:
        """One pass, at the end of which the network has the new parameters."""
        started_s, total = time.perf_counter(), 0.0
        for step, rows in enumerate(batches, 1):
            output, gradients = self._backward(task, rows, [one.value for one in state])
            pairs = zip(state, gradients, strict=True)
            wanted = [lazy for one, gradient in pairs for lazy in one.wanted(gradient)]
            made = iter(self._persisted([output, *wanted], task.policy))
            value = LOSSES[task.loss].value(next(made).compute(), task.targets[rows])
            if not math.isfinite(value):
                raise _diverged(f"the loss is {value} in step {step} of epoch {at}", rule, at)
            total += value * len(rows)
            for one in state:
                one.take(made)
        _assign(task.network, [one.array() for one in state], rule, at)
        seconds = time.perf_counter() - started_s
        return Epoch(at, total / len(task.x), seconds, len(batches))

    def _backward(
        self, task: _Task, rows: Array, parameters: Sequence[Lazy]
    ) -> tuple[Lazy, Sequence[Lazy]]:
        """What the network makes of some of the samples, and the gradients of their mean loss."""
        loss = LOSSES[task.loss]
        x = self.put(task.x[rows])
        goal = self.put(loss.goal(task.targets[rows], task.network))
        steps = forward(task.network, x, parameters)
        output = steps[-1].after
        return output, backward(steps, loss.gradient(output, goal))

    def _task(
        self,
        network: Sequential,
        X: ArrayLike,  # noqa: N803
        y: Targets,
        loss: LossName,
        policy: job_pb2.JobPolicy,
    ) -> _Task:
        chosen = choice(loss, "loss", LOSSES)
        network = self._fitted(network, X)
        x = self._rows(network, X, is_checked=True)
        if network.dtype.name not in TRAINED:
            raise InvalidInput(
                f"the network is {network.dtype}; {' and '.join(TRAINED)} are trained",
                field="network",
            )
        if x.ndim != 2 or not len(x):
            raise InvalidInput(f"X has shape {x.shape}; it must have a row at least", field="X")
        x = taken_as(x, network.dtype, "X")
        return _Task(network, x, chosen.targets(network, y, len(x)), loss, policy)

    def _persisted(self, matrices: Sequence[Lazy], policy: job_pb2.JobPolicy) -> Sequence[Lazy]:
        return self._persist_as(matrices, policy, progress=False, kind=job_pb2.JOB_KIND_TRAIN)


def _lesson(task: _Task, kind: Descent, order: Array) -> Lesson:
    """Samples and targets as the devices read them."""
    return Lesson(task.network, kind, task.x, task.targets.reshape(len(task.x), -1), order)


def _batches(source: np.random.Generator, count: int, batch_size: int) -> Sequence[Array]:
    """All rows in a random order, so many at a time."""
    order = source.permutation(count)
    return [order[start : start + batch_size] for start in range(0, count, batch_size)]


def _assign(network: Sequential, arrays: Sequence[Array], rule: Rule, at: int) -> None:
    """All parameters or none."""
    if not all(np.isfinite(array).all() for array in arrays):
        raise _diverged(f"a parameter is not finite after epoch {at}", rule, at)
    assign(network, arrays)


def _diverged(what: str, rule: Rule, at: int) -> InvalidInput:
    has = f"those of epoch {at - 1}" if at > 1 else "those it came with"
    return InvalidInput(
        f"{what}: learning_rate {rule.rate:g} is too large; the network's parameters are {has}",
        field="learning_rate",
    )


def _count(value: object, name: str) -> int:
    is_whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not is_whole or not 0 < int(value) <= MAX_COUNT:  # type: ignore[call-overload]
        raise InvalidInput(f"{name} is {value!r}; it must be a whole number above 0", field=name)
    return int(value)  # type: ignore[call-overload, no-any-return]


def _between(value: object, name: str) -> float:
    """The learning rate, which is above 0 and finite, or momentum, from 0 up to 1."""
    found = number(value, name)
    if name == "momentum" and not 0 <= found < 1:
        raise InvalidInput(f"momentum is {value!r}; it goes from 0 up to 1", field=name)
    if name == "learning_rate" and not 0 < found < math.inf:
        raise InvalidInput(f"learning_rate is {value!r}; it must be above 0", field=name)
    return found
