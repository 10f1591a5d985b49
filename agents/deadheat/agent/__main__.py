"""`python -m deadheat.agent`."""

from __future__ import annotations

import sys

from deadheat.agent.daemon import main

if __name__ == "__main__":
    sys.exit(main())
