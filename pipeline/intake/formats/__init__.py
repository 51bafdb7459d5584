"""pipeline/intake/formats."""
