"""Forward passes of a model, as the batch runner sees them: token ids in, vectors out."""

from collections.abc import Sequence
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pipeline.embedding.engine.batching import SpecialTokens

Ids: TypeAlias = Sequence[NDArray[np.int32]]
"""Token ids of each text, without special tokens."""


class VectorsFuture(Protocol):
    """Vectors that may still be on their way to host memory."""

    def wait(self) -> NDArray[np.float32]:
        """Block until the vectors have arrived; shape (n, dimension)."""


class ReadyVectors:
    """Vectors that are in host memory already."""

    __slots__ = ("_vectors",)

    def __init__(self, vectors: NDArray[np.float32]) -> None:
        self._vectors = vectors

    def wait(self) -> NDArray[np.float32]:
        """Return the vectors at once."""
        return self._vectors


class Passes(Protocol):
    """A model that computes one batch at a time in each of several threads."""

    @property
    def flat(self) -> bool:
        """Whether a batch is one row without padding; else each text is a row, padded to the longest."""

    def run(self, ids: Ids, special_tokens: SpecialTokens) -> VectorsFuture | None:
        """One forward pass over texts, each surrounded by the special tokens; None where memory does not hold it."""

    def start_thread(self, threads: int) -> None:
        """Prepare the calling thread for passes of so many CPU threads each."""

    def close(self) -> None:
        """Release the weights."""
