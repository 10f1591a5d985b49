"""What an examination of `deadheat doctor` found."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Finding:
    """`bad` keeps deadheat from working well; a `note` is worth knowing."""

    subject: str
    verdict: Literal["ok", "note", "bad"]
    text: str
    advice: str = ""

    def as_dict(self) -> dict[str, str]:
        return asdict(self)
