"""consumers/wiring."""
