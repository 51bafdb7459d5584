"""consumers/cli."""
