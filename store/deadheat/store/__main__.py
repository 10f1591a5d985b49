"""`python -m deadheat.store`: started by the scheduler daemon, ends with it."""

from __future__ import annotations

import sys

from deadheat.store.daemon import main

if __name__ == "__main__":
    sys.exit(main())
