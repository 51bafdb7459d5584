"""tests/property."""
