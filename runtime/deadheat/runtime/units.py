"""Sizes and durations: parsed from people, printed for people."""

from __future__ import annotations

import re
from typing import Final

from deadheat.runtime.errors import InvalidInput

KIB: Final = 1 << 10
MIB: Final = 1 << 20
GIB: Final = 1 << 30

_SIZE_UNITS: Final = {"": 1, "b": 1, "k": KIB, "m": MIB, "g": GIB, "t": GIB << 10}
_DURATION_UNITS_S: Final = {"": 1.0, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_bytes(text: str, *, field: str) -> int:
    """A size in bytes.

    >>> parse_bytes("1.5 GiB", field="--memory")
    1610612736
    """
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([kmgt]?)i?b?\s*", text.lower())
    if not match:
        raise InvalidInput(f"{field} is {text!r}; give a size like 512M or 1.5G", field=field)
    return int(float(match[1]) * _SIZE_UNITS[match[2]])


def parse_seconds(text: str, *, field: str) -> float:
    """A duration in seconds.

    >>> parse_seconds("1.5m", field="--timeout")
    90.0
    """
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*(ms|s|m|h|d|)\s*", text.lower())
    if not match:
        raise InvalidInput(f"{field} is {text!r}; give seconds, or like 90s, 5m, 2h", field=field)
    return float(match[1]) * _DURATION_UNITS_S[match[2]]


def format_bytes(size: float) -> str:
    """
    >>> format_bytes(3 << 29)
    '1.5 GiB'
    """
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def format_flops(rate: float) -> str:
    """
    >>> format_flops(52.4e9)
    '52.4 GFLOP/s'
    """
    for unit in ("FLOP/s", "kFLOP/s", "MFLOP/s", "GFLOP/s", "TFLOP/s"):
        if abs(rate) < 1000:
            return f"{rate:.1f} {unit}"
        rate /= 1000
    return f"{rate:.1f} PFLOP/s"


def format_seconds(seconds: float) -> str:
    """
    >>> format_seconds(0.0123), format_seconds(75)
    ('12.3 ms', '1m 15s')
    >>> format_seconds(0.0000071), format_seconds(0)
    ('7.1 us', '0.0 ms')
    """
    if 0 < seconds < 1e-4:
        return f"{seconds * 1e6:.1f} us"
    if seconds < 1:
        return f"{seconds * 1e3:.1f} ms"
    if seconds < 60:
        return f"{seconds:.2f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes}m" if hours else f"{minutes}m {rest}s"
