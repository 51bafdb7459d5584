"""pipeline/store/flushing."""
