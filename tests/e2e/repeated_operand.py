"""Several products with one B through the ordinary client: what each of them moved, as JSON.

Run as `python -m tests.e2e.repeated_operand SCHEDULER SIZE JOBS`. Fails if a result is wrong.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np

from deadheat.client import Client


def main(address: str, size: int, jobs: int) -> None:
    rng = np.random.default_rng(5)
    b = rng.standard_normal((size, size))
    found = []
    with Client(address) as client:
        assert not client.shares_memory
        for number in range(jobs + 1):
            a = rng.standard_normal((size, size))
            if number == jobs:  # Nobody may take it for what it was.
                b[size // 3, size // 5] += 1.0
            started_s = time.monotonic()
            # Each agent gets a part, whatever else it has to do just now.
            result = client.matmul(a, b, cut="equal", where="cluster", progress=False)
            seconds = time.monotonic() - started_s
            assert np.allclose(result, a @ b, rtol=1e-9, atol=1e-9)
            report = client.job("last").report().as_dict()
            kept = ("bytes_moved", "bytes_lower_bound", "makespan_s", "devices", "resplits")
            found.append({key: report[key] for key in kept} | {"seconds": seconds})
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
