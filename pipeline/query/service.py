"""The search service: from the request as it arrived to the answer, without any transport."""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from pipeline.errors import Mismatch, RateLimited, RequestRefused, RequestTooLarge, Unavailable, UsageError
from pipeline.query.answer import SearchAnswer, SearchAnswers, SearchResult, Timing, shape_answer
from pipeline.query.candidates import DeadlinePassed
from pipeline.query.request.invalid_request import InvalidRequest, MalformedRequest
from pipeline.query.request.request import MAX_RESULTS, SearchRequest, decode_json, parse_request, request_model
from pipeline.query.search import Searcher
from pipeline.telemetry.metrics import QueryMetrics

_MARGIN_S = 0.05

Answer: TypeAlias = SearchAnswer | SearchAnswers
Outcome = Literal["ok", "invalid", "overloaded", "unavailable", "timeout", "error"]
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
    ) -> None:
        """Make it ready; starts no thread.

        `embedder`: None where every search is by words. `max_results`: of one request, all its texts together.
        `concurrency`: threads that search.
        """
        request_model(max_results)  # takes some 2 ms, for which the first request need not wait
        self.max_results = max_results
        self.concurrency = concurrency
        self._searcher = searcher
        self._embedder = embedder
        self._metrics = metrics
        # A thread that Milvus keeps waiting beyond its request still counts, so threads never pile up.
        self._threads = ThreadPoolExecutor(concurrency, thread_name_prefix="search")

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
        request = None
        try:
            request = parse_request(decode_json(body) if isinstance(body, bytes) else body, self.max_results)
            admit()
            answer = await self._answer(request, arrived, arrived_ms, tenant)
        except Exception as error:
            outcome = outcome_of(error)
            self._metrics.requests.labels(outcome).inc()
            report(SearchReport(outcome, request, error=error))
            raise
        self._metrics.requests.labels("ok").inc()
        report(SearchReport("ok", request, answer))
        return answer

    def close(self) -> None:
        """Take no further search; those that wait for a thread are cancelled."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _answer(self, request: SearchRequest, arrived: float, arrived_ms: int, tenant: str | None) -> Answer:
        """`arrived` is on the event loop's clock, `arrived_ms` in epoch milliseconds."""
        now = asyncio.get_running_loop().time
        deadline = arrived + request.timeout_ms / 1000
        try:
            async with asyncio.timeout_at(deadline):
                vectors = await self._embed(request)
                embedded = now()
                search = partial(self._search, request, vectors, deadline, now, arrived_ms, tenant=tenant)
                result = await asyncio.get_running_loop().run_in_executor(self._threads, search)
        except TimeoutError as error:
            raise DeadlinePassed("the time of the request ran out; allow more with timeout_ms") from error
        ended = now()
        timing = Timing(*(round(span * 1000, 3) for span in (embedded - arrived, ended - embedded, ended - arrived)))
        for phase in ("search", "total") if vectors is None else ("embed", "search", "total"):
            self._metrics.seconds.labels(phase).observe(getattr(timing, phase) / 1000)
        for results in result.results:
            self._metrics.results.observe(len(results))
        return shape_answer(result, many=request.many, timing=timing)

    async def _embed(self, request: SearchRequest) -> NDArray[np.float32] | None:
        if request.mode == "keyword":
            return None
        if self._embedder is None:
            raise UsageError("a search by meaning needs a model, and this service has none")
        try:
            return await self._embedder.embed(request.queries)
        except RateLimited as error:
            raise Overloaded(str(error)) from error

    def _search(
        self,
        request: SearchRequest,
        vectors: NDArray[np.float32] | None,
        deadline: float,
        clock: Callable[[], float],
        now_ms: int,
        *,
        tenant: str | None,
    ) -> SearchResult:
        """Search in a thread; what waited for the thread is taken off the time that is left."""
        left_s = deadline - clock()
        # The searcher ends a little earlier than the request, so that part of an answer can still be sent.
        left_s -= min(_MARGIN_S, left_s / 10)
        return self._searcher.search(request, vectors, left_s, now_ms=now_ms, tenant=tenant)


def outcome_of(error: Exception) -> Outcome:
    """The outcome that an error of `SearchService.answer` counts as."""
    match error:
        case Overloaded():
            return "overloaded"
        case MalformedRequest() | InvalidRequest() | RequestRefused() | RequestTooLarge():
            return "invalid"
        case DeadlinePassed():
            return "timeout"
        case Unavailable() | Mismatch() | UsageError():
            return "unavailable"
        case _:
            return "error"
