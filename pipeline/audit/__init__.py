"""pipeline/audit."""
