"""What scores texts for a query: the interface of every reranker, and how one fails."""

from collections.abc import Sequence
from typing import Literal, Protocol, TypeAlias

RerankFailure: TypeAlias = Literal["timeout", "overloaded", "failed"]
"""The label of `query_rerank_failures_total`."""


RERANK = "rerank"
"""The name under which a hit carries the reranker's score."""


class RerankFailed(Exception):
    """A reranker gave no scores; the order of the search is kept. Its message is for the log, never for a client."""

    def __init__(self, reason: RerankFailure, detail: str = "") -> None:
        super().__init__(detail or reason)
        self.reason = reason


class Reranker(Protocol):
    """Says how well texts answer a query. Used by many threads at a time."""

    def scores(self, query: str, texts: Sequence[str], timeout_s: float) -> list[float]:
        """The score of each text, in the order of the texts: from 0 to 1, higher is better.

        Blocks up to `timeout_s`. Raises RerankFailed, and nothing else.
        """

    def close(self) -> None:
        """Release threads and memory."""
