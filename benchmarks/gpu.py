"""A GPU from end to end: one call of at most eight minutes, a table, targets beside the figures.

The bound of a product from ordinary memory is the longer of two times measured in the same run:
that of cuBLAS with operands on the card, and that of the copies nobody can avoid (each operand in,
the result out, both ways at once) from pinned memory. What uses the card runs in processes of its
own, so that this one holds nothing of it. Also by itself: `python -m benchmarks.gpu`.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np

from benchmarks.checking import SAMPLED_ROWS, Array, Checker, operands
from benchmarks.measuring import Figure, LeftOut, summary
from deadheat.client import Client, LocalCluster

#: A card of 80 GB holds three matrices of this size in float32 many times.
SIZE = 16384
BOUND_TARGET = 0.85
#: Half the distance of two numbers of ten bits.
TF32_EPS = 2.0**-11
SPREAD_TARGET = 0.03
REPEATS = 5
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
a, b = (cupy.ones((size, size), dtype) for _ in range(2))
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
a = cupy.ones((int(sys.argv[1]),) * 2, "float32")
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
    for part in (_alone(size, repeats), _together(size, repeats), _shared(size)):
        # The first part takes longest; the others are as long at the most.
        if 2.0 * (time.monotonic() - began_s) > BUDGET_S:
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


def _bound_s(bare: dict[str, Any], size: int, dtype: str) -> float:
    """Two operands go in while one result goes out: of the former, one alone."""
    matrix_bytes = size * size * np.dtype(dtype).itemsize
    copies_s = matrix_bytes / bare["both_rate"] + matrix_bytes / bare["in_rate"]
    return float(max(bare["product_s"], copies_s))


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


def _shares(client: Client) -> dict[str, float]:
    report = client.report("last").as_dict()
    return {one["device"]: one["share"] for one in report["devices"]}


def _alone(size: int, repeats: int) -> Iterator[Figure]:
    """The card does all: the cores are too slow for a part, or the plan would give them one."""
    for name in ("float32", "float16", "tf32"):
        dtype = "float32" if name == "tf32" else name
        precision: Literal["strict", "tf32"] = "tf32" if name == "tf32" else "strict"
        bare = _bare(size, dtype, repeats, is_tf32=name == "tf32")
        bound_s = _bound_s(bare, size, dtype)
        a, b = operands(size, dtype="float32")
        check: Callable[[Array], None] = Checker(a, b)
        if dtype == "float16":
            a, b = a.astype(dtype), b.astype(dtype)
            check = _RowChecker(a, b, float(np.finfo(np.float16).eps))
        elif name == "tf32":
            check = _RowChecker(a, b, 0.0, of_factors=TF32_EPS)
        took_s = []
        with LocalCluster([{"name": "n"}]) as cluster, Client(cluster.address) as client:
            _card(client)
            held = client.put(a), client.put(b)
            client.compute(held[0] @ held[1], precision=precision)
            for _ in range(repeats):
                # New in the store, so new to the card: nothing is resident from before.
                held = client.put(a), client.put(b)
                made = client.submit(held[0] @ held[1], precision=precision)
                product = made.result()
                took_s.append(made.report().makespan_s or 0.0)
                check(product)
        case = f"{name}, n = {size}, {bare['card']}"
        yield summary(case, "makespan", took_s, "s")
        yield Figure(case, "bound: cuBLAS, resident", bare["product_s"], "s")
        yield Figure(case, "bound: copies in and out", bound_s, "s")
        parts = [bound_s / one for one in took_s]
        yield summary(case, "of the bound", parts, target=BOUND_TARGET, at_least=True)


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
    """Cores and card: they finish together, and are faster than the card alone."""
    a, b = operands(size // 2)
    spreads, both_s, alone_s, cores_share = [], [], [], []
    with LocalCluster([{"name": "n"}]) as cluster, Client(cluster.address) as client:
        card = _card(client)
        client.matmul(a, b, where="cluster")
        for _ in range(repeats):
            client.matmul(a, b, where="cluster")
            report = client.report("last")
            spreads.append(report.finish_spread or 0.0)
            both_s.append(report.makespan_s or 0.0)
            cores_share.append(1.0 - _shares(client).get(card, 0.0))
            found = {one["device"]: one for one in report.as_dict()["devices"]}
            speed_flops = found[card]["speed_flops"] if card in found else 0.0
            alone_s.append(2.0 * (size // 2) ** 3 / speed_flops if speed_flops else math.inf)
    case = f"cores and card, float64, n = {size // 2}"
    yield summary(case, "finish spread", spreads, target=SPREAD_TARGET)
    yield summary(case, "makespan", both_s, "s")
    yield summary(case, "share of the cores", cores_share)
    if min(cores_share) > 0.0:  # The plan says that they help.
        gains = [one / other for one, other in zip(alone_s, both_s)]
        name = "the card alone, by its speed, over the makespan"
        yield summary(case, name, gains, target=1.0, at_least=True)


def _shared(size: int) -> Iterator[Figure]:
    """A second process on the card lowers what the card is given."""
    a, b = operands(size // 2)
    with LocalCluster([{"name": "n"}]) as cluster, Client(cluster.address) as client:
        card = _card(client)
        client.matmul(a, b, where="cluster")
        client.matmul(a, b, where="cluster")
        free = _shares(client).get(card, 0.0)
        with subprocess.Popen(
            [sys.executable, "-c", FOREIGN, str(min(size, 4096))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as other:
            assert other.stdout is not None
            assert other.stdin is not None
            other.stdout.readline()
            time.sleep(NOTICED_S)
            client.matmul(a, b, where="cluster")
            client.matmul(a, b, where="cluster")
            crowded = _shares(client).get(card, 0.0)
            other.stdin.close()
    case = f"a second process on the card, float64, n = {size // 2}"
    yield Figure(case, "share of the card, alone", free)
    yield Figure(case, "share of the card, shared", crowded, target=free - 0.01)


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
