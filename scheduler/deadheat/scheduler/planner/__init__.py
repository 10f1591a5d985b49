"""The decision: from a snapshot of the pool and a program to a complete plan, purely.

Rules of this package: no clock, no chance, no I/O; `now` and every number come in with the input;
the same input gives the same plan.
"""
