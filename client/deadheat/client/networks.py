"""Networks as programs: `forward` computes all layers of a network as one job."""

from __future__ import annotations

import time
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from deadheat.client import arrays
from deadheat.client.arrays import Array, ArrayLike, Source
from deadheat.client.choices import CutName, DurabilityName, PrecisionName, WhereName, place_of
from deadheat.client.expressions import Held, leaf
from deadheat.client.jobs import Job
from deadheat.client.lazy import Lazy
from deadheat.client.link import Link
from deadheat.client.nn.graphs import Graph
from deadheat.client.nn.images import Image, Unflatten
from deadheat.client.nn.layers import Activation, Flatten, Linear
from deadheat.client.nn.parameters import FLOATS, check_finite, matrix_of
from deadheat.client.nn.passes import forward
from deadheat.client.nn.sequential import Sequential
from deadheat.client.places import Work, work_of_program
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

    def __init__(self, link: Link | None) -> None:
        super().__init__(link)
        #: Parameters that are on the cluster: they are sent once, and go when the network does.
        self._resident: Resident = {}

    def forward(
        self,
        network: Sequential | Graph,
        X: ArrayLike,  # noqa: N803 - as everybody calls it.
        *,
        softmax: bool = False,
        check_finite: bool = True,
        cut: CutName = "balanced",
        timeout: float | None = None,
        durability: DurabilityName = "process",
        precision: PrecisionName = "strict",
        progress: bool | None = None,
        where: WhereName = "auto",
    ) -> Any:
        """What a network makes of samples.

        Args:
            network: Of `deadheat.client.nn`, or what `nn.from_onnx` made. Its parameters stay on
                the cluster, as long as it has them, for the next call that is computed there.
            X: n x `network.inputs` samples, or one of `network.inputs` elements; n x anything
                where the network begins with Flatten. What `put` takes, or a `Lazy`. A network that
                begins with Conv2d or pooling takes n x channels x height x width.
            softmax: Whether `softmax` along each row comes last.
            check_finite: Whether X is looked through for NaN and infinity, which are refused.
                Without it they propagate as in NumPy. A Lazy is never looked through.
            cut: As for `compute`.
            timeout: As for `compute`.
            durability: As for `compute`.
            precision: As for `compute`.
            progress: As for `compute`.
            where: As for `compute`.

        Returns:
            An array of n x `network.outputs` (or of `network.outputs` elements; of a network that
            ends with images, n x channels x height x width), of the dtype that NumPy makes of X's
            and the network's.

        Raises:
            InvalidInput: X does not fit the network, or is not finite; the message names layer,
                shapes and value.
            LimitReached, TimedOut, JobFailed: As for `compute`.

        """
        place = place_of(where, cut, timeout, durability)
        values = self._outlined(network, X, softmax, check_finite)
        work = self._work(network, values, precision)
        started_s = time.perf_counter()
        if place == "local" or (place == "auto" and self._places.is_here(work)):
            if isinstance(X, Lazy):
                values = self._outlined(network, X.compute(where="local"), softmax, False)
            made = values.compute(where="local")
            self._places.took_here(work, time.perf_counter() - started_s)
            return made
        job = self.submit_forward(
            network,
            X,
            softmax=softmax,
            check_finite=False,
            cut=cut,
            timeout=timeout,
            durability=durability,
            precision=precision,
            keep=False,
        )
        made = awaited(job, progress)
        self._places.took_there(work, time.perf_counter() - started_s)
        return made

    def place_forward(
        self,
        network: Sequential | Graph,
        X: ArrayLike,  # noqa: N803
    ) -> Literal["cluster", "local"]:
        """Where `forward` would be computed now if it were left to choose (`where="auto"`). Raises
        InvalidInput where X does not fit the network."""
        work = self._work(network, self._outlined(network, X, False, False))
        return "local" if self._places.is_here(work) else "cluster"

    def _outlined(
        self,
        network: Sequential | Graph,
        X: ArrayLike,  # noqa: N803
        softmax: bool,
        is_checked: bool,
    ) -> Lazy:
        """The pass as an expression of this process: nothing of it moves. For a Lazy something
        of its type stands in."""
        here = _Borrowing(None)
        is_lazy = isinstance(X, Lazy)
        x = Lazy(here, leaf(Held(X.node.type)), X.shape) if is_lazy else X
        made = here._applied(network, x, softmax, is_checked)  # noqa: SLF001 - it is one of ours.
        here._resident.clear()  # noqa: SLF001 - else it would keep the parameters until collected.
        return made

    def _work(
        self, network: Sequential | Graph, values: Lazy, precision: PrecisionName = "strict"
    ) -> Work:
        """What a pass has to do; raises InvalidInput where it has no such precision. Parameters
        that are on the cluster need not be sent, nor has what a Lazy is of."""
        lowered = values.client._lowered([values], precision)  # noqa: SLF001 - it is one of ours.
        assert lowered.program is not None, "a network has an operation at least"
        stored = [name for name, held in lowered.held.items() if held.array is None]
        work = work_of_program(lowered.program, stored)
        own = network.constants.values() if isinstance(network, Graph) else network.parameters
        there = {known for known, _ in self._resident}
        sent_bytes = sum(one.nbytes for one in own if id(one) in there)
        return replace(work, moved_bytes=max(0, work.moved_bytes - sent_bytes))

    def submit_forward(
        self,
        network: Sequential | Graph,
        X: ArrayLike,  # noqa: N803
        *,
        softmax: bool = False,
        check_finite: bool = True,
        cut: CutName = "balanced",
        timeout: float | None = None,
        durability: DurabilityName = "process",
        precision: PrecisionName = "strict",
        keep: bool = True,
    ) -> Job:
        """Like `forward`, but returns a future as soon as the cluster has accepted the job. Its
        result stays with the cluster for a day, unless nobody is to `keep` it."""
        policy = policy_of(cut, durability, timeout)
        values = self._applied(network, X, softmax, check_finite)
        try:
            lowered = self._lowered([values], precision)
            kind = job_pb2.JOB_KIND_MLP
            job = self._submit_lazy(lowered, [values], policy, keep=keep, kind=kind)
        except DeadheatError:
            self._resident.clear()  # One of them may be what the cluster has not got any more.
            raise
        job.add_done_callback(self._forget_if_failed)
        return job

    def apply(self, network: Sequential | Graph, x: Lazy) -> Lazy:
        """What a network makes of an expression, as an expression: for `compute`, `submit` and
        `persist`. A lazy matrix has rows: images need a network that begins with Unflatten. Raises
        InvalidInput where its shape or dtype does not fit."""
        if isinstance(network, Graph):
            taken = network.taken
            image = None if len(taken) == 2 else (taken[1], taken[2], taken[3])
            if image is not None and None in image:
                raise InvalidInput(f"{network!r} takes images of any size, and X is a lazy matrix")
            return self._computed(network, x, image)  # type: ignore[arg-type]
        _check_samples(network, x.shape, str(x.dtype))
        dtype = promoted(name_of(x.dtype, field="X"), name_of(network.dtype, field="network"))
        parameters = [self._parameter(array, dtype) for array in network.parameters]
        return forward(network, x, parameters)[-1].after

    def _applied(
        self,
        network: Sequential | Graph,
        X: ArrayLike,  # noqa: N803
        softmax: bool,
        is_checked: bool,
    ) -> Lazy:
        if isinstance(network, Graph):
            return self._graphs(network, X, softmax, is_checked)
        network = self._fitted(network, X)
        x = X if isinstance(X, Lazy) else self._samples(network, X, is_checked)
        values = self.apply(network, x)
        if network.made is not None and len(network.made) > 1:
            if softmax:
                raise InvalidInput("softmax goes along rows, but the network ends with images")
            return Lazy(self, values.node, (*x.shape[:-1], *network.made))
        return values.softmax() if softmax else values

    def _graphs(
        self,
        network: Graph,
        X: ArrayLike,  # noqa: N803
        softmax: bool,
        is_checked: bool,
    ) -> Lazy:
        if isinstance(X, Lazy):
            values = self.apply(network, X)
        else:
            array = arrays.array_of(X, "X")
            network.check_samples(array.shape)
            if is_checked:
                check_finite(array, "X")
            _, *shape = array.shape
            image = (shape[0], shape[1], shape[2]) if len(shape) == 3 else None
            rows = array.reshape(len(array), int(np.prod(shape)))
            values = self._computed(network, self.put(rows), image)
        if softmax and values.ndim > 2:
            raise InvalidInput("softmax goes along rows, but the network ends with images")
        return values.softmax() if softmax else values

    def _computed(self, network: Graph, x: Lazy, image: Image | None) -> Lazy:
        """What a graph makes of rows, or of images as rows."""
        columns = network.taken[1] if image is None else int(np.prod(image))
        if x.ndim != 2 or columns not in (None, x.shape[1]):
            raise InvalidInput(f"X is {x.shape}, but {network!r} takes {columns} columns")
        dtype = promoted(name_of(x.dtype, field="X"), name_of(network.dtype, field="network"))
        _check_dtype(str(x.dtype))
        made = network.applied(x, image, lambda array: self._parameter(array, dtype))
        if made.image is None:
            return made.lazy
        return Lazy(self, made.lazy.node, (*made.lazy.shape[:-1], *made.image))

    @staticmethod
    def _fitted(network: Sequential, X: ArrayLike) -> Sequential:  # noqa: N803
        """The network for samples as rows: one that takes images, for those of X's size."""
        _check_network(network)
        if not network.takes_images or isinstance(X, Lazy):
            return network
        shape = arrays.array_of(X, "X").shape
        if len(shape) != 4:
            dimensions = " x ".join(str(length) for length in shape) or "a scalar"
            raise InvalidInput(
                f"X is {dimensions}, but {network.name(0)} takes n x channels x height x width; "
                "for rows begin the network with nn.Unflatten(1, (channels, height, width))",
                field="X",
            )
        return network.for_images((shape[1], shape[2], shape[3]))

    def _samples(
        self,
        network: Sequential,
        X: ArrayLike,  # noqa: N803
        is_checked: bool,
    ) -> Lazy:
        """Samples on the cluster, if they fit the network."""
        rows = self._rows(network, X, is_checked=is_checked)
        # A file that needs no change is read in place.
        is_file = isinstance(X, (str, Path)) and not isinstance(network[0], Flatten | Unflatten)
        return self.put(X if is_file else rows)

    @staticmethod
    def _rows(
        network: Sequential,
        X: ArrayLike,  # noqa: N803
        *,
        is_checked: bool,
    ) -> Array:
        """Samples as rows, as the network takes them."""
        _check_network(network)
        array = arrays.array_of(X, "X")
        first = network[0]
        is_image = isinstance(first, Unflatten) and array.shape[1:] == first.image
        if (isinstance(first, Flatten) or is_image) and array.ndim > 2:
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
            source, _ = arrays.operand(matrix_of(array).astype(numpy_dtype(dtype), copy=False))
            held = self._keep(source, durable=False)
            found = weakref.ref(array, lambda _: resident.pop(key, None)), held
            resident[key] = found
        return Lazy(self, leaf(found[1]), matrix_of(array).shape)

    def _forget_if_failed(self, job: Any) -> None:
        if not job.cancelled() and job.exception() is not None:
            self._resident.clear()


class _Borrowing(Networks):
    """Reads operands where they are, for one computation in this process that ends before anybody
    can change them."""

    def _keep(self, source: Source, *, durable: bool) -> Held:
        del durable
        matrix = source.stored_type(name_of(source.array.dtype, field="the matrix"))
        return Held(matrix, np.ascontiguousarray(source.array, numpy_dtype(matrix.dtype)))


def _check_network(network: object) -> None:
    if isinstance(network, Graph):
        raise InvalidInput(f"{network!r} is computed only: it is no Sequential", field="network")
    if not isinstance(network, Sequential):
        kind = type(network).__name__
        raise InvalidInput(f"network is a {kind}; it must be an nn.MLP or nn.Sequential")


def _check_samples(network: Sequential, shape: tuple[int, ...], dtype: str) -> None:
    """Raises InvalidInput for samples that the first layer that knows their size cannot take."""
    shaping = (n for n, one in enumerate(network) if not isinstance(one, Activation | Flatten))
    number = next(shaping)
    first = network.name(number)
    dimensions = " x ".join(str(length) for length in shape) or "a scalar"
    layer = network[number]
    if network.takes_images:
        raise InvalidInput(
            f"X is a lazy matrix, {dimensions}, but {first} takes images; begin the network with "
            "nn.Unflatten(1, (channels, height, width))",
            field="X",
        )
    if len(shape) > 2:
        raise InvalidInput(
            f"X is {dimensions}, but {first} takes rows of {network.inputs}"
            + ("; begin the network with nn.Flatten()" if isinstance(layer, Linear) else ""),
            field="X",
        )
    if not shape or shape[-1] != network.inputs:
        raise InvalidInput(
            f"X is {dimensions}, but {first} takes {network.inputs} columns", field="X"
        )
    _check_dtype(dtype)


def _check_dtype(dtype: str) -> None:
    element = element_type(dtype)
    if not element.is_exact and not element.is_float:
        raise InvalidInput(f"X is {dtype}; networks are computed in {', '.join(FLOATS)}", field="X")
