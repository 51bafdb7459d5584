"""consumers/local."""
