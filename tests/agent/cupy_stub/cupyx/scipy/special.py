"""The error function."""

from __future__ import annotations

from typing import Any

import cupy
from scipy import special


def erf(x: Any) -> Any:
    return cupy._made(special.erf, x)
