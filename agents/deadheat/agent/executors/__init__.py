"""Executors: processes that multiply. They know blocks and panels, and nothing of the cluster."""
