"""`python -m deadheat.scheduler`."""

from __future__ import annotations

import sys

from deadheat.scheduler.daemon import main

if __name__ == "__main__":
    sys.exit(main())
