"""The answer of a search in the shape of its JSON; OpenAPI is derived from these types."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

Mode = Literal["dense", "keyword", "hybrid"]
"""By meaning, by exact words, or both."""
SkipReason = Literal["outside_time_range", "not_loaded", "dropped"]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where in Kafka the document's current version came from."""

    topic: str
    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class Result:
    """One document (its best chunk), or one chunk when nothing is grouped."""

    id: str
    """Primary key of the row."""
    doc_id: str
    text: str
    """Text of the chunk."""
    score: float
    """Higher is always better. By meaning: COSINE and IP as Milvus gives them, L2 as 1 / (1 + distance). By words: as
    BM25 gives it. By both: up to 1, which a row has that is the first of both orders.
    """
    scores: Mapping[str, float]
    """By both: the scores `dense` and `keyword` of those of the two searches that found it. With recency the share
    `recency` that its age has left, up to 1. Else empty.
    """
    event_time: str
    """RFC 3339, UTC."""
    chunk: int
    """Which chunk of the document, from 0."""
    partition: str | None
    """Name of the Milvus partition; null where the name does not follow from the event time."""
    source: Origin
    metadata: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Skipped:
    """A Milvus partition that was not searched."""

    name: str
    reason: SkipReason


@dataclass(frozen=True, slots=True)
class Searched:
    """The Milvus partitions that an answer covers, and those it does not."""

    partitions: tuple[str, ...]
    """Names of the Milvus partitions searched."""
    skipped: tuple[Skipped, ...]


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The results of a search: of every query in the order of the request, best first."""

    results: tuple[tuple[Result, ...], ...]
    partial: bool
    """The time ran out, or Milvus failed, before enough documents were collected."""
    searched: Searched
    warnings: tuple[str, ...]
    """Likely mistakes in the request, such as a filter on a field that no row has."""
    mode: Mode
    """How it was searched."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds from the arrival of the request to the vectors, from there to the results, and of both together."""

    embed: float
    search: float
    total: float


@dataclass(frozen=True, slots=True)
class Freshness:
    """How fresh the collection is, as it was read beside earlier requests; null: not known."""

    event_time: str | None = None
    """The newest event time that is known to be searchable, RFC 3339, UTC."""
    lag_s: float | None = None
    """Age in seconds of the oldest record in Kafka that is not committed; 0 without any."""


@dataclass(frozen=True, slots=True)
class SearchAnswer:
    """Answer to a request whose `query` is one text."""

    results: tuple[Result, ...]
    partial: bool
    searched: Searched
    warnings: tuple[str, ...]
    mode: Mode
    freshness: Freshness
    timing_ms: Timing


@dataclass(frozen=True, slots=True)
class QueryResults:
    """The results of one text of a list."""

    results: tuple[Result, ...]


@dataclass(frozen=True, slots=True)
class SearchAnswers:
    """Answer to a request whose `query` is a list: one element of `answers` for each text, in the same order."""

    answers: tuple[QueryResults, ...]
    partial: bool
    searched: Searched
    warnings: tuple[str, ...]
    mode: Mode
    freshness: Freshness
    timing_ms: Timing


def shape_answer(
    result: SearchResult, *, many: bool, freshness: Freshness, timing: Timing
) -> SearchAnswer | SearchAnswers:
    """The answer to a request: a list of results for a list of texts, else the results of the one text."""
    rest = (result.partial, result.searched, result.warnings, result.mode, freshness, timing)
    if many:
        return SearchAnswers(tuple(QueryResults(results) for results in result.results), *rest)
    return SearchAnswer(result.results[0], *rest)


def answer_json(answer: SearchAnswer | SearchAnswers) -> dict[str, Any]:
    """The answer as plain values, ready for a JSON encoder."""
    return asdict(answer)
