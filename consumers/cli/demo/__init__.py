"""consumers/cli/demo."""
