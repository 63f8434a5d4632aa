"""Benchmarks: freehold and its peers, in the same run, with the memory beside every time."""
