"""Giving way: whether a device takes work now, and if not, why.

Rules of this file: no I/O, no clock. A device gives way in given hours, while the load of others
is above a bound, and before its agent leaves. A load has to last before it counts, and has to be
well below the bound for some seconds before the device is back, since each turn moves work. An
unknown load changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from deadheat.runtime.moments import Hours

#: A load above the bound lasts so long before it counts. It is an average over a second already;
#: together the owner has the machine back within two seconds.
HOLD_S: Final = 0.5
#: The load has to be below this share of the bound for so long until the device takes work again.
RESUME_SHARE: Final = 0.8
RESUME_AFTER_S: Final = 3.0


@dataclass(frozen=True, slots=True)
class YieldPolicy:
    """`above` is a fraction of the whole device; None: no load makes it give way."""

    above: float | None = None
    hours: tuple[Hours, ...] = ()


@dataclass(slots=True)
class _Device:
    reason: str = ""
    #: Since when the load has been on the other side of what it takes to change.
    crossed_s: float | None = None
    load_reason: str = ""


class Yielding:
    """The state of an agent's devices under a policy, which may be replaced at any time."""

    def __init__(self, policy: YieldPolicy, devices: Sequence[str]) -> None:
        self.policy = policy
        #: Why none of them will ever take work again; the agent is about to leave.
        self.leaving = ""
        self._devices = {device: _Device() for device in devices}

    def add(self, device: str) -> None:
        self._devices.setdefault(device, _Device())

    def reason(self, device: str) -> str:
        """Why it takes no work; empty when it does."""
        found = self._devices.get(device)
        return found.reason if found else ""

    @property
    def reasons(self) -> Mapping[str, str]:
        """Of those that give way."""
        return {id_: device.reason for id_, device in self._devices.items() if device.reason}

    def look(
        self, now_s: float, minute_of_day: int, foreign: Mapping[str, float | None]
    ) -> dict[str, str]:
        """Takes in what others use of the devices (fractions; None where nobody knows); returns the
        devices that changed, with their reasons."""
        everybody = self.leaving or self._by_hours(minute_of_day)
        changed = {}
        for id_, device in self._devices.items():
            self._weigh(device, now_s, foreign.get(id_))
            reason = everybody or device.load_reason
            if reason != device.reason:
                device.reason = changed[id_] = reason
        return changed

    def _by_hours(self, minute: int) -> str:
        for hours in self.policy.hours:
            if hours.hold(minute):
                return f"these are its owner's hours, {hours}"
        return ""

    def _weigh(self, device: _Device, now_s: float, load: float | None) -> None:
        above = self.policy.above
        if above is None:
            device.load_reason, device.crossed_s = "", None
            return
        if load is None:
            return
        if device.load_reason:
            has_crossed, after_s = load < above * RESUME_SHARE, RESUME_AFTER_S
        else:
            has_crossed, after_s = load > above, HOLD_S
        if not has_crossed:
            device.crossed_s = None
        elif device.crossed_s is None:
            device.crossed_s = now_s
        elif now_s - device.crossed_s >= after_s:
            device.crossed_s = None
            device.load_reason = (
                "" if device.load_reason else f"others use {load:.0%} of it, above {above:.0%}"
            )
