"""pipeline/embedding/loading."""
