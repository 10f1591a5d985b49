"""How long an agent is here, and whether it takes work meanwhile: carries out `core.yielding`.

Rules of this file: everything here runs on the agent's event loop. What a device has not started is
given back as soon as it gives way, panels that run end, and the scheduler hears of the first before
it hears of the second, so that it plans nothing for a device that has just given something back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Final

from deadheat.agent.core.yielding import Yielding, YieldPolicy
from deadheat.agent.subtasks import Subtasks
from deadheat.runtime import logs
from deadheat.runtime.moments import minute_of_day
from deadheat.v1 import agent_pb2 as pb

log = logs.get("presence")

#: An agent that has to be gone at some moment begins to leave so long before. Panels get three
#: seconds to end, the goodbye one, executors another; the rest is for a machine that is slow.
LEAD_S: Final = 10.0


class Presence:
    """Knows `registration`, and keeps what it says of each device true, since it is sent again
    after a break."""

    def __init__(
        self,
        policy: YieldPolicy,
        registration: pb.Register,
        subtasks: Subtasks,
        tell: Callable[[pb.AgentServiceSessionRequest], None],
        leave: Callable[[str], None],
        *,
        until_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """`until_s` is the moment, in seconds since the epoch, at which this agent has to be gone;
        `leave` gets the reason when it is time to go."""
        self._registration = registration
        self._subtasks = subtasks
        self._tell = tell
        self._leave = leave
        self._until_s = until_s
        self._clock = clock
        self._wall_clock = wall_clock
        self._late: list[pb.DeviceInfo] = []
        self._yielding = Yielding(policy, [device.id for device in registration.devices])

    @property
    def note(self) -> str:
        """Which devices take no work and why, for people; empty if all do."""
        reasons = self._yielding.reasons
        everybody = set(reasons.values())
        if len(everybody) == 1 and len(reasons) == len(self._registration.devices):
            return f"gives way: {everybody.pop()}"
        named = (f"{device.rpartition('/')[2]}: {reason}" for device, reason in reasons.items())
        return f"gives way: {'; '.join(named)}" if reasons else ""

    def use(self, policy: YieldPolicy) -> None:
        """From the next look on."""
        self._yielding.policy = policy

    def session_opened(self) -> None:
        """Says again what may have become so while the registration was on its way."""
        for device in self._late:
            self._tell(pb.AgentServiceSessionRequest(appeared=device))
        for info in self._registration.devices:
            yielding = pb.Yielding(device=info.id, reason=info.yields)
            self._tell(pb.AgentServiceSessionRequest(yielding=yielding))

    def appeared(self, device: pb.DeviceInfo) -> None:
        """A device that was not there before."""
        self._registration.devices.append(device)
        self._late.append(device)
        self._yielding.add(device.id)
        self._tell(pb.AgentServiceSessionRequest(appeared=device))

    def look(self, foreign: Mapping[str, float | None]) -> None:
        """What others use of the devices now."""
        wall_s = self._wall_clock()
        is_over = self._until_s is not None and wall_s >= self._until_s - LEAD_S
        if is_over and not self._yielding.leaving:
            self._yielding.leaving = "it is about to leave"
            self._leave("its time is over")
        changed = self._yielding.look(self._clock(), minute_of_day(wall_s), foreign)
        for device, reason in changed.items():
            self._change(device, reason)

    def _change(self, device: str, reason: str) -> None:
        text = f"{device} gives way: {reason}" if reason else f"{device} takes work again"
        log.info(text, extra=logs.keys("yield", device=device))
        for info in self._registration.devices:
            if info.id == device:
                info.yields = reason
        yielding = pb.Yielding(device=device, reason=reason)
        self._tell(pb.AgentServiceSessionRequest(yielding=yielding))
        self._subtasks.set_yielding(device, is_yielding=bool(reason))

    def nothing_to_do(self) -> None:
        """No job is open. One who came for the work that there was leaves when it has done some."""
        if self._registration.once and self._subtasks.has_worked:
            self._leave("the work is done")
