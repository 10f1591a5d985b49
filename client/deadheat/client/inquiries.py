"""What a client can ask of a cluster besides products: jobs, nodes, reasons."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deadheat.client import estimates
from deadheat.client.arrays import ArrayLike
from deadheat.client.choices import CUTS, PRECISIONS, CutName, PrecisionName, choice, number
from deadheat.client.estimates import Estimate
from deadheat.client.link import Link
from deadheat.client.reports import Report, job_state_name, node_as_dict
from deadheat.runtime import hosts, rpc, wire
from deadheat.runtime.errors import Unavailable
from deadheat.runtime.ids import new_id
from deadheat.runtime.precisions import with_precision
from deadheat.v1 import cluster_pb2, job_pb2


class Inquiries:
    """The part of `Client` that only asks and operates. `job_id` may be "last": the newest job of
    this user."""

    def __init__(self, link: Link | None) -> None:
        #: None: there is no cluster, and all is computed in this process.
        self._linked = link

    @property
    def _link(self) -> Link:
        """The way to the cluster; raises Unavailable where there is none."""
        if self._linked is None:
            raise Unavailable("there is no cluster: this client only computes by itself")
        return self._linked

    def _get(self, job_id: str) -> job_pb2.Job:
        request = job_pb2.JobServiceGetRequest(job_id=job_id, user=hosts.user_name())

        async def get() -> job_pb2.Job:
            with rpc.translated(f"asking for job {job_id}"):
                answer = await self._link.connection.jobs.Get(request, timeout=rpc.CALL_TIMEOUT_S)
            return answer.job

        return self._link.call(get())

    def report(self, job_id: str) -> Report:
        """The report of a job; raises NotFound."""
        return Report.of(self._get(job_id))

    def reports(self, *, limit: int = 100) -> list[Report]:
        """The jobs of this user, newest first, without devices and placements."""
        request = job_pb2.JobServiceListRequest(user=hosts.user_name(), limit=limit)

        async def list_jobs() -> Sequence[job_pb2.Job]:
            with rpc.translated("listing jobs"):
                answer = await self._link.connection.jobs.List(request, timeout=rpc.CALL_TIMEOUT_S)
            return answer.jobs

        return [Report.of(job) for job in self._link.call(list_jobs())]

    def cancel(self, job_id: str) -> str:
        """Cancels a job; returns its state then. One that had ended stays as it is."""
        request = job_pb2.JobServiceCancelRequest(
            request_id=new_id("r"), job_id=job_id, user=hosts.user_name()
        )

        async def cancel() -> str:
            with rpc.translated(f"cancelling job {job_id}"):
                answer = await self._link.connection.jobs.Cancel(
                    request, timeout=rpc.CALL_TIMEOUT_S
                )
            return job_state_name(answer.state)

        return self._link.call(cancel())

    def explain(self, job_id: str, *, as_json: bool = False) -> str:
        """Why each device got its share of a job, as text or as a JSON document."""
        request = job_pb2.JobServiceExplainRequest(job_id=job_id, user=hosts.user_name())

        async def explain() -> str:
            with rpc.translated(f"explaining job {job_id}"):
                answer = await self._link.connection.jobs.Explain(
                    request, timeout=rpc.CALL_TIMEOUT_S
                )
            return answer.json if as_json else answer.text

        return self._link.call(explain())

    def estimate(
        self,
        *product: Any,
        bias: ArrayLike | None = None,
        dtype: str | None = None,
        cut: CutName = "balanced",
        timeout: float | None = None,
        precision: PrecisionName = "strict",
    ) -> Estimate:
        """What a product would cost on the pool as it is now; nothing is uploaded or run.

        Args:
            product: Either the matrices a and b as `matmul` takes them (of files, the headers
                are read), or the sizes m, k, n of m x k by k x n.
            bias: As in `matmul`; with matrices only.
            dtype: With sizes only; None: float64.
            cut: How rows would be shared out.
            timeout: The limit in seconds that the job would have: it is said whether it fits.
            precision: As in `matmul`.

        Raises:
            InvalidInput: Shapes, dtypes or options do not fit; the message says which and why.
            LimitReached: Too many ask at once.

        """
        least = choice(precision, "precision", PRECISIONS)
        program = with_precision(estimates.outline(product, bias, dtype), least)
        limit_s = None if timeout is None else number(timeout, "timeout")
        policy = job_pb2.JobPolicy(cut=choice(cut, "cut", CUTS), timeout_s=limit_s)
        request = job_pb2.JobServiceEstimateRequest(
            program=wire.outline_to_wire(program), policy=policy
        )

        async def ask() -> job_pb2.JobServiceEstimateResponse:
            with rpc.translated("estimating"):
                return await self._link.connection.jobs.Estimate(
                    request, timeout=rpc.CALL_TIMEOUT_S
                )

        return Estimate.of(program, self._link.call(ask()))

    def nodes(self) -> list[dict[str, Any]]:
        """The pool: each node with its devices, as `deadheat nodes --json` prints them."""

        async def list_nodes() -> Sequence[cluster_pb2.Node]:
            request = cluster_pb2.ClusterServiceListNodesRequest()
            with rpc.translated("listing nodes"):
                answer = await self._link.connection.cluster.ListNodes(
                    request, timeout=rpc.CALL_TIMEOUT_S
                )
            return answer.nodes

        return [node_as_dict(node) for node in self._link.call(list_nodes())]

    def drain(self, node: str, reason: str = "") -> None:
        """No new work for a node; what it has, it finishes."""
        request = cluster_pb2.ClusterServiceDrainRequest(
            request_id=new_id("r"), node=node, reason=reason
        )

        async def drain() -> None:
            with rpc.translated(f"draining {node}"):
                await self._link.connection.cluster.Drain(request, timeout=rpc.CALL_TIMEOUT_S)

        self._link.call(drain())

    def resume(self, node: str) -> None:
        """Undoes `drain`."""
        request = cluster_pb2.ClusterServiceResumeRequest(request_id=new_id("r"), node=node)

        async def resume() -> None:
            with rpc.translated(f"resuming {node}"):
                await self._link.connection.cluster.Resume(request, timeout=rpc.CALL_TIMEOUT_S)

        self._link.call(resume())
