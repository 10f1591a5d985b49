"""Every error that deadheat raises on purpose, under one root.

Rules of this file: a class's docstring is its default message; `code` is the stable word that
scripts may test for and that crosses the wire; what a user can mend is a `UserError`, what only
we or the machine can mend is a `ClusterError`. `deadheat.runtime.rpc` maps codes to gRPC status.
"""

from __future__ import annotations

from typing import ClassVar


class DeadheatError(Exception):
    """Something went wrong in deadheat."""

    code: ClassVar[str] = "internal"

    def __init__(self, message: str | None = None, *, field: str = "") -> None:
        super().__init__(message or (self.__doc__ or "").strip())
        self.field = field

    @property
    def message(self) -> str:
        return str(self.args[0])


class UserError(DeadheatError):
    """The request cannot be met as it is."""


class InvalidInput(UserError, ValueError):
    """A value is not valid; the message names it, what it is and what it may be."""

    code = "invalid_input"


class NotFound(UserError, LookupError):
    """There is no such thing."""

    code = "not_found"


class Conflict(UserError):
    """The thing is not in a state that allows this."""

    code = "conflict"


class PermissionRefused(UserError):
    """The caller may not do this."""

    code = "permission_refused"


class ClusterError(DeadheatError):
    """The cluster could not do its part."""


class Unavailable(ClusterError):
    """The other side cannot be reached."""

    code = "unavailable"


class LimitReached(ClusterError):
    """A named limit is used up."""

    code = "limit_reached"


class StaleAttempt(ClusterError):
    """A newer attempt has taken this one's place; its result is refused."""

    code = "stale_attempt"


class DataLost(ClusterError):
    """Bytes are missing or do not match their checksum."""

    code = "data_lost"


class TimedOut(ClusterError, TimeoutError):
    """It was not finished in the time allowed."""

    code = "timed_out"


class JobFailed(ClusterError):
    """The job failed."""

    code = "job_failed"

    def __init__(self, message: str | None = None, *, field: str = "", cause: str = "") -> None:
        super().__init__(message, field=field)
        self.cause = cause or self.code


class JobCancelled(ClusterError):
    """The job was cancelled."""

    code = "cancelled"


def _leaves(root: type[DeadheatError]) -> dict[str, type[DeadheatError]]:
    found = {root.code: root}
    for child in root.__subclasses__():
        found |= {code: cls for code, cls in _leaves(child).items() if code != root.code}
    return found


#: The class for each code, so that an error arrives at the client as what it was.
BY_CODE: dict[str, type[DeadheatError]] = _leaves(DeadheatError)


def from_code(code: str, message: str, *, field: str = "") -> DeadheatError:
    """The error that `code` stands for; an unknown code (a newer server) becomes a ClusterError."""
    return BY_CODE.get(code, ClusterError)(message, field=field)
