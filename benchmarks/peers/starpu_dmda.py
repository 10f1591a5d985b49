"""StarPU's own `dgemm` example with the `dmda` scheduler, from Debian's package starpu-examples.

It makes its operands itself and keeps its product, so that there is no result to check here, and
its time is that of its tasks only: it has an easier job than the others.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from benchmarks.peers import ONE_THREAD, Array, BasePeer, NotInstalled

PLACES = ("/usr/lib/*/starpu/examples", "/usr/lib/starpu/examples")


def _program() -> Path:
    for place in PLACES:
        pattern = f"{place}/**/*dgemm*".removeprefix("/")
        for path in sorted(Path("/").glob(pattern)):
            if os.access(path, os.X_OK) and path.is_file():
                return path
    raise NotInstalled("Debian's package starpu-examples")


class Peer(BasePeer):
    name = "StarPU dgemm, dmda"
    #: Blocks on each side.
    choices = (2, 4, 8)

    def start(self, cores: Sequence[int]) -> None:
        self._command = _program()
        self._environment = {
            **os.environ,
            **ONE_THREAD,
            "STARPU_SCHED": "dmda",
            "STARPU_NCPU": str(len(cores)),
            "STARPU_SILENT": "1",
        }

    def timed(self, a: Array, b: Array) -> tuple[float, Array]:
        m, k, n = (str(size) for size in (*a.shape, b.shape[1]))
        sizes = ["-x", n, "-y", m, "-z", k, "-nblocks", str(self.choice), "-iter", "1"]
        found = subprocess.run(
            [str(self._command), *sizes],
            env=self._environment,
            capture_output=True,
            text=True,
            check=True,
        )
        # The last line: x, y, z, milliseconds, GFLOP/s.
        numbers = re.findall(r"[\d.]+", found.stdout.strip().splitlines()[-1])
        return float(numbers[3]) / 1e3, None

    def matmul(self, a: Array, b: Array) -> Array:
        return self.timed(a, b)[1]

    def stop(self) -> None:
        """Nothing stays behind a run."""
