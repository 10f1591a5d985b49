"""Whose sub-tasks go first: weighted fair queueing of jobs, shortest first within a user.

Every job gets a tag on a virtual clock, and every device takes the sub-task with the least one at
each panel boundary. The clock runs at the speed at which one of n users is served when the pool
is shared evenly, so a job's tag is the moment at which it would end under exact sharing (Demers,
Keshav and Shenker, "Analysis and simulation of a fair queueing algorithm", 1989). A small job's
moment comes before a big one's that is under way, one user's flood of jobs queues up behind itself,
and a big job's tag stays while the clock goes on, so that nobody starves.

Priorities are levels above all that. A job with a time limit that it would miss at its own tag goes
to the front of its level; if that is not enough it is refused, with the predicted time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

#: Ranks are single numbers: a level of priority is further apart than tags ever get.
LEVEL: Final = 1e9
MAX_PRIORITY: Final = 1000
#: Jobs of one user that are looked at for the sum of what goes before a new one.
MAX_COUNTED: Final = 10_000


@dataclass(slots=True)
class _Waiting:
    user: str
    cost_s: float
    tag: float


@dataclass(slots=True)
class FairQueue:
    """The virtual clock, and the jobs that have not ended."""

    virtual_s: float = 0.0
    updated_s: float = 0.0
    _open: dict[str, _Waiting] = field(default_factory=dict)
    _users: dict[str, dict[str, None]] = field(default_factory=dict)

    def enter(self, job: str, user: str, cost_s: float, now: float) -> float:
        """The tag of a job that would take `cost_s` if it had the pool for itself."""
        self._advance(now)
        mine = list(self._users.get(user, {}))[:MAX_COUNTED]
        before_s = sum(
            self._open[other].cost_s for other in mine if self._open[other].cost_s <= cost_s
        )
        tag = self.virtual_s + before_s + cost_s
        self._open[job] = _Waiting(user, cost_s, tag)
        self._users.setdefault(user, {})[job] = None
        return tag

    def would_be(self, cost_s: float, now: float) -> float:
        """The tag of a job of a user who has no other."""
        self._advance(now)
        return self.virtual_s + cost_s

    def hurry(self, job: str) -> float:
        """A tag before all others."""
        tag = min((waiting.tag for waiting in self._open.values()), default=self.virtual_s) - 1.0
        if job in self._open:
            self._open[job].tag = tag
        return tag

    def leave(self, job: str, now: float) -> None:
        self._advance(now)
        waiting = self._open.pop(job, None)
        if waiting is None:
            return
        mine = self._users[waiting.user]
        del mine[job]
        if not mine:
            del self._users[waiting.user]

    def _advance(self, now: float) -> None:
        self.virtual_s += max(0.0, now - self.updated_s) / max(1, len(self._users))
        self.updated_s = now


def rank_of(priority: int, tag: float) -> float:
    """Smaller runs first; higher priorities are smaller."""
    level = max(-MAX_PRIORITY, min(MAX_PRIORITY, priority))
    return -level * LEVEL + tag
