"""consumers/config."""
