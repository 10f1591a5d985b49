"""ClusterService: what operators ask, and where clients find the store."""

from __future__ import annotations

from typing import Any

import grpc

from deadheat.runtime import hosts, rpc, version
from deadheat.runtime.errors import NotFound
from deadheat.scheduler.core import events, sharing
from deadheat.scheduler.core.machine import NodeState
from deadheat.scheduler.core.state import Device, Node
from deadheat.scheduler.service import convert, gpus, machines
from deadheat.scheduler.service.once import Once
from deadheat.scheduler.service.shell import Shell
from deadheat.scheduler.service.storelink import StoreLink
from deadheat.v1 import cluster_pb2 as pb
from deadheat.v1 import cluster_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]


class ClusterServicer(cluster_pb2_grpc.ClusterServiceServicer):
    def __init__(self, shell: Shell, store: StoreLink, cluster_id: str) -> None:
        self._shell = shell
        self._store = store
        self._cluster_id = cluster_id
        self._once = Once()

    async def GetCluster(
        self, request: pb.ClusterServiceGetClusterRequest, context: Context
    ) -> pb.ClusterServiceGetClusterResponse:
        return pb.ClusterServiceGetClusterResponse(
            cluster_id=self._cluster_id,
            version=version.VERSION,
            store=self._store.endpoint,
            inline_limit_bytes=rpc.INLINE_LIMIT_BYTES,
            user=hosts.user_name(),
            blocks_travel=sharing.blocks_travel(self._shell.core.world),
        )

    async def ListNodes(
        self, request: pb.ClusterServiceListNodesRequest, context: Context
    ) -> pb.ClusterServiceListNodesResponse:
        nodes = sorted(self._shell.core.world.nodes.values(), key=lambda node: node.name)
        return pb.ClusterServiceListNodesResponse(nodes=[self._node(node) for node in nodes])

    async def Drain(
        self, request: pb.ClusterServiceDrainRequest, context: Context
    ) -> pb.ClusterServiceDrainResponse:
        async def drain() -> pb.ClusterServiceDrainResponse:
            await self._shell.settle(events.DrainAsked(request.node, request.reason[:256]))
            return pb.ClusterServiceDrainResponse(state=self._state(request.node))

        return await self._once.answer("Drain", request.request_id, drain)

    async def Resume(
        self, request: pb.ClusterServiceResumeRequest, context: Context
    ) -> pb.ClusterServiceResumeResponse:
        async def resume() -> pb.ClusterServiceResumeResponse:
            await self._shell.settle(events.ResumeAsked(request.node))
            return pb.ClusterServiceResumeResponse(state=self._state(request.node))

        return await self._once.answer("Resume", request.request_id, resume)

    def _state(self, name: str) -> pb.NodeState.ValueType:
        node = self._shell.core.world.nodes.get(name)
        if node is None:
            raise NotFound(f"there is no node {name!r}", field="node")
        return convert.NODE_STATES[node.state]

    def _node(self, node: Node) -> pb.Node:
        now, is_known = self._shell.clock.now(), node.state is not NodeState.LOST
        return pb.Node(
            name=node.name,
            state=convert.NODE_STATES[node.state],
            last_seen_s=max(0.0, now - node.heard_s),
            devices=[
                self._device(device, now, is_known=is_known) for device in node.devices.values()
            ],
            host=machines.to_wire(node.machine) if is_known and node.machine else None,
        )

    @staticmethod
    def _device(device: Device, now: float, *, is_known: bool) -> pb.Device:
        facts, newest = device.facts, device.samples[-1] if device.samples else None
        seen = newest if is_known and newest and newest.is_known else None
        problems = (device.problem, device.unknown)
        speeds = {dtype: device.model.peak_flops(dtype) for dtype in device.model.dtypes}
        return pb.Device(
            id=facts.id,
            kind=facts.kind,
            model=facts.model,
            threads=facts.threads,
            memory_bytes=facts.memory_bytes,
            memory_free_bytes=device.memory_free_bytes if seen else None,
            busy=seen.busy if seen else None,
            foreign=seen.foreign if seen else None,
            availability=device.availability(now).mean if seen else None,
            queue_s=device.ready_s(now) if is_known else None,
            speed_flops={dtype: speed for dtype, speed in speeds.items() if speed},
            bad_samples=sum(device.bad_samples.values()),
            yields=device.yields if is_known else "",
            gpu=gpus.to_wire(device.gpu) if device.gpu and is_known else None,
            problem="; ".join(filter(None, problems)) if is_known else "",
        )
