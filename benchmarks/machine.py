"""What a figure was measured on: without it a number says little."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_info


def facts() -> dict[str, Any]:
    """Processor, cores, BLAS, versions and the day."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "blas": _blas(),
        "numpy": np.__version__,
        "python": platform.python_version(),
        "kernel": f"{platform.system()} {platform.release()}",
        "date": time.strftime("%Y-%m-%d"),
    }


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()


def _blas() -> str:
    pools = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
    # SciPy brings one of its own, once it is imported.
    own = [pool for pool in pools if "numpy" in pool["filepath"]] or pools
    for pool in own:
        parts = (pool["internal_api"], pool["version"], pool.get("architecture"))
        return " ".join(str(part) for part in parts if part)
    return "unknown"
