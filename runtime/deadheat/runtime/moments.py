"""Times of day and moments as people write them: `08:00-18:00`, `90m`, `17:30`, `slurm`.

Times of day are local. A moment is in seconds since the epoch.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from deadheat.runtime.errors import InvalidInput

MINUTES_OF_A_DAY: Final = 24 * 60
#: Spans of hours that one setting may name.
MAX_HOURS: Final = 48
#: Longer than anybody lends a machine; more is a slip of the pen.
MAX_DURATION_S: Final = 366 * 24 * 3600.0
#: What Slurm (since 22.05) tells every step: when its job ends at the latest.
SLURM_VARIABLE: Final = "SLURM_JOB_END_TIME"

_UNITS_S: Final = {"d": 86_400.0, "h": 3600.0, "m": 60.0, "s": 1.0}
_DURATION: Final = re.compile(r"(?:(\d+(?:\.\d+)?)([dhms]))", re.ASCII)
_TIME: Final = re.compile(r"(\d{1,2}):(\d{2})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Hours:
    """A part of every day, in minutes since midnight; one that stops before it starts is over
    midnight."""

    start_min: int
    stop_min: int

    def hold(self, minute: int) -> bool:
        if self.start_min < self.stop_min:
            return self.start_min <= minute < self.stop_min
        return minute >= self.start_min or minute < self.stop_min

    def __str__(self) -> str:
        return f"{_clock(self.start_min)}-{_clock(self.stop_min)}"


def parse_hours(raw: object) -> tuple[Hours, ...]:
    """Spans of hours as text or as a list.

    >>> [str(one) for one in parse_hours("08:00-12:00, 22:30-6:00")]
    ['08:00-12:00', '22:30-06:00']
    """
    parts = [str(part) for part in raw] if isinstance(raw, (list, tuple)) else str(raw).split(",")
    if len(parts) > MAX_HOURS:
        raise InvalidInput(f"{len(parts)} spans of hours; at most {MAX_HOURS} may be given")
    found = []
    for part in parts:
        first, dash, last = part.strip().partition("-")
        start_min, stop_min = _minute(first), _minute(last)
        if not dash or start_min is None or stop_min is None or start_min == MINUTES_OF_A_DAY:
            raise InvalidInput(f"{part.strip()!r} is not a span of hours; write it as 08:00-18:00")
        if start_min == stop_min:
            raise InvalidInput(f"{part.strip()!r} is empty; the whole day is 00:00-24:00")
        found.append(Hours(start_min, stop_min))
    return tuple(found)


def minute_of_day(at_s: float) -> int:
    """The minute that local clocks show at a moment."""
    shown = time.localtime(at_s)
    return shown.tm_hour * 60 + shown.tm_min


def parse_moment(raw: str, now_s: float, environment: Mapping[str, str]) -> float:
    """A moment from now on: a duration (`90m`, `1h30m`), the next time of day (`17:30`), a date and
    time (`2027-01-31T17:30`), or `slurm`, the end of the job that this process is a step of.

    Raises InvalidInput for what is none of these, or is over.
    """
    text = raw.strip()
    if text == "slurm":
        moment_s = _end_of_job(environment)
    elif (minute := _minute(text)) is not None:
        moment_s = _next(minute, now_s)
    elif (duration_s := _duration(text)) is not None:
        moment_s = now_s + duration_s
    else:
        try:
            # Without an offset it is local, as everything here.
            moment_s = datetime.fromisoformat(text).timestamp()
        except (ValueError, OverflowError):
            raise InvalidInput(
                f"{raw!r} is no time; write 90m, 1h30m, 17:30, 2027-01-31T17:30 or slurm"
            ) from None
    if not now_s < moment_s <= now_s + MAX_DURATION_S:
        shown = datetime.fromtimestamp(moment_s).astimezone().isoformat(timespec="minutes")
        raise InvalidInput(f"{raw!r} is {shown}; it must be later than now, and within a year")
    return moment_s


def _end_of_job(environment: Mapping[str, str]) -> float:
    text = environment.get(SLURM_VARIABLE, "")
    if not text.isdecimal():
        raise InvalidInput(
            f"slurm: {SLURM_VARIABLE} is {text!r}; it is set in steps of Slurm 22.05 and later, "
            "for jobs with a time limit"
        )
    return float(text)


def _next(minute: int, now_s: float) -> float:
    """The next time that local clocks show this minute; a day is not always 24 hours long."""
    today = datetime.fromtimestamp(now_s)  # noqa: DTZ006 - local, as people's clocks are.
    at = datetime(today.year, today.month, today.day) + timedelta(minutes=minute)  # noqa: DTZ001
    moment_s = at.timestamp()
    return moment_s if moment_s > now_s else (at + timedelta(days=1)).timestamp()


def _duration(text: str) -> float | None:
    if not text or _DURATION.sub("", text):
        return None
    return sum(float(count) * _UNITS_S[unit] for count, unit in _DURATION.findall(text))


def _minute(text: str) -> int | None:
    found = _TIME.fullmatch(text.strip())
    if not found or int(found[2]) > 59:
        return None
    minute = int(found[1]) * 60 + int(found[2])
    return minute if minute <= MINUTES_OF_A_DAY else None


def _clock(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"
