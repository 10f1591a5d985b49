"""gRPC as deadheat uses it: channels, servers, and one table from errors to status and back."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Final, NoReturn, cast

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from deadheat.runtime import errors, logs
from deadheat.runtime.credentials import (
    TlsFiles,
    channel_credentials,
    is_loopback,
    server_credentials,
)
from deadheat.runtime.units import KIB, MIB

log = logs.get("rpc")

#: Operands and results of a job up to this size together travel inside Submit and Watch.
INLINE_LIMIT_BYTES: Final = 256 * KIB
#: Blocks stream in pieces of this size: larger ones hold the interpreter lock for longer.
CHUNK_BYTES: Final = MIB
#: Largest message that a server takes. A chunk, a program or an inline result all fit.
MESSAGE_LIMIT_BYTES: Final = 3 * MIB
#: Largest message that a client takes from its own server (a report with many placements).
REPORT_LIMIT_BYTES: Final = 64 * MIB
#: Every unary call ends within this; streams carry deadlines of their own.
CALL_TIMEOUT_S: Final = 20.0

KEEPALIVE_TIME_MS: Final = 10_000
KEEPALIVE_TIMEOUT_MS: Final = 5_000
#: Half of the clients' interval: a server that tolerates less answers too_many_pings.
MIN_PING_INTERVAL_MS: Final = KEEPALIVE_TIME_MS // 2
HANDSHAKE_TIMEOUT_MS: Final = 10_000
MAX_STREAMS_PER_CONNECTION: Final = 1_000

#: Calls that stream, by service and method. gRPC is not to try these again: whoever streams knows
#: himself where to go on. And its core aborts the process when a message longer than it keeps for
#: that (256 KiB; a chunk is longer) is sent while it waits before the next try (seen in 1.85).
STREAMS: Final = (
    ("deadheat.v1.AgentService", "Session"),
    ("deadheat.v1.ExchangeService", "Exchange"),
    ("deadheat.v1.JobService", "Watch"),
    ("deadheat.v1.MatrixService", "Get"),
    ("deadheat.v1.MatrixService", "Put"),
)
#: Unary calls are idempotent (request ids), so a broken connection is tried again by gRPC itself.
_SERVICE_CONFIG: Final = json.dumps(
    {
        "methodConfig": [
            {"name": [{"service": service, "method": method} for service, method in STREAMS]},
            {
                "name": [{}],
                "retryPolicy": {
                    "maxAttempts": 4,
                    "initialBackoff": "0.1s",
                    "maxBackoff": "1s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            },
        ],
        "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1},
    }
)

#: What connect(2) and its like may say.
_SYSTEM_WORDS: Final = frozenset(map(os.strerror, errno.errorcode))
_DOMAIN: Final = "deadheat"

STATUS: Final[dict[str, grpc.StatusCode]] = {
    errors.InvalidInput.code: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFound.code: grpc.StatusCode.NOT_FOUND,
    errors.Conflict.code: grpc.StatusCode.FAILED_PRECONDITION,
    errors.PermissionRefused.code: grpc.StatusCode.PERMISSION_DENIED,
    errors.Unavailable.code: grpc.StatusCode.UNAVAILABLE,
    errors.LimitReached.code: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.StaleAttempt.code: grpc.StatusCode.ABORTED,
    errors.DataLost.code: grpc.StatusCode.DATA_LOSS,
    errors.TimedOut.code: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.JobFailed.code: grpc.StatusCode.INTERNAL,
    errors.JobCancelled.code: grpc.StatusCode.CANCELLED,
    errors.DeadheatError.code: grpc.StatusCode.INTERNAL,
}
_BY_STATUS: Final = {
    grpc.StatusCode.UNAVAILABLE: errors.Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.TimedOut,
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidInput,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.LimitReached,
}

Options = list[tuple[str, str | int]]


def channel_options(address: str, *, receive_limit_bytes: int = REPORT_LIMIT_BYTES) -> Options:
    options: Options = [
        ("grpc.max_receive_message_length", receive_limit_bytes),
        ("grpc.max_send_message_length", MESSAGE_LIMIT_BYTES),
        ("grpc.keepalive_time_ms", KEEPALIVE_TIME_MS),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.service_config", _SERVICE_CONFIG),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2_000),
        # Connections of its own. Who shares one that is broken hears of somebody else's last try,
        # until it is time for the next: a new client would not find a scheduler that is back.
        ("grpc.use_local_subchannel_pool", 1),
    ]
    if address.startswith("unix") or is_loopback(split_address(address)[0]):
        # An http_proxy in the environment must not get traffic that never leaves the machine.
        options.append(("grpc.enable_http_proxy", 0))
    return options


def data_options(address: str) -> Options:
    """Options of a channel of its own for blocks, so that they never delay a heartbeat."""
    return [
        *channel_options(address, receive_limit_bytes=MESSAGE_LIMIT_BYTES),
        ("grpc.http2.lookahead_bytes", 8 * MIB),
        ("grpc.http2.max_frame_size", 4 * MIB),
    ]


def server_options() -> Options:
    return [
        ("grpc.so_reuseport", 0),  # With 1, two schedulers could share a port unnoticed.
        ("grpc.max_receive_message_length", MESSAGE_LIMIT_BYTES),
        ("grpc.max_send_message_length", REPORT_LIMIT_BYTES),
        ("grpc.http2.min_ping_interval_without_data_ms", MIN_PING_INTERVAL_MS),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.keepalive_time_ms", KEEPALIVE_TIME_MS),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_TIMEOUT_MS),
        ("grpc.max_concurrent_streams", MAX_STREAMS_PER_CONNECTION),
        ("grpc.http2.lookahead_bytes", 8 * MIB),
        ("grpc.http2.max_frame_size", 4 * MIB),
    ]


def split_address(address: str) -> tuple[str, int]:
    """Host and port of "HOST:PORT"; raises InvalidInput naming what is wrong."""
    host, colon, port = address.rpartition(":")
    if not colon or not host:
        raise InvalidAddress(address, "it must be HOST:PORT")
    if not (port.isascii() and port.isdecimal() and int(port) < 1 << 16):
        raise InvalidAddress(address, f"port {port!r} must be 0 to 65535")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise InvalidAddress(address, "an IPv6 address needs brackets, as in [::1]:7433")
    return host, int(port)


class InvalidAddress(errors.InvalidInput):
    """An address is not HOST:PORT."""

    def __init__(self, address: str, problem: str) -> None:
        super().__init__(f"address {address!r}: {problem}", field="address")


def sync_channel(address: str, tls: TlsFiles | None, options: Options) -> grpc.Channel:
    if tls is None:
        return grpc.insecure_channel(address, options=options)
    return grpc.secure_channel(address, channel_credentials(tls), options=options)


def aio_channel(address: str, tls: TlsFiles | None, options: Options) -> grpc.aio.Channel:
    if tls is None:
        return grpc.aio.insecure_channel(address, options=options)
    return grpc.aio.secure_channel(address, channel_credentials(tls), options=options)


def open_port(server: grpc.aio.Server, address: str, tls: TlsFiles | None) -> int:
    """Binds the server; returns the port. Raises Unavailable if the port is taken."""
    try:
        if tls is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, server_credentials(tls))
    except RuntimeError:
        port = 0
    if not port:
        raise errors.Unavailable(
            f"cannot listen on {address}: the port is in use or the address is not ours",
            field="listen",
        )
    return port


def to_status(error: errors.DeadheatError) -> grpc.Status:
    """The rich status of an error: its code and field travel as google.rpc.ErrorInfo."""
    info = error_details_pb2.ErrorInfo(
        reason=error.code, domain=_DOMAIN, metadata={"field": error.field}
    )
    detail = any_pb2.Any()
    detail.Pack(info)
    status = STATUS.get(error.code, grpc.StatusCode.INTERNAL)
    rich = status_pb2.Status(code=status.value[0], message=error.message, details=[detail])
    return cast("grpc.Status", rpc_status.to_status(rich))


def from_rpc_error(error: grpc.RpcError, *, doing: str) -> errors.DeadheatError:
    """The DeadheatError that a failed call stands for; `doing` says what was tried."""
    call = cast("grpc.Call", error)
    if said := _said_by_us(call):
        info, message = said
        return errors.from_code(info.reason, message, field=info.metadata["field"])
    kind = _BY_STATUS.get(call.code(), errors.ClusterError)
    return kind(f"{doing}: {_cause(call.details() or call.code().name)}")


def _cause(words: str) -> str:
    """What the system said, where gRPC wraps it in "failed to connect to all addresses; last error:
    UNKNOWN: ipv4:...: Failed to connect to remote host: Connection refused"."""
    last = words.rpartition(": ")[2]
    return last if "last error: " in words and last in _SYSTEM_WORDS else words


def is_said_by_us(error: grpc.RpcError) -> bool:
    """Whether the other end refused the call itself, and not gRPC or the network between."""
    return _said_by_us(cast("grpc.Call", error)) is not None


def _said_by_us(call: grpc.Call) -> tuple[error_details_pb2.ErrorInfo, str] | None:
    try:
        rich = rpc_status.from_call(call)
        for detail in rich.details if rich else ():
            info = error_details_pb2.ErrorInfo()
            if detail.Unpack(info) and info.domain == _DOMAIN:
                return info, rich.message
    except (ValueError, DecodeError):
        pass  # What came does not fit together: it was damaged on its way.
    return None


class translated:  # noqa: N801 - used like a function.
    """gRPC's errors as ours; `doing` says what was tried.

    No generator, which would keep the error's frames. They have the call, and that has the channel:
    as long as somebody kept our error, a channel that was closed would connect, again and again.
    """

    def __init__(self, doing: str) -> None:
        self._doing = doing

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        found = self._found(error)
        if error and found:
            error.__traceback__ = None
            del error, trace
            raise found from None

    def _found(self, error: BaseException | None) -> errors.DeadheatError | None:
        """What it stands for, if it is not to be raised itself."""
        if isinstance(error, grpc.RpcError):
            return from_rpc_error(error, doing=self._doing)
        return None


Handler = Any


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Turns DeadheatErrors into rich statuses, and anything else into a logged INTERNAL."""

    async def intercept_service(
        self, continuation: Any, handler_call_details: grpc.HandlerCallDetails
    ) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = str(handler_call_details.method)
        if handler.response_streaming:
            name = "stream_stream" if handler.request_streaming else "unary_stream"
            wrapped = _guard_stream(getattr(handler, name), method)
        else:
            name = "stream_unary" if handler.request_streaming else "unary_unary"
            wrapped = _guard_unary(getattr(handler, name), method)
        make = getattr(grpc, f"{name}_rpc_method_handler")
        return make(
            wrapped,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )


def _guard_unary(behaviour: Handler, method: str) -> Handler:
    async def guarded(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        try:
            return await behaviour(request, context)
        except Exception as error:  # noqa: BLE001 - _abort logs what it does not know.
            await _abort(error, context, method)

    return guarded


def _guard_stream(behaviour: Handler, method: str) -> Handler:
    async def guarded(
        request: Any, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[Any]:
        try:
            async for response in behaviour(request, context):
                yield response
        except Exception as error:  # noqa: BLE001 - _abort logs what it does not know.
            await _abort(error, context, method)

    return guarded


async def _abort(
    error: Exception, context: grpc.aio.ServicerContext[Any, Any], method: str
) -> NoReturn:
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if not isinstance(error, errors.DeadheatError):
        log.error("call failed", exc_info=error, extra=logs.keys("call", method=method))
        error = errors.DeadheatError(f"{method}: {type(error).__name__}; see the server's log")
    await context.abort_with_status(to_status(error))
    raise AssertionError("abort_with_status always raises")
