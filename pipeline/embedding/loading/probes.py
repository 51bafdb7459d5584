"""Probes: texts of which every engine must give the right vectors before it is trusted with a model."""

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from pipeline.embedding.engine.batch_runner import BatchRunner
from pipeline.embedding.engine.tokenizer import ModelTokenizer
from pipeline.records import Chunk

PROBES = ("A", "what the model reads", "The quick brown fox jumps over the lazy dog, 27 times. " * 4)
"""Texts whose vectors must agree with those of sentence-transformers."""
_TEXT = "The quick brown fox jumps over the lazy dog; why it does so, nobody has ever found out."
_LENGTHS = (1, 3, 17, 57, 60)
"""Tokens of the probes; the two longest have one padded length, so attention processes them as one group."""
_BEYOND_WINDOW = 40
"""Tokens by which one probe is longer than each sliding window, so that a wrong window changes its vector."""


def probe_sequences(tokenizer: ModelTokenizer, longest: int, windows: Collection[int]) -> list[NDArray[np.int32]]:
    """Token ids of different texts, none above `longest` tokens, two of one length; `windows`: sliding windows."""
    words = tokenizer.tokenize([_TEXT])[0].ids
    beyond_windows = (window + _BEYOND_WINDOW for window in windows)
    lengths = {min(length, longest) for length in (*_LENGTHS, *beyond_windows)}
    return [np.resize(np.roll(words, -shift), length) for shift, length in enumerate([*sorted(lengths), min(lengths)])]


def least_cosine(
    runner: BatchRunner, tokenizer: ModelTokenizer, reference: NDArray[np.float32], *, query: bool
) -> float:
    """The least cosine of the probes' vectors to those in `reference`, shape (probes, dimension)."""
    if query:
        ids = tokenizer.query_ids(PROBES)
    else:
        tokens = tokenizer.tokenize(PROBES)
        chunks = [
            Chunk(0, 0, len(text), text, found.ids[: tokenizer.max_tokens])
            for text, found in zip(PROBES, tokens, strict=True)
        ]
        ids = tokenizer.document_ids(chunks)
    vectors = runner.vectors(ids, tokenizer.special_tokens(query=query))
    norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(reference, axis=1)
    return float(np.min(np.sum(vectors * reference, axis=1) / norms))
