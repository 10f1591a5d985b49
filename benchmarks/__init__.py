"""Benchmarks: ratios measured in one run, both sides printed, targets beside them."""
