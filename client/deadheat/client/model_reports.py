"""What is known of a version of a model, as Python and JSON see it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from deadheat.client import arrays
from deadheat.client.arrays import ArrayLike
from deadheat.client.reports import iso
from deadheat.runtime import wire
from deadheat.runtime.dtypes import name_of
from deadheat.v1 import model_pb2 as pb


@dataclass(frozen=True)
class Model:
    """A version of a model that the cluster keeps.

    `inputs` and `outputs` are columns of samples and results, and `dtype` is theirs; all three are
    None for a model that cannot be served. `metadata` is what `save` was given; `data_hash`,
    `training` and `code_version` say of which data, by which training (None: not said, or not
    asked for, as in a list) and by which deadheat it was made.
    """

    name: str
    version: int
    user: str
    created_at: str
    size_bytes: int
    inputs: int | None
    outputs: int | None
    dtype: str | None
    metadata: Mapping[str, Any]
    data_hash: str | None
    code_version: str
    training: Mapping[str, Any] | None = None
    layers: Sequence[Mapping[str, Any]] | None = None

    def as_dict(self) -> dict[str, Any]:
        """As `deadheat models show --json` prints it."""
        return asdict(self)

    @staticmethod
    def of(message: pb.Model) -> Model:
        if message.HasField("samples"):
            samples = wire.matrix_type_from_wire(message.samples, field="samples")
        else:
            samples = None
        return Model(
            name=message.name,
            version=message.version,
            user=message.user,
            created_at=iso(message.created_at),
            size_bytes=message.size_bytes,
            inputs=samples.columns if samples else None,
            outputs=message.outputs.columns if samples else None,
            dtype=samples.dtype if samples else None,
            metadata=json.loads(message.metadata),
            data_hash=message.data_hash or None,
            code_version=message.code_version,
            training=json.loads(message.training) if message.training else None,
            layers=json.loads(message.layers) if message.layers else None,
        )


def content_hash(data: ArrayLike | Sequence[ArrayLike]) -> str:
    """A hash of arrays: of their dtypes, shapes and elements."""
    found = hashlib.blake2b(digest_size=32)
    parts = data if isinstance(data, (tuple, list)) else (data,)
    for number_, part in enumerate(parts):
        array = np.ascontiguousarray(arrays.array_of(part, f"data[{number_}]"))
        found.update(f"{name_of(array.dtype, field='data')} {array.shape}\n".encode())
        found.update(array.reshape(-1).view(np.uint8).data)
    return f"blake2b:{found.hexdigest()}"
