"""consumers/cli/doctor."""
