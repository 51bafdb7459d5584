"""consumers/audit."""
