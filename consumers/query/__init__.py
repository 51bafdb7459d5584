"""consumers/query."""
