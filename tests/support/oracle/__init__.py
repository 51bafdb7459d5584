"""tests/support/oracle."""
