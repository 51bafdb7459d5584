"""The service around single documents: reads of them, and searches for similar ones; without any transport."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TypeVar

from pipeline.query.answer import SearchAnswer, SearchResult, shape_answer
from pipeline.query.canary_rows import is_canary
from pipeline.query.documents.answer import DocumentHistory, StoredDocument
from pipeline.query.documents.errors import NoSuchDocument
from pipeline.query.documents.reader import DocumentReader
from pipeline.query.documents.vectors import Likened
from pipeline.query.request.body import decode_json
from pipeline.query.request.similar import DocumentRequest, SimilarRequest, parse_document_request, parse_similar
from pipeline.query.service import SearchReport, SearchService, outcome_of

T = TypeVar("T")


class DocumentService:
    """Answers requests about documents on one event loop, on the threads of a search service.

    `tenant`, of every method: the one whose documents the caller may see; None: everybody's. `admit` as in
    `SearchService.answer`.
    """

    def __init__(self, searches: SearchService) -> None:
        self._searches = searches
        self._reader = DocumentReader(searches.searcher)

    @property
    def max_results(self) -> int:
        """Most results of a request."""
        return self._searches.max_results

    async def read(
        self, request: object, *, admit: Callable[[], None] = lambda: None, tenant: str | None = None
    ) -> StoredDocument:
        """The document that a `DocumentRequest`, as plain values, names. Raises what `DocumentReader.read` raises."""
        return await self._looked_up(self._reader.read, request, admit, tenant)

    async def history(
        self, request: object, *, admit: Callable[[], None] = lambda: None, tenant: str | None = None
    ) -> DocumentHistory:
        """Where that document is. Raises what `DocumentReader.history` raises."""
        return await self._looked_up(self._reader.history, request, admit, tenant)

    async def similar(
        self,
        body: object,
        *,
        admit: Callable[[], None] = lambda: None,
        report: Callable[[SearchReport], None] = lambda _: None,
        tenant: str | None = None,
    ) -> SearchAnswer:
        """Answer a `SimilarRequest`: the bytes of a JSON text, or the same decoded. Counts as a search.

        Raises what `SearchService.answer` raises, NoSuchDocument and DocumentUnreadable.
        """
        arrived, arrived_ms = asyncio.get_running_loop().time(), time.time_ns() // 1_000_000
        with self._searches.reported(report) as progress:
            request = parse_similar(decode_json(body) if isinstance(body, bytes) else body, self.max_results)
            progress.request = request.search
            self._searches.enter(admit)
            progress.answer = answer = await self._similar(request, arrived, arrived_ms, tenant)
        return answer

    async def _similar(
        self, request: SimilarRequest, arrived: float, arrived_ms: int, tenant: str | None
    ) -> SearchAnswer:
        deadline = arrived + request.timeout_ms / 1000
        whose = _permitted(request.doc_id, request.tenant, tenant)
        read: Callable[[float], Likened]
        if request.doc_id is not None:
            read = partial(self._reader.document_vector, request.doc_id, whose)
        else:
            read = partial(self._reader.chunk_vector, str(request.chunk_id), whose)
        likened = await self._searches.on_thread(read, deadline)
        compared = asyncio.get_running_loop().time()

        def search(left_s: float) -> SearchResult:
            return self._searches.searcher.search(
                request.search,
                likened.vectors,
                left_s,
                now_ms=arrived_ms,
                tenant=tenant,
                besides=likened.others(),
            )

        result = await self._searches.on_thread(search, deadline)
        timing = self._searches.timed(result, arrived, compared, embedded=False)
        result = replace(result, warnings=(*likened.warnings, *result.warnings))
        fresh = self._searches.last_freshness(tenant)
        answer = shape_answer(result, many=False, freshness=fresh, timing=timing)
        assert isinstance(answer, SearchAnswer)  # noqa: S101 - the answer to one text
        return answer

    async def _looked_up(
        self,
        read: Callable[[str, str | None, float], T],
        values: object,
        admit: Callable[[], None],
        tenant: str | None,
    ) -> T:
        arrived = asyncio.get_running_loop().time()
        counts = self._searches.metrics.documents
        try:
            request: DocumentRequest = parse_document_request(values)
            self._searches.enter(admit)
            whose = _permitted(request.doc_id, request.tenant, tenant)
            call = partial(read, request.doc_id, whose)
            answer = await self._searches.on_thread(call, arrived + request.timeout_ms / 1000)
        except Exception as error:
            counts.labels("not_found" if isinstance(error, NoSuchDocument) else outcome_of(error)).inc()
            raise
        counts.labels("ok").inc()
        return answer


def _permitted(doc_id: str | None, wanted: str | None, tenant: str | None) -> str | None:
    """The tenant whose document is read. Raises NoSuchDocument for one that the caller may not see, and a canary."""
    if is_canary(doc_id) or (tenant is not None and wanted not in (None, tenant)):
        raise NoSuchDocument("no document with this id is stored")
    return wanted if tenant is None else tenant
