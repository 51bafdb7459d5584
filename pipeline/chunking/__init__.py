"""Chunking: cut a document's text into chunks of token ids that cover it. Pure.

The text is tokenized once, with offsets; cuts fall at the last sentence end that fits.
"""

from pipeline.chunking.boundaries import pieces, sentence_starts
from pipeline.chunking.chunker import Chunker, ChunkingPolicy

__all__ = ["Chunker", "ChunkingPolicy", "pieces", "sentence_starts"]
