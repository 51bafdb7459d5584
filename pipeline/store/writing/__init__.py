"""pipeline/store/writing."""
