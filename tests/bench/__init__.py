"""Benchmarks: commands, run by `make bench`, never as timed tests. Every figure stands beside a baseline of its run."""
