"""Reranking, as a request asks for it."""

from typing import Annotated, TypeAlias

from pydantic import Discriminator, Tag

from pipeline.query.request.filters import StrictModel
from pipeline.query.request.value_types import Between

MAX_CANDIDATES = 200
"""Most texts of a request that are reranked, all its queries and all chunks of documents together."""
DEFAULT_TOP = 20
DEFAULT_BUDGET_MS = 1_000
_MIN_BUDGET_MS, _MAX_BUDGET_MS = 10, 60_000
_EXPECTED = 'must be true, false, or an object such as {"top": 50, "budget_ms": 500}'


class RerankOptions(StrictModel):
    """How many of the best candidates are reranked, and how long that may take."""

    top: Annotated[int, Between(1, MAX_CANDIDATES)] | None = None
    """Candidates of each text, at least `limit`; null: 20, or fewer where the request has many texts."""
    budget_ms: Annotated[int, Between(_MIN_BUDGET_MS, _MAX_BUDGET_MS)] = DEFAULT_BUDGET_MS
    """Most milliseconds; afterwards the order of the search is kept."""

    def window(self, limit: int, chunks: int) -> int | None:
        """How many results of each text are reranked; None: more than can be.

        `chunks`: texts of the request times chunks of each result.
        """
        most = MAX_CANDIDATES // chunks
        window = max(limit, min(DEFAULT_TOP, most) if self.top is None else self.top)
        return window if window <= most else None


DEFAULT_RERANK = RerankOptions()


def _shape(value: object) -> str | None:
    if isinstance(value, bool):
        return "switch"
    return "options" if isinstance(value, dict | RerankOptions) else None


Rerank: TypeAlias = Annotated[
    Annotated[bool, Tag("switch")] | Annotated[RerankOptions, Tag("options")],
    Discriminator(_shape, custom_error_type="rerank", custom_error_message=_EXPECTED),
]
