"""Products and chains of matrices, as NumPy has them, for `Client`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress

import grpc

from deadheat.client import arrays
from deadheat.client.arrays import Array, ArrayLike, Checked
from deadheat.client.choices import (
    ACTIVATIONS,
    CUTS,
    DURABILITIES,
    ActivationName,
    CutName,
    DurabilityName,
    choice,
    number,
)
from deadheat.client.inquiries import Inquiries
from deadheat.client.jobs import Job
from deadheat.client.progress import shown
from deadheat.client.transfers import Transfers
from deadheat.runtime import hosts, rpc, wire
from deadheat.runtime.errors import DeadheatError
from deadheat.runtime.ids import new_id
from deadheat.runtime.programs import (
    Chain,
    Gemm,
    Operand,
    Program,
    chain_program,
    gemm_program,
)
from deadheat.v1 import job_pb2

#: A job's program, once its operands are known by their ids in the store.
MakeProgram = Callable[[tuple[Operand, ...]], Program]


class Products(Inquiries):
    """The part of `Client` that multiplies."""

    _transfers: Transfers

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
        progress: bool | None = None,
    ) -> Array:
        """`activation(alpha * a @ b + bias)`, with NumPy's semantics for 1 and 2 dimensions.

        Args:
            a: m x k; an array, anything NumPy or DLPack can read, or the path of a `.npy` file.
            b: k x n, likewise.
            bias: n elements, added to each row.
            alpha: A factor; other than 1 for floating-point and complex dtypes only.
            activation: Applied to each element; real floating-point dtypes only.
            cut: How rows are shared out; all but "balanced" are there to be compared with.
            timeout: Seconds after which the job fails. None: no limit.
            durability: "power" has the operands on disk before the job is accepted.
            progress: Show a progress bar; None: if stderr is a terminal.

        Returns:
            An m x n array of NumPy's result dtype. It is yours: changing it changes nothing else.

        Raises:
            InvalidInput: Shapes, dtypes or options do not fit; the message says which and why.
            LimitReached: The cluster has no room for it.
            TimedOut: `timeout` is over.
            JobFailed: The cluster could not compute it; `cause` is the reason's code.

        """
        job = self.submit_matmul(
            a,
            b,
            bias=bias,
            alpha=alpha,
            activation=activation,
            cut=cut,
            timeout=timeout,
            durability=durability,
            _keep=False,
        )
        return _awaited(job, progress)

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
        _keep: bool = True,
    ) -> Job:
        """Like `matmul`, but returns a future as soon as the cluster has accepted the job. Its
        result stays with the cluster for a day, for others to fetch by the job's id."""
        checked = arrays.product(a, b, bias)
        kind = Gemm(
            transpose_a=checked.a.is_transposed,
            transpose_b=checked.b.is_transposed,
            alpha=number(alpha, "alpha"),
            activation=choice(activation, "activation", ACTIVATIONS),
        )
        return self._submit_checked(
            checked,
            lambda operands: gemm_program(operands, kind),
            job_pb2.JOB_KIND_MATMUL,
            _policy(cut, durability, timeout),
            keep=_keep,
        )

    # Chains

    def multi_dot(
        self,
        matrices: Iterable[ArrayLike],
        *,
        cut: CutName = "balanced",
        timeout: float | None = None,
        durability: DurabilityName = "process",
        progress: bool | None = None,
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
            progress: Show a progress bar; None: if stderr is a terminal.

        Returns:
            As `numpy.linalg.multi_dot`: 2-D, or with 1-D ends 1-D or a scalar. It is yours.

        Raises:
            InvalidInput: Fewer than two matrices, or shapes and dtypes that do not fit.
            LimitReached: The cluster has no room for it.
            TimedOut: `timeout` is over.
            JobFailed: The cluster could not compute it; `cause` is the reason's code.

        """
        job = self.submit_multi_dot(
            matrices, cut=cut, timeout=timeout, durability=durability, _keep=False
        )
        return _awaited(job, progress)

    def submit_multi_dot(
        self,
        matrices: Iterable[ArrayLike],
        *,
        cut: CutName = "balanced",
        timeout: float | None = None,
        durability: DurabilityName = "process",
        _keep: bool = True,
    ) -> Job:
        """Like `multi_dot`, but returns a future as soon as the cluster has accepted the job. Its
        result stays with the cluster for a day, for others to fetch by the job's id."""
        checked = arrays.chain(matrices)
        transposed = [index for index, s in enumerate(checked.sources) if s.is_transposed]
        kind = Chain(tuple(transposed))
        return self._submit_checked(
            checked,
            lambda operands: chain_program(operands, kind),
            job_pb2.JOB_KIND_CHAIN,
            _policy(cut, durability, timeout),
            keep=_keep,
        )

    # Submitting

    def _submit_checked(
        self,
        checked: Checked,
        program: MakeProgram,
        kind: job_pb2.JobKind.ValueType,
        policy: job_pb2.JobPolicy,
        *,
        keep: bool,
    ) -> Job:
        # What is wrong is said before anything is uploaded.
        program(checked.placeholders())
        return self._loop.call(self._submit(checked, program, kind, policy, keep))

    async def _submit(
        self,
        checked: Checked,
        program: MakeProgram,
        kind: job_pb2.JobKind.ValueType,
        policy: job_pb2.JobPolicy,
        keep: bool,
    ) -> Job:
        await self._connection.open()  # The store may have been started anew since.
        operands = await self._upload(checked, policy)
        try:
            request = job_pb2.JobServiceSubmitRequest(
                request_id=new_id("r"),
                program=wire.program_to_wire(program(operands)),
                policy=policy,
                kind=kind,
                user=hosts.user_name(),
            )
            job_id = await self._accepted(request)
        finally:
            # The job holds what it needs; for anybody else these matrices have no name.
            await self._transfers.give_up_all(operands)
        job = Job(self, job_id)
        self._watch(job, checked.result_shape, keep)
        return job

    async def _accepted(self, request: job_pb2.JobServiceSubmitRequest) -> str:
        """The id of the job as which a program was accepted. Who is interrupted meanwhile leaves
        no job behind of which nobody knows."""
        asking = asyncio.create_task(self._ask_to_submit(request))
        try:
            return await asyncio.shield(asking)
        except asyncio.CancelledError:
            with suppress(DeadheatError, grpc.RpcError):
                withdrawal = job_pb2.JobServiceCancelRequest(
                    request_id=new_id("r"), job_id=await asking, user=request.user
                )
                await self._connection.jobs.Cancel(withdrawal, timeout=rpc.CALL_TIMEOUT_S)
            raise

    async def _ask_to_submit(self, request: job_pb2.JobServiceSubmitRequest) -> str:
        with rpc.translated("submitting"):
            answer = await self._connection.jobs.Submit(request, timeout=rpc.CALL_TIMEOUT_S)
        return answer.job_id

    async def _upload(self, checked: Checked, policy: job_pb2.JobPolicy) -> tuple[Operand, ...]:
        types = [source.stored_type(checked.dtype) for source in checked.sources]
        total = sum(matrix.size_bytes for matrix in types)
        inline = total <= self._connection.inline_limit_bytes
        durable = policy.durability == job_pb2.DURABILITY_POWER
        return await self._transfers.upload_all(
            checked.sources, checked.dtype, inline=inline, durable=durable
        )

    def _watch(self, job: Job, shape: tuple[int, ...] | None, keep: bool) -> None:
        """Follows a job to its end; `Client` does."""
        raise NotImplementedError


def _awaited(job: Job, progress: bool | None) -> Array:
    """The result of a job that nobody else waits for: Ctrl-C cancels it."""
    try:
        with shown(job, progress):
            result: Array = job.result()
    except KeyboardInterrupt:
        with suppress(DeadheatError):
            job.cancel()
        raise
    return result


def _policy(cut: str, durability: str, timeout_s: float | None) -> job_pb2.JobPolicy:
    return job_pb2.JobPolicy(
        cut=choice(cut, "cut", CUTS),
        durability=choice(durability, "durability", DURABILITIES),
        timeout_s=None if timeout_s is None else number(timeout_s, "timeout"),
    )
