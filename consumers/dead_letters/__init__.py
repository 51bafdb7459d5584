"""consumers/dead_letters."""
