"""Errors: one root, one table, the same error on both sides of the wire."""

from __future__ import annotations

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from deadheat.runtime import errors, rpc


def test_every_error_has_a_status() -> None:
    assert set(errors.BY_CODE) - {"illegal_transition"} <= set(rpc.STATUS)


def test_the_docstring_is_the_default_message() -> None:
    assert errors.DataLost().message == "Bytes are missing or do not match their checksum."


def test_users_may_catch_what_python_calls_it() -> None:
    assert issubclass(errors.InvalidInput, ValueError)
    assert issubclass(errors.TimedOut, TimeoutError)
    assert issubclass(errors.NotFound, LookupError)


@pytest.mark.parametrize("code", sorted(rpc.STATUS))
def test_status_carries_code_field_and_message(code: str) -> None:
    error = errors.from_code(code, "rows is -1; it may be 0 or more", field="rows")
    status = rpc.to_status(error)
    assert status.code is rpc.STATUS[code]
    assert status.details == error.message
    rich = status_pb2.Status.FromString(dict(status.trailing_metadata)["grpc-status-details-bin"])
    info = error_details_pb2.ErrorInfo()
    detail: any_pb2.Any = rich.details[0]
    assert detail.Unpack(info)
    assert (info.reason, info.metadata["field"]) == (code, "rows")


def test_an_unknown_code_of_a_newer_server_is_still_an_error_of_ours() -> None:
    assert isinstance(errors.from_code("something_new", "?"), errors.ClusterError)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("localhost", "HOST:PORT"),
        (":7433", "HOST:PORT"),
        ("host:port", "port 'port'"),
        ("host:70000", "port '70000'"),
        ("::1:7433", "brackets"),
    ],
)
def test_a_wrong_address_is_named(address: str, words: str) -> None:
    with pytest.raises(errors.InvalidInput, match=words):
        rpc.split_address(address)


def test_loopback_channels_use_no_proxy() -> None:
    def uses_no_proxy(address: str) -> bool:
        return ("grpc.enable_http_proxy", 0) in rpc.channel_options(address)

    assert uses_no_proxy("127.0.0.1:7433")
    assert uses_no_proxy("[::1]:7433")
    assert uses_no_proxy("localhost:7433")
    assert not uses_no_proxy("10.1.2.3:7433")


def test_clients_ping_no_faster_than_servers_allow() -> None:
    client = dict(rpc.channel_options("127.0.0.1:1"))
    server = dict(rpc.server_options())
    least = server["grpc.http2.min_ping_interval_without_data_ms"]
    assert int(client["grpc.keepalive_time_ms"]) > int(least)
    assert server["grpc.so_reuseport"] == 0
    assert isinstance(grpc.StatusCode.OK, grpc.StatusCode)
