"""An agent, as a process, that finds its nodes of memory below $SPLIT_SYS."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from deadheat.agent.daemon import parse, run
from deadheat.runtime.settings import Sources

if __name__ == "__main__":
    found = parse(None)
    flags = {name: value for name, value in vars(found).items() if not name.endswith("_fd")}
    sources = Sources("agent", flags, config=found.config)
    sys.exit(
        run(
            sources,
            parent_fd=found.parent_fd,
            ready_fd=found.ready_fd,
            sys_root=Path(os.environ["SPLIT_SYS"]),
        )
    )
