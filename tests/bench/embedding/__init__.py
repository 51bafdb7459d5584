"""The embedding engine against what the hardware and sentence-transformers give: run by `make bench-embed`."""
