"""From the table that `tomllib` reads to a scenario; everything is checked before anything runs."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

from deadheat.runtime.dtypes import element_type
from deadheat.runtime.errors import InvalidInput
from deadheat.runtime.programs import MAX_CHAIN
from deadheat.scheduler.planner.inputs import Cut
from deadheat.scheduler.simulator.fields import Table, integer, items_of, number, refuse
from deadheat.scheduler.simulator.programs import program_of
from deadheat.scheduler.simulator.scenario import (
    DeviceSpec,
    Fault,
    FaultKind,
    JobKind,
    JobSpec,
    Scenario,
    Sharing,
)

#: Ten times the pools that we promise to simulate.
MAX_DEVICES: Final = 100_000
#: The core refuses to have more open.
MAX_JOBS: Final = 10_000
MAX_FAULTS: Final = 100_000
#: Steps of one device's load: one a second for a day.
MAX_STEPS: Final = 86_400
#: Losses of the store: one a minute for a week.
MAX_AWAY: Final = 10_000
#: Months of virtual time; a moment beyond is a slip of units.
MAX_TIME_S: Final = 1e7
MAX_NAME: Final = 64
MAX_SIZE: Final = 1 << 31
#: The fastest accelerators do a few 1e6 GFLOP/s; this is also what the planner believes at most.
MAX_GFLOPS: Final = 1e8
MAX_MEMORY_GB: Final = 1e6
MAX_BANDWIDTH_GBPS: Final = 1e5
MAX_LATENCY_MS: Final = 10_000.0
#: Beyond, single panels would take hundreds of times as long as others.
MAX_NOISE: Final = 2.0
#: Threads of others on one core.
MAX_FAIR_LOAD: Final = 1024.0

DEFAULT_GFLOPS: Final = 50.0
DEFAULT_MEMORY_GB: Final = 16.0
LOCAL_LATENCY_MS: Final = 0.2
REMOTE_LATENCY_MS: Final = 0.3


def parse(document: object) -> Scenario:
    """The scenario in a parsed TOML document; raises InvalidInput that names the field, its value
    and what it may be."""
    top = Table(document, "")
    seed = top.integer("seed", 0, low=0, high=(1 << 63) - 1)
    devices = tuple(_devices(top))
    if not devices:
        raise InvalidInput(
            "device is empty; a scenario has at least one [[device]]", field="device"
        )
    jobs = tuple(_job(table) for table in top.tables("job", limit=MAX_JOBS))
    if not jobs:
        raise InvalidInput("job is empty; a scenario has at least one [[job]]", field="job")
    _check_order((job.at_s for job in jobs), "job")
    names = {device.name for device in devices}
    faults = tuple(_fault(table, names) for table in top.tables("fault", limit=MAX_FAULTS))
    _check_order((fault.at_s for fault in faults), "fault")
    store_bandwidth, store_away = _store(top)
    cut = _policy(top)
    top.close()
    return Scenario(seed, devices, jobs, faults, store_bandwidth, store_away, cut)


def _check_order(moments_s: Iterable[float], name: str) -> None:
    before_s = 0.0
    for index, at_s in enumerate(moments_s):
        if at_s < before_s:
            refuse(f"{name}[{index}].at_s", at_s, f"in order of time, at least {before_s:g}")
        before_s = at_s


def _devices(top: Table) -> Iterable[DeviceSpec]:
    seen: set[str] = set()
    for table in top.tables("device", limit=MAX_DEVICES):
        for device in _copies(table):
            if device.name in seen:
                field = table.field("name")
                raise InvalidInput(f"{field}: there are two devices {device.name!r}", field=field)
            if len(seen) >= MAX_DEVICES:
                field = table.field("count")
                raise InvalidInput(f"{field}: more than {MAX_DEVICES} devices in all", field=field)
            seen.add(device.name)
            yield device


def _copies(table: Table) -> Iterable[DeviceSpec]:
    """One device by its plain name, or `count` of them as name-0, name-1, ..."""
    name = table.text("name", None, limit=MAX_NAME)
    is_counted = table.has("count")
    count = table.integer("count", 1, low=1, high=MAX_DEVICES)
    kind = table.get("kind") or "cpu"
    if kind not in ("cpu", "gpu"):
        refuse(table.field("kind"), kind, "'cpu' or 'gpu'")
    gflops = table.number("speed_gflops", DEFAULT_GFLOPS, low=0, high=MAX_GFLOPS, exclusive=True)
    memory_gb = table.number(
        "memory_gb", DEFAULT_MEMORY_GB, low=0, high=MAX_MEMORY_GB, exclusive=True
    )
    is_remote = table.has("bandwidth_gbps")
    gbps = table.number("bandwidth_gbps", 1.0, low=0, high=MAX_BANDWIDTH_GBPS, exclusive=True)
    latency_ms = table.number(
        "latency_ms",
        REMOTE_LATENCY_MS if is_remote else LOCAL_LATENCY_MS,
        low=0,
        high=MAX_LATENCY_MS,
    )
    noise = table.number("noise", 0.0, low=0, high=MAX_NOISE)
    sharing = table.choice("sharing", Sharing.TAKEN)
    foreign = _steps(table, sharing)
    table.close()
    for index in range(count):
        yield DeviceSpec(
            name=f"{name}-{index}" if is_counted else name,
            kind=kind,
            speed_flops=gflops * 1e9,
            memory_bytes=int(memory_gb * 1e9),
            bandwidth_bytes_per_s=gbps * 1e9 / 8 if is_remote else None,
            latency_s=latency_ms / 1e3,
            noise=noise,
            foreign=foreign,
            sharing=sharing,
        )


def _steps(table: Table, sharing: Sharing) -> tuple[tuple[float, float], ...]:
    """Seconds and loads, in order of time."""
    most = 1.0 if sharing is Sharing.TAKEN else MAX_FAIR_LOAD
    field = table.field("foreign")
    steps: list[tuple[float, float]] = []
    for index, step in enumerate(items_of(table.get("foreign"), field, limit=MAX_STEPS)):
        here = f"{field}[{index}]"
        if not isinstance(step, list) or len(step) != 2:
            refuse(here, step, "[second, load of others]")
        at_s = number(step[0], f"{here}[0]", low=0, high=MAX_TIME_S)
        load = number(step[1], f"{here}[1]", low=0, high=most)
        if steps and at_s <= steps[-1][0]:
            refuse(f"{here}[0]", at_s, f"in order of time, after {steps[-1][0]:g}")
        steps.append((at_s, load))
    return tuple(steps)


def _job(table: Table) -> JobSpec:
    at_s = table.number("at_s", 0.0, low=0, high=MAX_TIME_S)
    kind = table.choice("kind", JobKind.MATMUL)
    if kind is JobKind.MATMUL:
        sizes = {name: table.integer(name, None, low=1, high=MAX_SIZE) for name in ("m", "k", "n")}
        dims = tuple(sizes.values())
    else:
        dims = _dims(table)
    dtype = table.text("dtype", "float64", limit=MAX_NAME)
    element_type(dtype, field=table.field("dtype"))
    user = table.text("user", "user", limit=MAX_NAME)
    priority = table.integer("priority", 0, low=-1000, high=1000)
    timeout_s: float | None = None
    if table.has("timeout_s"):
        timeout_s = table.number("timeout_s", 1.0, low=0, high=MAX_TIME_S, exclusive=True)
    else:
        table.get("timeout_s")
    table.close()
    job = JobSpec(at_s, kind, dims, dtype, user, priority, timeout_s)
    try:
        program_of(job)  # A matrix of more than 2^63 bytes, say, is refused here.
    except InvalidInput as error:
        raise InvalidInput(f"{table.path}: {error.message}", field=table.path) from None
    return job


def _dims(table: Table) -> tuple[int, ...]:
    field = table.field("dims")
    dims = items_of(table.get("dims"), field, limit=MAX_CHAIN + 1)
    if len(dims) < 3:
        refuse(field, list(dims), "at least three sizes, those of two matrices")
    return tuple(
        integer(size, f"{field}[{index}]", low=1, high=MAX_SIZE) for index, size in enumerate(dims)
    )


def _fault(table: Table, names: Collection[str]) -> Fault:
    at_s = table.number("at_s", 0.0, low=0, high=MAX_TIME_S)
    device = table.text("device", None, limit=MAX_NAME + 8)
    if device not in names:
        refuse(table.field("device"), device, "the name of a device (name-0, ... where counted)")
    if not table.has("kind"):
        refuse(table.field("kind"), None, "'lost', 'stopped', 'slow' or 'back'")
    kind = table.choice("kind", FaultKind.LOST)
    factor = 1.0
    if kind is FaultKind.SLOW:
        if not table.has("factor"):
            refuse(table.field("factor"), None, "given with kind = 'slow'")
        factor = table.number("factor", 1.0, low=0, high=1000.0, exclusive=True)
    table.close()
    return Fault(at_s, device, kind, factor)


def _store(top: Table) -> tuple[float | None, tuple[tuple[float, float], ...]]:
    """Its port's bandwidth, if it is given, and when it is away."""
    found = top.get("store")
    if found is None:
        return None, ()
    table = Table(found, "store")
    gbps = table.number("bandwidth_gbps", 0.0, low=0, high=MAX_BANDWIDTH_GBPS, exclusive=True)
    away = _away(table)
    table.close()
    return gbps * 1e9 / 8 if gbps else None, away


def _away(table: Table) -> tuple[tuple[float, float], ...]:
    """Moments and durations; one ends before the next begins."""
    field = table.field("away")
    times: list[tuple[float, float]] = []
    for index, time in enumerate(items_of(table.get("away"), field, limit=MAX_AWAY)):
        here = f"{field}[{index}]"
        if not isinstance(time, list) or len(time) != 2:
            refuse(here, time, "[second, for how many seconds]")
        at_s = number(time[0], f"{here}[0]", low=0, high=MAX_TIME_S)
        for_s = number(time[1], f"{here}[1]", low=0, high=MAX_TIME_S, exclusive=True)
        if times and at_s <= sum(times[-1]):
            refuse(f"{here}[0]", at_s, f"after the end of the one before, {sum(times[-1]):g}")
        times.append((at_s, for_s))
    return tuple(times)


def _policy(top: Table) -> Cut:
    found = top.get("policy")
    if found is None:
        return Cut.BALANCED
    table = Table(found, "policy")
    cut = table.choice("cut", Cut.BALANCED)
    table.close()
    return cut
