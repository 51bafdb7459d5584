"""From chunks to vectors: loading a model, packing its input, running it."""
