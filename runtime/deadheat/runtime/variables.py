"""Environment variables of deadheat: all that anybody reads, and which of those that are set
nobody does.

A misspelt one is no error: it may be a newer version's, or somebody's own. But who set it believes
in it, so it is said.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Final

PREFIX: Final = "DEADHEAT_"
#: Settings, as `Sources` has them.
_SETTINGS: Final = (
    *("CACHE_DIR", "CPUS", "DISK", "EPHEMERAL", "GPUS", "INSECURE", "LISTEN", "LOG_LEVEL"),
    *("MEMORY", "MEMORY_DIR", "NAME", "NUMA", "ONCE", "PEERS", "POLITENESS", "SCHEDULER"),
    *("SHARES_CPUS", "STATE_DIR", "TLS_CA", "TLS_CERT", "TLS_KEY", "UNTIL", "YIELD_ABOVE"),
    "YIELD_HOURS",
)
#: How logs and errors look, and the command that the batch scripts of Slurm start.
_OTHERS: Final = ("COMMAND", "DEBUG", "LOG")
KNOWN: Final = frozenset(PREFIX + name for name in (*_SETTINGS, *_OTHERS))
#: What Kubernetes gives to pods for a service that is called deadheat or deadheat-...
_SERVICE: Final = re.compile(r"(\w+_)?(SERVICE_(HOST|PORT)|PORT)(_\w+)?")


def unread(environment: Mapping[str, str]) -> list[str]:
    """A sentence for each variable that looks like ours and that nobody reads.

    >>> unread({"DEADHEAT_MEMROY": "8G", "DEADHEAT_LOG": "json", "HOME": "/root"})
    ['nobody reads the environment variable DEADHEAT_MEMROY; did you mean DEADHEAT_MEMORY?']
    """
    is_pod = "KUBERNETES_SERVICE_HOST" in environment
    found = []
    for name in sorted(environment):
        if not name.startswith(PREFIX) or name in KNOWN:
            continue
        if is_pod and _SERVICE.fullmatch(name.removeprefix(PREFIX)):
            continue
        close = get_close_matches(name.upper(), sorted(KNOWN), 1)
        hint = f"; did you mean {close[0]}?" if close else ""
        found.append(f"nobody reads the environment variable {_shown(name)}{hint}")
    return found


def _shown(name: str) -> str:
    """It ends up on terminals and in logs."""
    return name if name.isprintable() else ascii(name)
