"""Two clocks as one: the core counts monotonic seconds, people and databases want times of day."""

from __future__ import annotations

import datetime as dt
import time
from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(frozen=True, slots=True)
class Clock:
    """The time of day at monotonic zero, read once at start: later jumps of the time of day do
    not move what the scheduler recorded."""

    epoch_at_zero: float

    @staticmethod
    def start() -> Clock:
        return Clock(time.time() - time.monotonic())

    @staticmethod
    def now() -> float:
        return time.monotonic()

    def epoch(self, at_s: float) -> float:
        return self.epoch_at_zero + at_s

    def datetime(self, at_s: float) -> dt.datetime:
        """UTC without a zone, as the database keeps it."""
        moment = datetime.fromtimestamp(self.epoch(at_s), tz=UTC)
        return moment.replace(tzinfo=None)

    def monotonic(self, moment: dt.datetime) -> float:
        return moment.replace(tzinfo=UTC).timestamp() - self.epoch_at_zero
