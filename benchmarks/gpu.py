"""A GPU from end to end: one call of at most eight minutes, a table, targets beside the figures.

The bound of a product from ordinary memory is the longer of two times measured in the same run:
that of cuBLAS with operands on the card, and that of the copies nobody can avoid (each operand in,
the result out, both ways at once) from pinned memory. What uses the card runs in processes of its
own, so that this one holds nothing of it. Also by itself: `python -m benchmarks.gpu`.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import psutil

from benchmarks.checking import SAMPLED_ROWS, Array, Checker, operands
from benchmarks.measuring import Figure, LeftOut, summary
from deadheat.client import Client, Lazy, LocalCluster

#: A card of 80 GB holds three matrices of this size in float32 many times.
SIZE = 16384
BOUND_TARGET = 0.85
#: Half the distance of two numbers of ten bits.
TF32_EPS = 2.0**-11
SPREAD_TARGET = 0.03
REPEATS = 7
#: Products before those that are measured.
#: Products before those that are measured.
WARM_UP = 4
#: Beside somebody else's: they take half as long again.
SHARED_WARM_UP, SHARED_REPEATS = 2, 3
#: All of it.
BUDGET_S = 480.0
#: To start CuPy, and to calibrate.
READY_S = 120.0
#: A load has to last before a plan believes it.
NOTICED_S = 3.0

#: cuBLAS on resident operands, and copies in both directions at once. Prints one JSON object.
BARE = """
import json, sys, time
import cupy
import numpy
size, dtype, repeats = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
# No zeros or ones: for such a card draws less power, and is faster.
a, b = (cupy.random.random((size, size), "float32").astype(dtype) for _ in range(2))
def best(run):
    run()
    cupy.cuda.runtime.deviceSynchronize()
    took = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        cupy.cuda.runtime.deviceSynchronize()
        took.append(time.perf_counter() - started)
    return min(took)
product_s = best(lambda: cupy.matmul(a, b))
size_bytes = min(a.size * a.itemsize, 1 << 28)
pinned = [cupy.cuda.alloc_pinned_memory(size_bytes) for _ in range(2)]
host = [numpy.frombuffer(one, numpy.uint8, size_bytes) for one in pinned]
card = [cupy.empty(size_bytes, numpy.uint8) for _ in range(2)]
streams = [cupy.cuda.Stream(non_blocking=True) for _ in range(2)]
runtime = cupy.cuda.runtime
def copy_in():
    runtime.memcpyAsync(card[0].data.ptr, host[0].ctypes.data, size_bytes,
                        runtime.memcpyHostToDevice, streams[0].ptr)
def copy_out():
    runtime.memcpyAsync(host[1].ctypes.data, card[1].data.ptr, size_bytes,
                        runtime.memcpyDeviceToHost, streams[1].ptr)
def both():
    copy_in()
    copy_out()
name = runtime.getDeviceProperties(0)["name"]
print(json.dumps({"product_s": product_s, "in_rate": size_bytes / best(copy_in),
                  "both_rate": size_bytes / best(both), "card": name.decode()}))
"""

#: Somebody else's products, until the pipe closes.
FOREIGN = """
import sys, threading
import cupy
ended = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
a = cupy.random.random((int(sys.argv[1]),) * 2, "float32")
print("ready", flush=True)
while not ended.is_set():
    cupy.matmul(a, a)
    cupy.cuda.runtime.deviceSynchronize()
"""


def run(*, size: int = SIZE, repeats: int = REPEATS) -> Iterator[Figure]:
    """Raises LeftOut on a machine without a card, or without CuPy."""
    if importlib.util.find_spec("cupy") is None:
        raise LeftOut("CuPy is not installed (deadheat[cuda12] or deadheat[cuda13])")
    began_s = time.monotonic()
    for part in (_alone(size, repeats), _together(size, repeats)):
        # The second part takes a bit more than twice as long as the first.
        if 3.5 * (time.monotonic() - began_s) > BUDGET_S:
            raise LeftOut(f"no time is left of {BUDGET_S:.0f} s for the rest")
        yield from part


def _bare(size: int, dtype: str, repeats: int, *, is_tf32: bool = False) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", BARE, str(size), dtype, str(repeats)],
        env={**os.environ, "CUPY_TF32": "1" if is_tf32 else "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise LeftOut(f"CuPy does not compute here: {done.stderr.strip().splitlines()[-1:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _copies_s(bare: dict[str, Any], size: int, dtype: str) -> float:
    """Two operands go in while one result goes out: of the former, one alone."""
    matrix_bytes = size * size * np.dtype(dtype).itemsize
    return float(matrix_bytes / bare["both_rate"] + matrix_bytes / bare["in_rate"])


def _bound_s(bare: dict[str, Any], size: int, dtype: str) -> float:
    return max(float(bare["product_s"]), _copies_s(bare, size, dtype))


def _card(client: Client) -> str:
    """The card's id, when it computes."""
    deadline_s = time.monotonic() + READY_S
    while time.monotonic() < deadline_s:
        for node in client.nodes():
            for device in node["devices"]:
                if device["kind"] == "gpu" and device["speed_flops"]:
                    return str(device["id"])
        time.sleep(0.2)
    raise LeftOut(f"no GPU computes after {READY_S:.0f} s; the agent's log says why")


def _shares(client: Client, card: str) -> tuple[float, float]:
    """Of the last job: the part that the card computed, and the seconds that it took for that."""
    report = client.report("last").as_dict()
    found = {one["device"]: one for one in report["devices"]}
    return (found[card]["share"], found[card]["busy_s"]) if card in found else (0.0, 0.0)


def _one_core() -> list[dict[str, Any]]:
    """An agent whose cores are too slow for a part of what a card does."""
    return [{"name": "n", "cpus": [min(os.sched_getaffinity(0))]}]


def _alone(size: int, repeats: int) -> Iterator[Figure]:
    """The card does all, as for a user with arrays of his own. They are new to the store each time,
    and so to the card: nothing is resident. But the store's memory is what other matrices have
    left, as in any cluster that has run for a minute: it need not be pinned any more."""
    kinds = ("float32", "float16", "tf32")
    bare = {kind: _bare(size, _dtype(kind), repeats, is_tf32=kind == "tf32") for kind in kinds}
    a, b = operands(size, dtype="float32")
    with LocalCluster(_one_core()) as cluster, Client(cluster.address) as client:
        card = _card(client)
        for kind in kinds:
            yield from _of_the_bound(client, card, kind, bare[kind], (a, b), repeats)


def _dtype(kind: str) -> str:
    return "float32" if kind == "tf32" else kind


def _of_the_bound(
    client: Client,
    card: str,
    kind: str,
    bare: dict[str, Any],
    factors: tuple[Array, Array],
    repeats: int,
) -> Iterator[Figure]:
    a, b = factors
    copies_s = _copies_s(bare, len(a), _dtype(kind))
    bound_s = _bound_s(bare, len(a), _dtype(kind))
    precision: Literal["strict", "tf32"] = "tf32" if kind == "tf32" else "strict"
    check: Callable[[Array], None]
    if kind == "float32":
        check = Checker(a, b)
    elif kind == "tf32":
        check = _RowChecker(a, b, 0.0, of_factors=TF32_EPS)
    else:
        a, b = a.astype(kind), b.astype(kind)
        check = _RowChecker(a, b, float(np.finfo(np.float16).eps))
    took_s, busy_s, shares = [], [], []
    for number in range(WARM_UP + repeats):
        product = client.matmul(a, b, where="cluster", precision=precision)
        if number >= WARM_UP:
            took_s.append(client.report("last").makespan_s or 0.0)
            share, seconds = _shares(client, card)
            shares.append(share)
            busy_s.append(seconds)
        if number in (0, WARM_UP + repeats - 1):
            check(product)
        del product  # Its memory is free for the next.
    case = f"{kind}, n = {len(a)}, {bare['card']}"
    yield summary(case, "makespan", took_s, "s")
    yield summary(case, "the card at work", busy_s, "s")
    yield summary(case, "share of the card", shares)
    yield Figure(case, "bound: cuBLAS, resident", bare["product_s"], "s")
    yield Figure(case, "bound: copies in and out", copies_s, "s")
    parts = [bound_s / one for one in took_s]
    name = "of the bound, by the makespan"
    yield summary(case, name, parts, target=BOUND_TARGET, at_least=True)
    parts = [bound_s / one if one else 0.0 for one in busy_s]
    yield summary(case, "of the bound, by the card", parts, target=BOUND_TARGET, at_least=True)


class _RowChecker:
    """Some rows of a product against NumPy's in float32. It is rounded once more by `of_result`,
    and its factors were, by `of_factors`."""

    def __init__(self, a: Array, b: Array, of_result: float, *, of_factors: float = 0.0) -> None:
        self._rows = np.linspace(0, len(a) - 1, SAMPLED_ROWS).astype(int)
        some, wide = a[self._rows].astype(np.float32), b.astype(np.float32)
        self._expected = some @ wide
        eps = float(np.finfo(np.float32).eps)
        self._most = (a.shape[1] * eps + 2.0 * of_factors) * (np.abs(some) @ np.abs(wide))
        self._most += np.abs(self._expected) * of_result

    def __call__(self, product: Array) -> None:
        found = product[self._rows].astype(np.float32)
        assert (np.abs(found - self._expected) <= self._most).all(), "a wrong product"


def _together(size: int, repeats: int) -> Iterator[Figure]:
    """Cores and card: they finish together, and are faster than the card alone; and a second
    process on the card lowers what the card is given. Large, since of a small product the cores
    would get less than a panel for each of them, and so the plan gives them nothing: beside a card
    that is fifty times as fast they save a job of 2 s less than it takes to have them."""
    size = next((one for one in (11 * size // 4, 2 * size) if _has_room(one)), size)
    a, b = (np.tile(one, (2, 2)) for one in operands(size // 2, dtype="float32"))
    check = _RowChecker(a, b, 0.0)
    with LocalCluster(_one_core()) as cluster, Client(cluster.address) as client:
        card = _card(client)
        alone = _runs(client, card, client.put(a) @ client.put(b), check, repeats)
    with LocalCluster([{"name": "n"}]) as cluster, Client(cluster.address) as client:
        card = _card(client)
        product = client.put(a) @ client.put(b)
        both = _runs(client, card, product, check, repeats)
        yield from _of_both(f"cores and card, float32, resident, n = {size}", alone, both)
        with _foreign_load(min(size, 4096)):
            seen = _availability(client, card)
            shared = _runs(client, card, product, check, SHARED_REPEATS, SHARED_WARM_UP)
    case = f"a second process on the card, float32, resident, n = {size}"
    free = float(np.median([one.share for one in both]))
    crowded = float(np.median([one.share for one in shared]))
    yield Figure(case, "share of the card, alone", free)
    yield Figure(case, "share of the card, shared", crowded, target=free - 0.005)
    yield Figure(case, "availability of the card, shared", seen, target=0.9)


def _of_both(case: str, alone: Sequence[_Run], both: Sequence[_Run]) -> Iterator[Figure]:
    yield summary(case, "finish spread", [one.spread for one in both], target=SPREAD_TARGET)
    yield summary(case, "makespan", [one.makespan_s for one in both], "s")
    yield summary(case, "makespan with one core", [one.makespan_s for one in alone], "s")
    yield summary(case, "share of the card", [one.share for one in both])
    if max(one.share for one in both) < 1.0:  # The plan says that cores help.
        gains = [one.makespan_s / other.makespan_s for one, other in zip(alone, both)]
        yield summary(case, "with one core over with all", gains, target=1.0, at_least=True)


@dataclass(frozen=True)
class _Run:
    makespan_s: float
    spread: float
    #: What the card computed of it.
    share: float


def _runs(
    client: Client,
    card: str,
    product: Lazy,
    check: Callable[[Array], None],
    repeats: int,
    warm_up: int = WARM_UP,
) -> list[_Run]:
    found = []
    for number in range(warm_up + repeats):
        made = client.compute(product, where="cluster")
        if number == 0:
            check(made)
        if number >= warm_up:
            report = client.report("last")
            share, _ = _shares(client, card)
            found.append(_Run(report.makespan_s or 0.0, report.finish_spread or 0.0, share))
        del made  # Its memory is free for the next.
    return found


@contextmanager
def _foreign_load(size: int) -> Iterator[None]:
    """Somebody else's products on the card, for long enough to be believed."""
    with subprocess.Popen(
        [sys.executable, "-c", FOREIGN, str(size)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdin is not None
        other.stdout.readline()
        time.sleep(NOTICED_S)
        yield
        other.stdin.close()


def _has_room(size: int) -> bool:
    """For operands and two results, in shared memory, and as much again here."""
    four_bytes = 4 * size * size * np.dtype(np.float32).itemsize
    found = os.statvfs("/dev/shm")
    return min(found.f_bavail * found.f_frsize, psutil.virtual_memory().available / 2) > four_bytes


def _availability(client: Client, card: str) -> float:
    devices = (one for node in client.nodes() for one in node["devices"])
    return next(float(one["availability"]) for one in devices if one["id"] == card)


def main() -> int:
    """Prints every figure; fails if a target is missed, and not where there is no card."""
    missed = 0
    try:
        for figure in run():
            print(figure, flush=True)
            missed += figure.holds is False
    except LeftOut as error:
        print(f"left out: {error}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
