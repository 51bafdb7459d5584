"""From a document's text to chunks of token ids that cover it. Pure.

One tokenizer pass with offsets; cuts fall at the last sentence end that fits.
"""

from pipeline.chunking.chunker import Chunker, ChunkingPolicy
from pipeline.records import Tokenizer, Tokens

__all__ = ["Chunker", "ChunkingPolicy", "Tokenizer", "Tokens"]
