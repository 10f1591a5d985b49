"""Models by name and version: which there are, and the numbers that new ones get.

Rules of this file: a version is there for others once its record is durable (`confirm`), and gets
its number before that, so that two that are saved at once get two. Numbers of versions that were
given up, or were never confirmed, are not used again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from deadheat.runtime.errors import InvalidInput, LimitReached, NotFound

#: Versions that are kept at once. Each has a hold on each of its matrices in the store.
MAX_MODELS: Final = 10_000
#: Names that were ever used: each keeps the number that comes next.
MAX_NAMES: Final = 100_000
#: Names stand in commands, in file names and in logs.
MAX_NAME: Final = 64
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a name. What it is made of is in the records."""

    id: str
    name: str
    number: int
    request_id: str

    def __str__(self) -> str:
        return f"{self.name} {self.number}"

    @property
    def holder(self) -> str:
        """Under which the store holds its matrices."""
        return holder_of(self.id)


def holder_of(model_id: str) -> str:
    return f"model:{model_id}"


def check_name(name: str) -> None:
    """Raises InvalidInput for what is no name of a model."""
    if len(name) > MAX_NAME or not _NAME.fullmatch(name):
        raise InvalidInput(
            f"name {name[:MAX_NAME]!r} must be 1 to {MAX_NAME} letters, digits, '.', '_' and '-', "
            "and begin with a letter or digit",
            field="name",
        )


@dataclass
class Registry:
    """All versions; `newest` is the highest number that each name ever had."""

    newest: dict[str, int] = field(default_factory=dict)
    _by_name: dict[str, dict[int, Version]] = field(default_factory=dict)
    _by_id: dict[str, Version] = field(default_factory=dict)
    _by_request: dict[str, Version] = field(default_factory=dict)
    _unconfirmed: dict[str, Version] = field(default_factory=dict)

    @staticmethod
    def of(versions: Iterable[Version], newest: Mapping[str, int]) -> Registry:
        found = Registry(dict(newest))
        for version in versions:
            found._add(version)
        return found

    def __len__(self) -> int:
        return len(self._by_id)

    @property
    def holders(self) -> list[str]:
        """Under which the store holds matrices of models."""
        return [version.holder for version in self._by_id.values()]

    def check_room(self, name: str) -> None:
        """Raises LimitReached where another version does not fit."""
        count = len(self._by_id) + len(self._unconfirmed)
        if count >= MAX_MODELS:
            raise LimitReached(
                f"{count} versions of models are kept, the limit; delete some", field="name"
            )
        if name not in self.newest and len(self.newest) >= MAX_NAMES:
            raise LimitReached(
                f"{len(self.newest)} names of models were used, the limit; use one of them",
                field="name",
            )

    def reserve(self, model_id: str, name: str, request_id: str) -> Version:
        """The next version of a name, which nobody sees yet."""
        check_name(name)
        self.check_room(name)
        number = self.newest[name] = self.newest.get(name, 0) + 1
        version = self._unconfirmed[model_id] = Version(model_id, name, number, request_id)
        return version

    def confirm(self, version: Version) -> None:
        """It is durable."""
        self._add(self._unconfirmed.pop(version.id))

    def _add(self, version: Version) -> None:
        self._by_id[version.id] = version
        self._by_name.setdefault(version.name, {})[version.number] = version
        self._by_request[version.request_id] = version

    def saved_by(self, request_id: str) -> Version | None:
        """What an earlier request with this id made."""
        return self._by_request.get(request_id)

    def find(self, name: str, number: int = 0) -> Version:
        """A version, or (0) the newest that there is; raises NotFound."""
        versions = self._by_name.get(name)
        if not versions:
            raise NotFound(f"there is no model {name[:MAX_NAME]!r}", field="name")
        found = versions.get(number or max(versions))
        if found is None:
            known = ", ".join(map(str, sorted(versions)[-8:]))
            raise NotFound(
                f"model {name!r} has no version {number}; there is {known}", field="version"
            )
        return found

    def has(self, model_id: str) -> bool:
        return model_id in self._by_id

    def remove(self, name: str, number: int = 0) -> list[Version]:
        """Takes one version, or (0) all of a name, away from everybody; raises NotFound."""
        last = self.find(name, number)
        gone = [last] if number else sorted(self._by_name[name].values(), key=lambda v: v.number)
        for version in gone:
            del self._by_id[version.id]
            del self._by_name[name][version.number]
            del self._by_request[version.request_id]
        if not self._by_name[name]:
            del self._by_name[name]
        return gone
