"""The client of a cluster whose agents are far away, in a process on its own host; says JSON."""

from __future__ import annotations

import faulthandler
import json
import sys
import time
from typing import Any

import numpy as np

from benchmarks.checking import Checker, operands
from deadheat.client import Client

#: No case takes so long; who hangs says where.
LIMIT_S = 240.0
KEPT = ("makespan_s", "bytes_moved", "bytes_lower_bound", "finish_spread", "devices", "resplits")


def multiply(client: Client, size: int) -> list[dict[str, Any]]:
    """One product."""
    a, b = operands(size)
    started_s = time.perf_counter()
    product = client.matmul(a, b, where="cluster")
    seconds = time.perf_counter() - started_s
    Checker(a, b)(product)
    return [_newest(client) | {"seconds": seconds}]


def repeated(client: Client, size: int, jobs: int) -> list[dict[str, Any]]:
    """Products of ever other matrices with the same one."""
    rng = np.random.default_rng(5)
    b = rng.standard_normal((size, size))
    found = []
    for _ in range(jobs):
        a = rng.standard_normal((size, size))
        product = client.matmul(a, b, where="cluster")
        Checker(a, b)(product)
        found.append(_newest(client))
    return found


def _newest(client: Client) -> dict[str, Any]:
    report = client.report("last").as_dict()
    return {key: report[key] for key in KEPT}


def main(address: str, what: str, *numbers: str) -> None:
    faulthandler.dump_traceback_later(LIMIT_S, exit=True)
    with Client(address) as client:
        found: Any
        match what:
            case "nodes":
                found = sum(node["state"] == "up" for node in client.nodes())
            case "multiply":
                found = multiply(client, int(numbers[0]))
            case _:
                found = repeated(client, int(numbers[0]), int(numbers[1]))
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
