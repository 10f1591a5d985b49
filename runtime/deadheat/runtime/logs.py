"""Logs: a sentence for people, stable keys for machines, on stderr.

Under journald the time stamp is left out and a priority prefix is put in; `DEADHEAT_LOG=json`
prints one JSON object a line instead. Names that came by wire are escaped, so that a log line
is always one line.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping
from typing import Final

from deadheat.runtime import variables

_ROOT: Final = "deadheat"
_KEYS: Final = "deadheat_keys"
#: syslog's numbers for Python's levels.
_PRIORITY: Final = {"DEBUG": 7, "INFO": 6, "WARNING": 4, "ERROR": 3, "CRITICAL": 2}


def warn_of_unread(environment: Mapping[str, str] = os.environ) -> None:
    """Says which variables look like settings, and are none. Called once, by a daemon."""
    for sentence in variables.unread(environment):
        get("settings").warning(sentence, extra=keys("environment"))


def get(name: str) -> logging.Logger:
    return logging.getLogger(f"{_ROOT}.{name}")


def keys(action: str, **values: object) -> dict[str, object]:
    """For `extra=`: the action and its keys, the same words in every process."""
    return {_KEYS: {"action": action, **values}}


def _plain(value: object) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if text.isprintable() and " " not in text else repr(text)


class _Text(logging.Formatter):
    def __init__(self, journald: bool) -> None:
        super().__init__("%(message)s" if journald else "%(asctime)s %(levelname)s %(message)s")
        self._journald = journald

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        values: Mapping[str, object] = getattr(record, _KEYS, {})
        if values:
            line += " " + " ".join(f"{key}={_plain(value)}" for key, value in values.items())
        return f"<{_PRIORITY.get(record.levelname, 6)}>{line}" if self._journald else line


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        values: Mapping[str, object] = getattr(record, _KEYS, {})
        entry: dict[str, object] = {
            "time": self.formatTime(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **values,
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)


def _is_journald() -> bool:
    """systemd says which device and inode its journal stream has; stderr may be redirected."""
    stream = os.environ.get("JOURNAL_STREAM", "")
    status = os.fstat(sys.stderr.fileno())
    return stream == f"{status.st_dev}:{status.st_ino}"


def configure(level: str = "info") -> None:
    """Sets up logging for a daemon. Called once, at its start."""
    handler = logging.StreamHandler(sys.stderr)
    as_json = os.environ.get("DEADHEAT_LOG") == "json"
    handler.setFormatter(_Json() if as_json else _Text(_is_journald()))
    root = logging.getLogger(_ROOT)
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    root.propagate = False
