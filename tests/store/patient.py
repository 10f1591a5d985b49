"""A store with as much time for its end as it needs, on a busy machine too."""

from __future__ import annotations

import sys
from unittest import mock

from deadheat.runtime import children
from deadheat.store import daemon

if __name__ == "__main__":
    with (
        mock.patch.object(children, "ORPHAN_LIMIT_S", 60.0),
        mock.patch.object(daemon, "ORPHAN_BUDGET_S", 60.0),
    ):
        sys.exit(daemon.main())
