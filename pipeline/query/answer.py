"""The answer of a search, in the shape that leaves as JSON; OpenAPI is made from these very types."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

SkipReason = Literal["outside_time_range", "not_loaded", "dropped"]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


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
    """Higher is always nearer: COSINE and IP as Milvus gives them, L2 as 1 / (1 + distance)."""
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
    """What the answer covers."""

    partitions: tuple[str, ...]
    """Names of the Milvus partitions searched."""
    skipped: tuple[Skipped, ...]


@dataclass(frozen=True, slots=True)
class SearchResult:
    """What a search found: results of every query in the order asked, best first."""

    results: tuple[tuple[Result, ...], ...]
    partial: bool
    """The time ran out, or Milvus failed, before enough documents were collected."""
    searched: Searched
    warnings: tuple[str, ...]
    """What the caller probably did not mean, such as a filter on a field that no row has."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds spent."""

    embed: float
    search: float
    total: float


@dataclass(frozen=True, slots=True)
class SearchAnswer:
    """Answer to a request whose `query` is one text."""

    results: tuple[Result, ...]
    partial: bool
    searched: Searched
    warnings: tuple[str, ...]
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
    timing_ms: Timing


def answer(found: SearchResult, *, many: bool, timing: Timing) -> SearchAnswer | SearchAnswers:
    """Shape what was found like the question: a list for a list, else the one query's results."""
    if many:
        answers = tuple(QueryResults(results) for results in found.results)
        return SearchAnswers(answers, found.partial, found.searched, found.warnings, timing)
    return SearchAnswer(found.results[0], found.partial, found.searched, found.warnings, timing)


def answer_json(shaped: SearchAnswer | SearchAnswers) -> dict[str, Any]:
    """The answer as plain values, ready for a JSON encoder."""
    return asdict(shaped)


def format_time(epoch_ms: int) -> str:
    """Epoch milliseconds as RFC 3339 in UTC, e.g. `2026-11-22T08:30:00.250Z`."""
    moment = _EPOCH + timedelta(milliseconds=epoch_ms)
    return moment.replace(tzinfo=None).isoformat(timespec="milliseconds" if epoch_ms % 1000 else "seconds") + "Z"
