"""A daemon for the tests of children: `python -m tests.runtime.a_child`."""

from __future__ import annotations

import argparse
import signal
import sys
import threading

from deadheat.runtime.children import announce_ready, watch_parent


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--parent-fd", type=int)
    parser.add_argument("--ready-fd", type=int)
    parser.add_argument("--refuse", action="store_true")
    parser.add_argument("--stuck", action="store_true")
    found = parser.parse_args()
    if found.refuse:
        sys.stderr.write("some warning\nerror: the port is in use\n")
        return 1
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: ended.set())
    # A stuck child never notices; it has to be ended by the watch itself.
    watch_parent(found.parent_fd, (lambda: None) if found.stuck else ended.set)
    announce_ready(found.ready_fd, {"answer": 42})
    ended.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
