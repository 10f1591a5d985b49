"""Small models, and what a cluster keeps of them."""

from __future__ import annotations

from typing import Any

import grpc
import numpy as np

from deadheat.client import LocalCluster, nn
from deadheat.v1 import cluster_pb2, matrix_pb2
from deadheat.v1.cluster_pb2_grpc import ClusterServiceStub
from deadheat.v1.matrix_pb2_grpc import MatrixServiceStub

Array = np.ndarray[Any, Any]


def network(seed: int = 1, dtype: str = "float32") -> nn.MLP:
    return nn.MLP([12, 30, 5], ["gelu", "softmax"], dtype=dtype, seed=seed)


def samples(rows: int, dtype: str = "float32", seed: int = 2) -> Array:
    return np.random.default_rng(seed).standard_normal((rows, 12)).astype(dtype)


def close(made: Array, expected: Array) -> bool:
    return made.dtype == expected.dtype and np.allclose(made, expected, rtol=1e-5, atol=1e-6)


def held(cluster: LocalCluster) -> set[str]:
    """Matrices that are held for models."""
    return held_at(cluster.address)


def held_at(address: str) -> set[str]:
    with grpc.insecure_channel(address) as channel:
        asked = cluster_pb2.ClusterServiceGetClusterRequest()
        store = ClusterServiceStub(channel).GetCluster(asked, timeout=60).store
    with grpc.insecure_channel(f"127.0.0.1:{store.port}") as channel:
        request = matrix_pb2.MatrixServiceListRequest()
        listed = MatrixServiceStub(channel).List(request, timeout=60).matrices
    for_models = [m for m in listed if any(h.startswith("model:") for h in m.holders)]
    assert all(m.place == "disk" and not m.HasField("expires_at") for m in for_models)
    return {matrix.id for matrix in for_models}
