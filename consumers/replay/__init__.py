"""consumers/replay."""
