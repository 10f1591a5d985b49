"""The Python API: `Client`, `LocalCluster`, and the futures they return.

>>> from deadheat.client import Client, LocalCluster
"""

from deadheat.client.client import Client, Offline
from deadheat.client.cluster import LocalCluster
from deadheat.client.estimates import Estimate
from deadheat.client.jobs import Job
from deadheat.client.lazy import Lazy
from deadheat.client.model_reports import Model
from deadheat.client.reports import Report
from deadheat.runtime.errors import (
    ClusterError,
    Conflict,
    DataLost,
    DeadheatError,
    InvalidInput,
    JobCancelled,
    JobFailed,
    LimitReached,
    NotFound,
    TimedOut,
    Unavailable,
    UserError,
)

__all__ = [
    "Client",
    "ClusterError",
    "Conflict",
    "DataLost",
    "DeadheatError",
    "Estimate",
    "InvalidInput",
    "Job",
    "JobCancelled",
    "JobFailed",
    "Lazy",
    "LimitReached",
    "LocalCluster",
    "Model",
    "NotFound",
    "Offline",
    "Report",
    "TimedOut",
    "Unavailable",
    "UserError",
]
