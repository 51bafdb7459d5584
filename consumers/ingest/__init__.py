"""consumers/ingest."""
