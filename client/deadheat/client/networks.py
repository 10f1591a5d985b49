"""Networks as programs: `forward` computes all layers of a network as one job."""

from __future__ import annotations

import time
import weakref
from pathlib import Path
from typing import Any, Literal

import numpy as np

from deadheat.client import arrays
from deadheat.client.arrays import Array, ArrayLike
from deadheat.client.choices import CutName, DurabilityName, WhereName, place_of
from deadheat.client.expressions import Held, leaf
from deadheat.client.jobs import Job
from deadheat.client.lazy import Lazy
from deadheat.client.nn.layers import Flatten
from deadheat.client.nn.parameters import FLOATS, check_finite
from deadheat.client.nn.passes import forward
from deadheat.client.nn.sequential import Sequential
from deadheat.client.places import Work
from deadheat.client.products import awaited, policy_of
from deadheat.client.programs import Programs
from deadheat.runtime.dtypes import element_type, name_of, numpy_dtype, promoted
from deadheat.runtime.errors import DeadheatError, InvalidInput
from deadheat.v1 import job_pb2

#: By a parameter's identity and the dtype in which it is there: what it is (to know when it is no
#: more), and the operand that it became.
Resident = dict[tuple[int, str], tuple[weakref.ref[Array], Held]]


class Networks(Programs):
    """The part of `Client` that computes networks."""

    #: Parameters that are on the cluster: they are sent once, and go when the network does.
    _resident: Resident

    def forward(
        self,
        network: Sequential,
        X: ArrayLike,  # noqa: N803 - as everybody calls it.
        *,
        softmax: bool = False,
        check_finite: bool = True,
        cut: CutName = "balanced",
        timeout: float | None = None,
        durability: DurabilityName = "process",
        progress: bool | None = None,
        where: WhereName = "auto",
    ) -> Any:
        """What a network makes of samples.

        Args:
            network: Of `deadheat.client.nn`. Its parameters stay on the cluster, as long as it has
                them, for the next call that is computed there.
            X: n x `network.inputs` samples, or one of `network.inputs` elements; n x anything
                where the network begins with Flatten. What `put` takes, or a `Lazy`.
            softmax: Whether `softmax` along each row comes last.
            check_finite: Whether X is looked through for NaN and infinity, which are refused.
                Without it they propagate as in NumPy. A Lazy is never looked through.
            cut: As for `compute`.
            timeout: As for `compute`.
            durability: As for `compute`.
            progress: As for `compute`.
            where: As for `compute`.

        Returns:
            An array of n x `network.outputs` (or of `network.outputs` elements), of the dtype that
            NumPy makes of X's and the network's.

        Raises:
            InvalidInput: X does not fit the network, or is not finite; the message names layer,
                shapes and value.
            LimitReached, TimedOut, JobFailed: As for `compute`.

        """
        policy = policy_of(cut, durability, timeout)
        place = place_of(where, cut, timeout, durability)
        rows = self._given(network, X, is_checked=check_finite)
        work = self._work(network, rows)
        started_s = time.perf_counter()
        if place == "local" or (place == "auto" and self._places.is_here(work)):
            here = self.compute(rows, where="local") if isinstance(rows, Lazy) else rows
            made = self._forward_here(network, here, softmax)
            self._places.took_here(work, time.perf_counter() - started_s)
            return made
        x = rows if isinstance(rows, Lazy) else self._put_samples(network, X, rows)
        made = awaited(self._submit_applied(network, x, softmax, policy, keep=False), progress)
        self._places.took_there(work, time.perf_counter() - started_s)
        return made

    def place_forward(
        self,
        network: Sequential,
        X: ArrayLike,  # noqa: N803
    ) -> Literal["cluster", "local"]:
        """Where `forward` would be computed now if it were left to choose (`where="auto"`). Raises
        InvalidInput where X does not fit the network."""
        rows = self._given(network, X, is_checked=False)
        return "local" if self._places.is_here(self._work(network, rows)) else "cluster"

    def _forward_here(self, network: Sequential, rows: Array, softmax: bool) -> Array:
        """In this process, where nothing has to be sent, or copied."""
        raise NotImplementedError

    def _given(
        self,
        network: Sequential,
        X: ArrayLike,  # noqa: N803
        *,
        is_checked: bool,
    ) -> Array | Lazy:
        """Samples as they came, checked, before anything of them moves."""
        if not isinstance(X, Lazy):
            return self._rows(network, X, is_checked=is_checked)
        _check_network(network)
        _check_samples(network, X.shape, str(X.dtype))
        return X

    def _work(self, network: Sequential, rows: Array | Lazy) -> Work:
        """What a pass has to do. Parameters that are on the cluster need not be sent, nor has what
        a Lazy is of."""
        count = rows.shape[0] if rows.ndim > 1 else 1
        dtype = promoted(name_of(rows.dtype, field="X"), name_of(network.dtype, field="network"))
        steps = sum(layer.weight.size for layer in network.linear)
        flops = 2.0 * count * steps
        moved = count * network.outputs * numpy_dtype(dtype).itemsize
        moved += sum(p.nbytes for p in network.parameters if (id(p), dtype) not in self._resident)
        stored = 0
        if isinstance(rows, Lazy):
            stored = rows.node.type.size_bytes
        else:
            moved += rows.nbytes
        return Work(dtype, flops, flops, moved, stored_bytes=stored, is_product=False)

    def submit_forward(
        self,
        network: Sequential,
        X: ArrayLike,  # noqa: N803
        *,
        softmax: bool = False,
        check_finite: bool = True,
        cut: CutName = "balanced",
        timeout: float | None = None,
        durability: DurabilityName = "process",
        keep: bool = True,
    ) -> Job:
        """Like `forward`, but returns a future as soon as the cluster has accepted the job. Its
        result stays with the cluster for a day, unless nobody is to `keep` it."""
        policy = policy_of(cut, durability, timeout)
        _check_network(network)
        x = X if isinstance(X, Lazy) else self._samples(network, X, check_finite)
        return self._submit_applied(network, x, softmax, policy, keep=keep)

    def _submit_applied(
        self,
        network: Sequential,
        x: Lazy,
        softmax: bool,
        policy: job_pb2.JobPolicy,
        *,
        keep: bool,
    ) -> Job:
        values = self._applied(network, x, softmax, is_checked=False)
        try:
            job = self._submit_lazy(
                self._lowered([values]), [values], policy, keep=keep, kind=job_pb2.JOB_KIND_MLP
            )
        except DeadheatError:
            self._resident.clear()  # One of them may be what the cluster has not got any more.
            raise
        job.add_done_callback(self._forget_if_failed)
        return job

    def apply(self, network: Sequential, x: Lazy) -> Lazy:
        """What a network makes of an expression, as an expression: for `compute`, `submit` and
        `persist`. Raises InvalidInput where its shape or dtype does not fit."""
        _check_samples(network, x.shape, str(x.dtype))
        dtype = promoted(name_of(x.dtype, field="X"), name_of(network.dtype, field="network"))
        parameters = [self._parameter(array, dtype) for array in network.parameters]
        return forward(network, x, parameters)[-1].after

    def _applied(
        self,
        network: Sequential,
        X: ArrayLike,  # noqa: N803
        softmax: bool,
        is_checked: bool,
    ) -> Lazy:
        _check_network(network)
        x = X if isinstance(X, Lazy) else self._samples(network, X, is_checked)
        values = self.apply(network, x)
        return values.softmax() if softmax else values

    def _samples(
        self,
        network: Sequential,
        X: ArrayLike,  # noqa: N803
        is_checked: bool,
    ) -> Lazy:
        """Samples on the cluster, if they fit the network."""
        return self._put_samples(network, X, self._rows(network, X, is_checked=is_checked))

    def _put_samples(
        self,
        network: Sequential,
        X: ArrayLike,  # noqa: N803
        rows: Array,
    ) -> Lazy:
        # A file that needs no change is read in place.
        is_file = isinstance(X, (str, Path)) and not isinstance(network[0], Flatten)
        return self.put(X if is_file else rows)

    @staticmethod
    def _rows(
        network: Sequential,
        X: ArrayLike,  # noqa: N803
        *,
        is_checked: bool,
    ) -> Array:
        """Samples as the network's first Linear layer takes them."""
        _check_network(network)
        array = arrays.array_of(X, "X")
        if isinstance(network[0], Flatten) and array.ndim > 2:
            array = array.reshape(len(array), int(np.prod(array.shape[1:])))
        _check_samples(network, array.shape, name_of(array.dtype, field="X"))
        if is_checked:
            check_finite(array, "X")
        return array

    def _parameter(self, array: Array, dtype: str) -> Lazy:
        """A parameter as an operand, sent once: it never changes, since it is read-only."""
        resident, key = self._resident, (id(array), dtype)
        found = resident.get(key)
        if found is None:
            source, _ = arrays.operand(array.astype(numpy_dtype(dtype), copy=False))
            held = self._keep(source, durable=False)
            found = weakref.ref(array, lambda _: resident.pop(key, None)), held
            resident[key] = found
        return Lazy(self, leaf(found[1]), array.shape)

    def _forget_if_failed(self, job: Any) -> None:
        if not job.cancelled() and job.exception() is not None:
            self._resident.clear()


def _check_network(network: object) -> None:
    if not isinstance(network, Sequential):
        kind = type(network).__name__
        raise InvalidInput(f"network is a {kind}; it must be an nn.MLP or nn.Sequential")


def _check_samples(network: Sequential, shape: tuple[int, ...], dtype: str) -> None:
    """Raises InvalidInput for samples that the first Linear layer cannot take."""
    number = network.layers.index(network.linear[0])
    first = f"layer {number} ({network.linear[0]!r})"
    dimensions = " x ".join(str(length) for length in shape) or "a scalar"
    if len(shape) > 2:
        raise InvalidInput(
            f"X is {dimensions}, but {first} takes rows of {network.inputs}; begin the network "
            "with nn.Flatten()",
            field="X",
        )
    if not shape or shape[-1] != network.inputs:
        raise InvalidInput(
            f"X is {dimensions}, but {first} takes {network.inputs} columns", field="X"
        )
    element = element_type(dtype)
    if not element.is_exact and not element.is_float:
        raise InvalidInput(f"X is {dtype}; networks are computed in {', '.join(FLOATS)}", field="X")
