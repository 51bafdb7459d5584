"""pipeline/embedding/engine."""
