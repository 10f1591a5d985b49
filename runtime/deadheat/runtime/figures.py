"""Messages of figures that are shown to people: which numbers they have, says the wire contract."""

from __future__ import annotations

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message


def numbers(kind: type[Message], *, may_be_absent: bool) -> tuple[str, ...]:
    """Names of a message's numbers: of those that say whether they are known, or of the others.

    >>> from deadheat.v1.cluster_pb2 import GpuSample
    >>> numbers(GpuSample, may_be_absent=False)
    ('processes', 'memory_used_bytes')
    """
    words = (FieldDescriptor.CPPTYPE_STRING, FieldDescriptor.CPPTYPE_MESSAGE)
    return tuple(
        field.name
        for field in kind.DESCRIPTOR.fields
        if field.cpp_type not in words and field.has_presence is may_be_absent
    )
