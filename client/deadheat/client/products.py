"""Products and chains of matrices, as NumPy has them, for `Client`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal, cast

from deadheat.client import arrays, local
from deadheat.client.arrays import Array, ArrayLike
from deadheat.client.choices import (
    ACTIVATIONS,
    CUTS,
    DURABILITIES,
    PRECISIONS,
    WHERES,
    ActivationName,
    CutName,
    DurabilityName,
    PrecisionName,
    WhereName,
    choice,
    number,
    place_of,
)
from deadheat.client.jobs import Job
from deadheat.client.local import at_once
from deadheat.client.places import Work
from deadheat.client.progress import shown
from deadheat.client.submissions import Asked, Submissions
from deadheat.runtime.errors import DeadheatError, InvalidInput
from deadheat.runtime.operand_checks import check_precision
from deadheat.runtime.programs import (
    Chain,
    Gemm,
    Precision,
    chain_program,
    gemm_program,
)
from deadheat.v1 import job_pb2


class Products(Submissions):
    """The part of `Client` that multiplies."""

    # Products

    def matmul(
        self,
        a: ArrayLike,
        b: ArrayLike,
        *,
        bias: ArrayLike | None = None,
        alpha: float = 1.0,
        activation: ActivationName = "none",
        cut: CutName = "balanced",
        timeout: float | None = None,
        durability: DurabilityName = "process",
        precision: PrecisionName = "strict",
        progress: bool | None = None,
        where: WhereName = "auto",
    ) -> Array:
        """`activation(alpha * a @ b + bias)`, with NumPy's semantics for any dimensions.

        Args:
            a: m x k; an array, anything NumPy or DLPack can read, or the path of a `.npy` file. Of
                more than two dimensions it is a stack of such matrices; 1-D is one row.
            b: k x n, likewise; 1-D is one column. Batch dimensions are broadcast.
            bias: n elements, added to each row.
            alpha: A factor; other than 1 for floating-point and complex dtypes only.
            activation: Applied to each element; real floating-point dtypes only.
            cut: How rows are shared out; all but "balanced" are there to be compared with.
            timeout: Seconds after which the job fails. None: no limit.
            durability: "power" has the operands on disk before the job is accepted.
            precision: "tf32" lets GPUs keep ten bits of each float32 factor, where that is faster;
                cores compute in full. Products of other dtypes have one precision only.
            progress: Show a progress bar; None: if stderr is a terminal.
            where: "local" computes it in this process: that is no job, has no id and starts no
                cluster. "cluster" makes it a job. "auto" does what is predicted to be faster; with
                `cut`, `timeout` or `durability`, which only a job has, it is a job.

        Returns:
            An array of NumPy's shape (m x n for two matrices) and result dtype. It is yours:
            changing it changes nothing else.

        Raises:
            InvalidInput: Shapes, dtypes or options do not fit; the message says which and why.
            LimitReached: The cluster has no room for it.
            TimedOut: `timeout` is over.
            JobFailed: The cluster could not compute it; `cause` is the reason's code.

        """
        if (
            where == "auto"
            and bias is None
            and type(alpha) is float
            and alpha == 1.0
            and activation == "none"
            and precision == "strict"
            # `is_free`, without the call: after a product nothing of ours is in the caches.
            and cut == "balanced"
            and timeout is None
            and durability == "process"
        ):
            made = at_once(a, b)
            if made is None:
                made = self._plain(a, b)
            if made is not None:
                return made
        policy = policy_of(cut, durability, timeout)
        place = place_of(where, cut, timeout, durability)

        def ask(given: Sequence[ArrayLike]) -> Asked:
            return _product(given, alpha, activation, precision)

        return self._made((a, b, bias), ask, place, policy, progress)

    def submit_matmul(
        self,
        a: ArrayLike,
        b: ArrayLike,
        *,
        bias: ArrayLike | None = None,
        alpha: float = 1.0,
        activation: ActivationName = "none",
        cut: CutName = "balanced",
        timeout: float | None = None,
        durability: DurabilityName = "process",
        precision: PrecisionName = "strict",
        where: WhereName = "cluster",
    ) -> Job:
        """Like `matmul`, but returns a future as soon as the cluster has accepted the job. Its
        result stays with the cluster for a day, for others to fetch by the job's id. `where` may
        not be "local": a product in this process is no job."""
        _check_is_job(where)
        asked = _product((a, b, bias), alpha, activation, precision)
        return self._submit_checked(asked, policy_of(cut, durability, timeout), keep=True)

    # Chains

    def multi_dot(
        self,
        matrices: Iterable[ArrayLike],
        *,
        cut: CutName = "balanced",
        timeout: float | None = None,
        durability: DurabilityName = "process",
        precision: PrecisionName = "strict",
        progress: bool | None = None,
        where: WhereName = "auto",
    ) -> Array:
        """The product of all `matrices`, as `numpy.linalg.multi_dot`, in the order that is
        predicted to be fastest on this cluster.

        Args:
            matrices: Two or more, each anything that `matmul` takes. The first may be 1-D, a row,
                and the last, a column; the others are 2-D. All are taken to their common dtype
                first, so that the result's does not depend on the order.
            cut: How rows are shared out; all but "balanced" are there to be compared with.
            timeout: Seconds after which the job fails. None: no limit.
            durability: "power" has the operands on disk before the job is accepted.
            precision: "tf32" lets GPUs keep ten bits of each float32 factor, where that is faster;
                cores compute in full. Products of other dtypes have one precision only.
            progress: Show a progress bar; None: if stderr is a terminal.
            where: "local" computes it in this process: that is no job, has no id and starts no
                cluster. "cluster" makes it a job. "auto" does what is predicted to be faster; with
                `cut`, `timeout` or `durability`, which only a job has, it is a job.

        Returns:
            As `numpy.linalg.multi_dot`: 2-D, or with 1-D ends 1-D or a scalar. It is yours.

        Raises:
            InvalidInput: Fewer than two matrices, or shapes and dtypes that do not fit.
            LimitReached: The cluster has no room for it.
            TimedOut: `timeout` is over.
            JobFailed: The cluster could not compute it; `cause` is the reason's code.

        """
        policy = policy_of(cut, durability, timeout)
        place = place_of(where, cut, timeout, durability)
        given = arrays.listed(matrices)
        return self._made(given, lambda v: _chain(v, precision), place, policy, progress)

    def submit_multi_dot(
        self,
        matrices: Iterable[ArrayLike],
        *,
        cut: CutName = "balanced",
        timeout: float | None = None,
        durability: DurabilityName = "process",
        precision: PrecisionName = "strict",
        where: WhereName = "cluster",
    ) -> Job:
        """Like `multi_dot`, but returns a future as soon as the cluster has accepted the job. Its
        result stays with the cluster for a day, for others to fetch by the job's id. `where` may
        not be "local": a product in this process is no job."""
        _check_is_job(where)
        asked = _chain(arrays.listed(matrices), precision)
        return self._submit_checked(asked, policy_of(cut, durability, timeout), keep=True)

    # Here or there

    def place(
        self, *matrices: ArrayLike, bias: ArrayLike | None = None
    ) -> Literal["cluster", "local"]:
        """Where `matmul` of two matrices, or `multi_dot` of more, would be computed now if it were
        left to choose (`where="auto"`)."""
        two = len(matrices) == 2
        asked = _product((*matrices, bias), 1.0, "none") if two else _chain(matrices)
        return "local" if self._places.is_here(asked.work) else "cluster"

    def _made(
        self,
        given: Sequence[ArrayLike],
        ask: Callable[[Sequence[ArrayLike]], Asked],
        place: WhereName,
        policy: job_pb2.JobPolicy,
        progress: bool | None,
    ) -> Array:
        """The result of what `ask` makes of the given operands, computed where it should be."""
        if place == "local":
            return self._made_here(ask([local.read(value) for value in given]))
        asked = ask(given)
        if place == "auto" and self._places.is_here(asked.work):
            if any(isinstance(value, (str, Path)) for value in given):
                asked = ask([local.read(value) for value in given])
            return self._made_here(asked)
        started_s = time.perf_counter()
        job = self._submit_checked(asked, policy, keep=False)
        result = awaited(job, progress)
        self._places.took_there(asked.work, time.perf_counter() - started_s)
        return result

    def _plain(self, a: ArrayLike, b: ArrayLike) -> Array | None:
        """`a @ b` without a program for it, where that can be and is better done here."""
        work = local.plain_work(a, b)
        if work is None or not self._places.is_here(work):
            return None
        return self._timed_here(work, lambda: local.multiplied(cast("Array", a), cast("Array", b)))

    def _made_here(self, asked: Asked) -> Array:
        return self._timed_here(asked.work, asked.compute)

    def _timed_here(self, work: Work, compute: Callable[[], Array]) -> Array:
        """Computed in this process, which says how fast that is."""
        started_s = time.perf_counter()
        result = compute()
        self._places.took_here(work, time.perf_counter() - started_s)
        return result


def awaited(job: Job, progress: bool | None) -> Array:
    """The result of a job that nobody else waits for: Ctrl-C cancels it."""
    try:
        with shown(job, progress):
            result: Array = job.result()
    except KeyboardInterrupt:
        with suppress(DeadheatError):
            job.cancel()
        raise
    return result


def _product(
    given: Sequence[ArrayLike], alpha: float, activation: str, precision: str = "strict"
) -> Asked:
    a, b, bias = given
    checked = arrays.product(a, b, bias)
    kind = checked.kind(
        Gemm(
            alpha=number(alpha, "alpha"),
            activation=choice(activation, "activation", ACTIVATIONS),
            precision=_precision(precision, checked.dtype),
        )
    )
    return Asked.of(
        checked,
        lambda operands: gemm_program(tuple(operands), kind),
        job_pb2.JOB_KIND_MATMUL,
        lambda: local.product(checked, kind),
    )


def _precision(name: str, dtype: str) -> Precision:
    """Raises InvalidInput where products of that dtype have no such precision."""
    found = choice(name, "precision", PRECISIONS)
    check_precision(found, dtype)
    return found


def _chain(given: Sequence[ArrayLike], precision: str = "strict") -> Asked:
    checked = arrays.chain(given)
    transposed = [index for index, s in enumerate(checked.sources) if s.is_transposed]
    kind = Chain(tuple(transposed), _precision(precision, checked.dtype))
    return Asked.of(
        checked,
        lambda operands: chain_program(tuple(operands), kind),
        job_pb2.JOB_KIND_CHAIN,
        lambda: local.chain(checked),
    )


def _check_is_job(where: str) -> None:
    if choice(where, "where", WHERES) == "local":
        raise InvalidInput(
            "where is 'local', but a product in this process is no job that could be submitted: "
            "use matmul or multi_dot, which wait for it",
            field="where",
        )


def policy_of(cut: str, durability: str, timeout_s: float | None) -> job_pb2.JobPolicy:
    return job_pb2.JobPolicy(
        cut=choice(cut, "cut", CUTS),
        durability=choice(durability, "durability", DURABILITIES),
        timeout_s=None if timeout_s is None else number(timeout_s, "timeout"),
    )
