"""Ids that sort by time of making, for jobs, matrices and requests."""

from __future__ import annotations

import secrets
import time
from typing import Final

_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford: no i, l, o, u to misread.


def _base32(number: int, digits: int) -> str:
    return "".join(_ALPHABET[(number >> (5 * k)) & 31] for k in reversed(range(digits)))


def new_id(prefix: str) -> str:
    """A fresh id: the prefix, 9 digits of milliseconds, 7 digits of chance."""
    stamp = time.time_ns() // 1_000_000
    return f"{prefix}{_base32(stamp, 9)}{_base32(secrets.randbits(35), 7)}"
