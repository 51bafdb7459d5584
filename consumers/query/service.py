"""What one search request goes through inside the query worker, on one event loop."""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import structlog
from numpy.typing import NDArray

from consumers.http.problems import overloaded, problem_of
from consumers.query.body import decode
from pipeline.errors import RateLimited
from pipeline.query.answer import SearchAnswer, SearchAnswers, SearchResult, Timing, answer
from pipeline.query.limits import Limits
from pipeline.query.request import SearchRequest, parse_request
from pipeline.query.search import Searcher
from pipeline.telemetry import QueryMetrics

_MARGIN_S = 0.05

_log = structlog.get_logger(__name__)


class Batcher(Protocol):
    """Embeds the texts of concurrent requests together (pipeline.embedding.QueryBatcher)."""

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of shape (len(texts), dimension)."""


class SearchService:
    """Answers searches on one event loop: parse, embed in company, search on a bounded pool of threads."""

    def __init__(
        self, searcher: Searcher, batcher: Batcher, limits: Limits, metrics: QueryMetrics, concurrency: int
    ) -> None:
        self._searcher = searcher
        self._batcher = batcher
        self._limits = limits
        self._metrics = metrics
        # A thread that Milvus keeps waiting beyond its request still counts, so threads never pile up.
        self._threads = ThreadPoolExecutor(concurrency, thread_name_prefix="search")

    async def answer(self, body: bytes, admit: Callable[[], None]) -> SearchAnswer | SearchAnswers:
        """Answer one request. Raises what `problem_of` translates; counts and logs either outcome.

        `admit` is called when the request is known to be valid, and raises where too many are under way.
        """
        started = time.monotonic()
        facts: dict[str, Any] = {}
        try:
            result = await self._answer(body, admit, started, facts)
        except Exception as error:
            problem = problem_of(error)
            self._metrics.requests.labels(problem.outcome).inc()
            report = _log.exception if problem.status == 500 else _log.warning
            facts |= {"status": problem.status, "problem": problem.code}
            facts["reason"] = problem.reason or problem.detail
            report("search.failed", **problem.more or {}, **facts)
            raise
        self._metrics.requests.labels("ok").inc()
        _log.info("search.answered", status=200, **facts)
        return result

    def close(self) -> None:
        """Take no further search; those that wait for a thread are cancelled."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _answer(
        self, body: bytes, admit: Callable[[], None], started: float, facts: dict[str, Any]
    ) -> SearchAnswer | SearchAnswers:
        request = parse_request(decode(body), self._limits, time.time_ns() // 1_000_000)
        facts.update(queries=len(request.queries), limit=request.limit, filtered=request.filter is not None)
        admit()
        async with asyncio.timeout_at(asyncio.get_running_loop().time() + request.timeout_ms / 1000):
            vectors = await self._embed(request)
            embedded = time.monotonic()
            found = await self._search(request, vectors, started + request.timeout_ms / 1000)
        ended = time.monotonic()
        timing = Timing(*(round(span * 1000, 3) for span in (embedded - started, ended - embedded, ended - started)))
        self._observe(found, timing, facts)
        return answer(found, many=request.many, timing=timing)

    async def _embed(self, request: SearchRequest) -> NDArray[np.float32]:
        try:
            return await self._batcher.embed(request.queries)
        except RateLimited as error:
            raise overloaded(str(error)) from error

    async def _search(self, request: SearchRequest, vectors: NDArray[np.float32], deadline: float) -> SearchResult:
        def run() -> SearchResult:
            left = deadline - time.monotonic()
            # The searcher ends a little earlier than the request, so that part of an answer can still be sent.
            return self._searcher.search(request, vectors, left - min(_MARGIN_S, left / 10))

        return await asyncio.get_running_loop().run_in_executor(self._threads, run)

    def _observe(self, found: SearchResult, timing: Timing, facts: dict[str, Any]) -> None:
        for phase in ("embed", "search", "total"):
            self._metrics.seconds.labels(phase).observe(getattr(timing, phase) / 1000)
        for results in found.results:
            self._metrics.results.observe(len(results))
        facts.update(
            results=sum(map(len, found.results)),
            partial=found.partial,
            partitions_searched=len(found.searched.partitions),
            partitions_skipped=len(found.searched.skipped),
            embed_ms=timing.embed,
            search_ms=timing.search,
            total_ms=timing.total,
        )
