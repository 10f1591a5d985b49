"""The core: all state changes of the scheduler in one synchronous place, without I/O.

`Core.handle(event, now) -> effects`. Rules of this package: no clock, no chance, no I/O; what is
to be done is returned as effects, and whoever carries them out commits before it sends.
"""
