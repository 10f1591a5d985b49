"""`python -m deadheat.cli`."""

from __future__ import annotations

import sys

from deadheat.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
