"""pipeline/store/collection."""
