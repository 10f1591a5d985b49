"""The simulator: the very same core and planner on a virtual clock, with devices that are played.

Rules of this package: pure. No wall clock, files, threads or sockets; chance comes only from
generators seeded by the scenario, so that the same scenario gives the same outcome. Times are
seconds of virtual time from the start of the scenario.
"""
