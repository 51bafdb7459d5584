"""The embedding engine: tokenizes, packs sequences into batches and runs them, token ids in and vectors out.

It imports kernels and nothing of loading; loading builds it.
"""
