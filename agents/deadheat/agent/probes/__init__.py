"""Probes: what the machine says about itself. I/O comes in here and nowhere else.

Every probe takes the root of procfs as a parameter, so that recorded trees of other machines are
test data.
"""
