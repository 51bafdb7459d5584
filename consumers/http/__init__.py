"""consumers/http."""
