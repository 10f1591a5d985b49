"""StarPU's own `dgemm` example with the `dmda` scheduler, from Debian's package starpu-examples,
with OpenBLAS from libopenblas0-pthread (the reference BLAS is twenty times slower).

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

#: The example makes a tenth of the products that it is asked for: 9 make none.
ITERATIONS = 10


def _found(pattern: str, package: str) -> Path:
    for path in sorted(Path("/usr/lib").glob(pattern)):
        if path.is_file():
            return path
    raise NotInstalled(f"Debian's package {package}")


class Peer(BasePeer):
    name = "StarPU dgemm, dmda"
    #: Blocks on each side.
    choices = (2, 4, 8)

    def start(self, cores: Sequence[int]) -> None:
        self._command = _found("*/starpu/examples/dgemm", "starpu-examples")
        library = _found("*/openblas-pthread/libblas.so.3", "libopenblas0-pthread")
        self._environment = {
            **os.environ,
            **ONE_THREAD,
            "LD_LIBRARY_PATH": str(library.parent),
            "STARPU_SCHED": "dmda",
            "STARPU_NCPU": str(len(cores)),
            "STARPU_SILENT": "1",
        }

    def timed(self, a: Array, b: Array) -> tuple[float, Array]:
        m, k, n = (str(size) for size in (*a.shape, b.shape[1]))
        sizes = ["-x", n, "-y", m, "-z", k, "-nblocks", str(self.choice), "-iter", str(ITERATIONS)]
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
