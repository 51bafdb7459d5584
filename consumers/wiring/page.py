"""The page of the query worker over the configured collection, and what connects it to the services."""

import asyncio
import time
from collections.abc import Sequence

from consumers.config import Settings
from consumers.http.problems import problem_of
from consumers.query.access import Access
from consumers.query.web import Documents, Freshness, FreshnessSource, Page, PageParts, WholeDocument
from consumers.wiring.freshness import has_kafka
from consumers.wiring.pipeline_state import PipelineReader
from pipeline.errors import MilvusStreamError
from pipeline.query import (
    DocumentService,
    FreshnessWatch,
    NoSuchDocument,
    PartitionCensus,
    Searcher,
    SearchService,
    mark,
    terms_of,
)
from pipeline.store import MilvusServerApi

_MOST_NAMES = 200


def page(
    settings: Settings, api: MilvusServerApi, search: Searcher, service: SearchService, access: Access
) -> Page | None:
    """The page, None where it is switched off."""
    if not settings.query.page:
        return None
    documents = DocumentService(service)
    watch = service.freshness
    return Page(
        PageParts(
            collection=settings.milvus.collection,
            searches=service,
            access=access,
            names=lambda tenant: search.metadata_names(_MOST_NAMES, tenant=tenant),
            partitions=PartitionCensus(api, settings.milvus.collection).read,
            documents=StoredDocuments(documents),
            similar=documents,
            marks=highlights,
            freshness=KnownFreshness(watch) if watch is not None and has_kafka(settings) else None,
            pipeline=PipelineReader(settings, api).read if has_kafka(settings) else None,
        )
    )


def highlights(query: str, text: str) -> Sequence[tuple[int, int]]:
    """The places of the query's words in a text."""
    return mark(text, terms_of(query))[0]


class StoredDocuments(Documents):
    """Documents as the page shows them."""

    def __init__(self, service: DocumentService) -> None:
        self._service = service

    async def document(self, doc_id: str, *, tenant: str | None) -> WholeDocument | None:
        """The document; of one that is not whole, the chunks that are there."""
        try:
            found = await self._service.read({"doc_id": doc_id}, tenant=tenant)
        except NoSuchDocument:
            return None
        return WholeDocument(
            found.doc_id, found.readable, found.event_time or "", found.metadata, complete=found.complete
        )


class KnownFreshness(FreshnessSource):
    """The freshness that the query worker knows; a page waits for it for `wait_s` at most, with its place held."""

    def __init__(self, watch: FreshnessWatch, wait_s: float = 1.0) -> None:
        self._watch = watch
        self._wait_s = wait_s

    async def freshness(self) -> Freshness:
        """The state, at most a second old; nothing is known where Kafka or Milvus does not answer in a second."""
        try:
            async with asyncio.timeout(self._wait_s):
                report = await self._watch.report()
        except TimeoutError:
            return Freshness(None, None, "Kafka or Milvus did not answer in time")
        except MilvusStreamError as error:
            return Freshness(None, None, problem_of(error).detail)  # its own text names addresses
        until = None if report.lag_s is None else int((time.time() - report.lag_s) * 1000)
        return Freshness(until, report.lag)
