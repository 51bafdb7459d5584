"""pipeline/embedding/kernels."""
