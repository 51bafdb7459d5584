"""What a search finds and what it costs; see docs/benchmarks.md."""
