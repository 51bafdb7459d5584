"""The answer of a search in the shape of its JSON; OpenAPI is derived from these types."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pipeline.query.facet_counts import Facets
from pipeline.query.rerank.reranker import RerankFailure

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
    BM25 gives it. By both: up to 1, which a row has that is the first of both orders; where the query names a stored
    document by its id, that order counts too, and the others then have at most a third unless `fusion` has weights.
    Of reranked results: the reranker's, from 0 to 1.
    """
    scores: Mapping[str, float]
    """By both: the scores `dense` and `keyword` of those of the two searches that found it. `id`: 1, where the query
    names the document by its id; by words then `keyword` as well, where they are there. With recency the share
    `recency` that its age has left, up to 1. Of reranked results `rerank`, the reranker's score. Else empty.
    """
    event_time: str
    """RFC 3339, UTC."""
    chunk: int
    """Which chunk of the document, from 0."""
    partition: str | None
    """Name of the Milvus partition; null where the name does not follow from the event time."""
    source: Origin
    metadata: Mapping[str, Any]
    highlights: tuple[tuple[int, int], ...] | None = None
    """Offsets [start, end) in `text`, in code points, of the terms of the query; null where they were not wanted."""
    passage: tuple[int, int] | None = None
    """Offsets of the sentence of `text` that fits best; null with `highlights`."""
    relevance: float | None = None
    """From 0 to 1: 0.5 at a similarity that a text which has nothing to do with the query rarely reaches. Of reranked
    results the reranker's score. Null where it is not known, as for what only words or ids found.
    """


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

    def counts(self) -> "SearchedCounts":
        """The numbers of them."""
        reasons: Counter[SkipReason] = Counter(skip.reason for skip in self.skipped)
        return SearchedCounts(len(self.partitions), len(self.skipped), dict(reasons))


@dataclass(frozen=True, slots=True)
class SearchedCounts:
    """How many Milvus partitions an answer covers, and how many it does not. `explain` names them."""

    partitions: int
    skipped: int
    reasons: Mapping[SkipReason, int]
    """How many were skipped for each reason."""


@dataclass(frozen=True, slots=True)
class ExplainedIndex:
    """The index that was searched by vectors."""

    type: str
    metric: str


@dataclass(frozen=True, slots=True)
class FetchRound:
    """One read of candidates; a further one reads more of them, where too few documents were found."""

    limit: int
    """Most rows for each text and each order."""
    rows: int
    """Rows read, all of these together."""


@dataclass(frozen=True, slots=True)
class FusionUsed:
    """How the orders of one text became one."""

    k: int
    weights: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row was in one order, from 1, and its score there."""

    rank: int
    score: float


@dataclass(frozen=True, slots=True)
class ExplainedRerank:
    """Where a row was before and after reranking, from 1."""

    before: int
    after: int


@dataclass(frozen=True, slots=True)
class ExplainedResult:
    """The origin of one result's score."""

    id: str
    orders: Mapping[str, Place]
    """By `dense`, `keyword` and `id`, whichever found the row."""
    fused: float | None
    """Of a hybrid search: the score of both, before recency."""
    rerank: ExplainedRerank | None = None
    """Where the results were reranked."""


@dataclass(frozen=True, slots=True)
class ExplainedQuery:
    """How the results of one text were found."""

    fusion: FusionUsed | None
    older_versions: int
    """Rows left out because a newer version of their document is stored."""
    results: tuple[ExplainedResult, ...]
    """In the order of the results."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """How an answer was found."""

    mode: Mode
    index: ExplainedIndex | None
    """Null where only words were searched."""
    params: Mapping[str, Any]
    """What was sent to the index with the last read: of the request or the defaults, raised to the rows read."""
    consistency: Literal["bounded", "strong"]
    """bounded: rows acknowledged in the last moment before the search may be missing."""
    partitions: Searched
    phases_ms: Mapping[str, float]
    """Milliseconds of the search by its phases, in their order."""
    rounds: tuple[FetchRound, ...]
    candidates: int
    """Rows read in all rounds."""
    queries: tuple[ExplainedQuery, ...]
    """One for each text."""


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
    total: int | None = None
    """Rows that the filter and the time range match; None: not counted."""
    explanation: Explanation | None = None
    facets: Facets | None = None
    """None: not wanted, or not counted, and then there is a warning."""
    more: bool = False
    """There may be results after these."""
    returned: tuple[bytes, ...] = ()
    """The digests of the results, for the cursor of a single text."""
    rerank_s: float | None = None
    """What reranking took; None: nothing was to be reranked."""
    rerank_failure: RerankFailure | None = None


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds from the arrival of the request to the vectors, from there to the results, and of both together."""

    embed: float
    search: float
    total: float
    rerank: float | None = None
    """The part of `search` that reranking took, also where it failed; null where nothing was to be reranked."""


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
    searched: SearchedCounts
    warnings: tuple[str, ...]
    mode: Mode
    freshness: Freshness
    timing_ms: Timing
    total: int | None = None
    """Rows that the filter and the time range match, where the request has `count`; null where that took too long."""
    explain: Explanation | None = None
    """Where the request has `explain`."""
    facets: Facets | None = None
    """Null where none were wanted or counted, and on every page but the first."""
    next_cursor: str | None = None
    """What a request for the next page sends as `cursor`; null where there is none."""


@dataclass(frozen=True, slots=True)
class QueryResults:
    """The results of one text of a list."""

    results: tuple[Result, ...]


@dataclass(frozen=True, slots=True)
class SearchAnswers:
    """Answer to a request whose `query` is a list: one element of `answers` for each text, in the same order."""

    answers: tuple[QueryResults, ...]
    partial: bool
    searched: SearchedCounts
    warnings: tuple[str, ...]
    mode: Mode
    freshness: Freshness
    timing_ms: Timing
    total: int | None = None
    """Rows that the filter and the time range match, where the request has `count`; null where that took too long."""
    explain: Explanation | None = None
    """Where the request has `explain`."""
    facets: Facets | None = None
    """Null where none were wanted or counted."""


def shape_answer(
    result: SearchResult, *, many: bool, freshness: Freshness, timing: Timing, next_cursor: str | None = None
) -> SearchAnswer | SearchAnswers:
    """The answer to a request: a list of results for a list of texts, else the results of the one text."""
    rest: dict[str, Any] = {
        "partial": result.partial,
        "searched": result.searched.counts(),
        "warnings": result.warnings,
        "mode": result.mode,
        "freshness": freshness,
        "timing_ms": timing,
        "total": result.total,
        "explain": result.explanation,
        "facets": result.facets,
    }
    if many:
        return SearchAnswers(tuple(QueryResults(results) for results in result.results), **rest)
    return SearchAnswer(result.results[0], **rest, next_cursor=next_cursor)


def answer_json(answer: SearchAnswer | SearchAnswers) -> dict[str, Any]:
    """The answer as plain values, ready for a JSON encoder."""
    return asdict(answer)
