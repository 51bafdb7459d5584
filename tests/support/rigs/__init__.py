"""tests/support/rigs."""
