"""tests/support/fakes."""
