"""The search service: from the request as it arrived to the answer, without any transport."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from pipeline.errors import (
    MilvusStreamError,
    Mismatch,
    NotFound,
    RateLimited,
    RequestRefused,
    RequestTooLarge,
    Unavailable,
    UsageError,
)
from pipeline.query.answer import Freshness, SearchAnswer, SearchAnswers, SearchResult, Timing, shape_answer
from pipeline.query.candidates import DeadlinePassed
from pipeline.query.cursor import Cursors
from pipeline.query.description import CollectionDescription
from pipeline.query.documents.errors import NoSuchDocument
from pipeline.query.freshness.offsets import NotFreshYet
from pipeline.query.freshness.watch import NO_KAFKA, FreshnessWatch
from pipeline.query.listing import DocumentStatistics, ListedDocument
from pipeline.query.pages import Page, next_cursor, open_page
from pipeline.query.request.body import decode_json
from pipeline.query.request.invalid_request import InvalidRequest, MalformedRequest
from pipeline.query.request.request import MAX_RESULTS, SearchRequest, parse_request, request_model
from pipeline.query.search import Searcher
from pipeline.telemetry.metrics import QueryMetrics

_MARGIN_S = 0.05
_READ_S = 10.0

T = TypeVar("T")
Answer: TypeAlias = SearchAnswer | SearchAnswers
Outcome = Literal["ok", "invalid", "overloaded", "unavailable", "late", "timeout", "error"]
"""The label of `query_requests_total`."""


class Overloaded(RateLimited):
    """As many searches as allowed are under way, or wait for the model; the same request may succeed later."""


class QueryEmbedder(Protocol):
    """Embeds the texts of requests without blocking the event loop."""

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of shape (len(texts), dimension). Raises RateLimited, Unavailable, and what the model raises."""


class DirectEmbedder(QueryEmbedder):
    """Embeds each request by itself: for one search at a time. QueryBatcher embeds concurrent ones together."""

    def __init__(self, embed: Callable[[Sequence[str]], NDArray[np.float32]]) -> None:
        """`embed` is `Embedder.embed_queries`."""
        self._embed = embed

    @override
    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return await asyncio.to_thread(self._embed, texts)


@dataclass(frozen=True, slots=True)
class SearchReport:
    """How one search ended, for the log of whoever calls the service."""

    outcome: Outcome
    request: SearchRequest | None
    """None: it was not valid."""
    answer: Answer | None = None
    error: Exception | None = None


@dataclass(slots=True)
class Progress:
    """What is known of a search so far, for its report."""

    request: SearchRequest | None = None
    answer: Answer | None = None


class SearchService:
    """Answers searches on one event loop: check, embed, search on a bounded pool of threads, shape the answer."""

    def __init__(
        self,
        searcher: Searcher,
        embedder: QueryEmbedder | None,
        metrics: QueryMetrics,
        *,
        max_results: int = MAX_RESULTS,
        concurrency: int = 1,
        cursors: Cursors | None = None,
        freshness: FreshnessWatch | None = None,
    ) -> None:
        """Make it ready; starts no thread.

        `embedder`: None where every search is by words. `max_results`: of one request, all its texts together.
        `concurrency`: threads that search. `cursors`: None where answers have no further pages. `freshness`: None: not
        known, and no request can wait for a record.
        """
        request_model(max_results)  # takes some 2 ms, for which the first request need not wait
        self.max_results = max_results
        self.concurrency = concurrency
        self._searcher = searcher
        self._embedder = embedder
        self._metrics = metrics
        self._cursors = cursors
        self.freshness = freshness
        # A thread that Milvus keeps waiting beyond its request still counts, so threads never pile up.
        self._threads = ThreadPoolExecutor(concurrency, thread_name_prefix="search")

    @property
    def collection(self) -> str:
        """The name of the collection that is searched."""
        return self._searcher.collection

    async def describe(self, *, tenant: str | None = None) -> CollectionDescription:
        """Describe the collection to a client. Raises Unavailable, Mismatch, DeadlinePassed."""
        return await self._read(partial(self._searcher.describe, tenant=tenant))

    async def statistics(self, *, tenant: str | None = None) -> DocumentStatistics:
        """Count the documents. Raises as `describe`."""
        return await self._read(lambda: self._searcher.listing().statistics(tenant=tenant))

    async def documents(self, rows: object, *, tenant: str | None = None) -> list[ListedDocument]:
        """List the documents that a filter of a search request matches; None: all. Raises also InvalidRequest."""
        matching = parse_request({"query": "any", "filter": rows}).filter
        return await self._read(lambda: self._searcher.listing().documents(matching, tenant=tenant))

    async def answer(
        self,
        body: object,
        *,
        tenant: str | None = None,
        admit: Callable[[], None] = lambda: None,
        report: Callable[[SearchReport], None] = lambda _: None,
    ) -> Answer:
        """Answer one request: the bytes of a JSON text, or the same decoded. Its time runs from this call on.

        `tenant`: whose documents are searched; None: those of every tenant. It comes from who the caller is, never from
        the request. `admit` is called when the request is known to be valid, and raises Overloaded where too many are
        under way. `report` is called once at the end, before the call returns or raises.

        Raises MalformedRequest, InvalidRequest, Overloaded, DeadlinePassed, Unavailable, Mismatch; RequestRefused and
        RequestTooLarge where Milvus takes no such request.
        """
        arrived, arrived_ms = asyncio.get_running_loop().time(), time.time_ns() // 1_000_000
        with self.reported(report) as progress:
            decoded = decode_json(body) if isinstance(body, bytes) else body
            page = open_page(decoded, self.max_results, arrived_ms, self._cursors, tenant)
            progress.request = page.request
            self.enter(admit)
            progress.answer = answer = await self._answer(page, arrived)
        return answer

    def enter(self, admit: Callable[[], None]) -> None:
        """Begin a request that needs Milvus. Raises MilvusAway where it does not answer, and what `admit` raises.

        Known beforehand, so that nothing is embedded for it, and no thread waits.
        """
        self._searcher.api.check_reachable()
        admit()

    @contextmanager
    def reported(self, report: Callable[[SearchReport], None]) -> Iterator[Progress]:
        """Count a search by its outcome and report it, once, when the block ends."""
        progress = Progress()
        try:
            yield progress
        except Exception as error:
            outcome = outcome_of(error)
            self._metrics.requests.labels(outcome).inc()
            report(SearchReport(outcome, progress.request, error=error))
            raise
        self._metrics.requests.labels("ok").inc()
        report(SearchReport("ok", progress.request, progress.answer))

    def timed(self, result: SearchResult, arrived: float, ready: float, *, embedded: bool) -> Timing:
        """The timing of an answer that ends now, counted with its results. On the event loop's clock.

        `ready`: when there were vectors; `embedded`: whether a model made them.
        """
        ended = asyncio.get_running_loop().time()
        embed, search, total = (round(span * 1000, 3) for span in (ready - arrived, ended - ready, ended - arrived))
        timing = Timing(embed, search, total, None if result.rerank_s is None else round(result.rerank_s * 1000, 3))
        if result.rerank_s is not None:
            self._metrics.seconds.labels("rerank").observe(result.rerank_s)
        if result.rerank_failure is not None:
            self._metrics.rerank_failures.labels(result.rerank_failure).inc()
        for phase in ("embed", "search", "total") if embedded else ("search", "total"):
            self._metrics.seconds.labels(phase).observe(getattr(timing, phase) / 1000)
        for results in result.results:
            self._metrics.results.observe(len(results))
        return timing

    @property
    def searcher(self) -> Searcher:
        """What it searches with."""
        return self._searcher

    @property
    def metrics(self) -> QueryMetrics:
        """Its metrics."""
        return self._metrics

    async def on_thread(self, call: Callable[[float], T], deadline: float) -> T:
        """Call with the seconds that are left, on a thread of the pool. `deadline` is on the event loop's clock.

        Raises DeadlinePassed, and what the call raises.
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout_at(deadline):
                return await loop.run_in_executor(self._threads, lambda: call(_ends_earlier(deadline - loop.time())))
        except (TimeoutError, DeadlinePassed) as error:
            raise self._late() from error

    def close(self) -> None:
        """Take no further search; those that wait for a thread are cancelled."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self.freshness is not None:
            self.freshness.close()

    async def _read(self, read: Callable[[], T]) -> T:
        """Read in a thread of the searches. Raises Unavailable, Mismatch, DeadlinePassed."""
        self._searcher.api.check_reachable()
        try:
            async with asyncio.timeout(_READ_S):
                return await asyncio.get_running_loop().run_in_executor(self._threads, read)
        except NotFound as error:
            raise Unavailable(f"the collection {self.collection} was dropped a moment ago") from error
        except (TimeoutError, DeadlinePassed) as error:
            raise self._late() from error

    def _late(self) -> Exception:
        """The error of a request whose time ran out: more time is no advice where Milvus is away or starting."""
        try:
            self._searcher.api.check_serving(self.collection)
        except MilvusStreamError as error:
            return error
        return DeadlinePassed("the time of the request ran out; allow more with timeout_ms")

    async def _answer(self, page: Page, arrived: float) -> Answer:
        """`arrived` is on the event loop's clock."""
        request, now = page.request, asyncio.get_running_loop().time
        deadline = arrived + request.timeout_ms / 1000
        try:
            async with asyncio.timeout_at(deadline):
                vectors = await self._vectors(request)
                embedded = now()
                since = await self._wait(request, deadline - embedded)
                waited = now()
                search = partial(self._search, page, vectors, deadline, now, since)
                result = await asyncio.get_running_loop().run_in_executor(self._threads, search)
        except (TimeoutError, DeadlinePassed) as error:
            raise self._late() from error
        timing = self.timed(result, arrived, embedded, embedded=request.embeds)
        if request.waits:
            self._metrics.seconds.labels("wait").observe(waited - embedded)
        cursor, warnings = next_cursor(page, result, self._cursors)
        result = replace(result, warnings=(*result.warnings, *warnings))
        fresh = self.last_freshness(page.tenant)
        return shape_answer(result, many=request.many, freshness=fresh, timing=timing, next_cursor=cursor)

    def last_freshness(self, tenant: str | None) -> Freshness:
        """How fresh an answer of now is, as it was last read; the newest event time may be another tenant's."""
        fresh = Freshness() if self.freshness is None else self.freshness.last()
        return fresh if tenant is None else replace(fresh, event_time=None)

    async def _vectors(self, request: SearchRequest) -> NDArray[np.float32] | None:
        if not request.embeds:
            return None if request.vector is None else request.vector.values
        if self._embedder is None:
            raise UsageError("a search by meaning needs a model, and this service has none")
        try:
            return await self._embedder.embed(request.queries)
        except RateLimited as error:
            raise Overloaded(str(error)) from error

    async def _wait(self, request: SearchRequest, left_s: float) -> int | None:
        """Wait for the records that the request names; returns `since` of `Searcher.search`."""
        if request.freshness is None or not request.freshness.wait_for:
            return None
        if self.freshness is None:
            raise InvalidRequest("/freshness/wait_for", NO_KAFKA)
        # It ends a little earlier than the request, so that the answer can say what is missing.
        most_s = _ends_earlier(left_s)
        if (wanted_ms := request.freshness.timeout_ms) is not None:
            most_s = min(most_s, wanted_ms / 1000)
        try:
            since = await self.freshness.wait(request.freshness.wait_for, most_s)
        except RateLimited as error:
            raise Overloaded(str(error)) from error
        return None if request.freshness.level == "strong" else since

    def _search(
        self,
        page: Page,
        vectors: NDArray[np.float32] | None,
        deadline: float,
        clock: Callable[[], float],
        since: int | None,
    ) -> SearchResult:
        """Search in a thread; what waited for the thread is taken off the time that is left."""
        return self._searcher.search(
            page.request,
            vectors,
            _ends_earlier(deadline - clock()),
            now_ms=page.now_ms,
            tenant=page.tenant,
            returned=page.returned,
            since=since,
        )


def _ends_earlier(left_s: float) -> float:
    """The time of a call: it ends a little earlier than the request, so that part of an answer can still be sent."""
    return left_s - min(_MARGIN_S, left_s / 10)


def outcome_of(error: Exception) -> Outcome:
    """The outcome that an error of `SearchService.answer` counts as."""
    match error:
        case Overloaded():
            return "overloaded"
        case MalformedRequest() | InvalidRequest() | RequestRefused() | RequestTooLarge() | NoSuchDocument():
            return "invalid"
        case DeadlinePassed():
            return "timeout"
        case NotFreshYet():
            return "late"
        case Unavailable() | Mismatch() | UsageError():
            return "unavailable"
        case _:
            return "error"
