"""The page of the query worker over the configured collection."""

from collections.abc import Callable
from functools import partial

from typing_extensions import override

from consumers.config import Settings
from consumers.query.web import Page, PageParts
from consumers.query.web.ports import Searches
from consumers.wiring.pipeline_state import PipelineReader
from pipeline.errors import UsageError
from pipeline.query import PartitionCensus, SearchAnswer, SearchAnswers, Searcher, SearchReport, SearchService
from pipeline.store import MilvusServerApi

_MOST_NAMES = 200


def page(settings: Settings, api: MilvusServerApi, search: Searcher, service: SearchService) -> Page | None:
    """The page, None where it is switched off."""
    if not settings.query.page:
        return None
    # The default of the setting is not used: a query worker without it has no Kafka.
    has_kafka = "bootstrap_servers" in settings.kafka.model_fields_set
    return Page(
        PageParts(
            collection=settings.milvus.collection,
            searches=_AllDocuments(service),
            max_results=settings.query.max_limit,
            names=partial(search.metadata_names, _MOST_NAMES),
            partitions=PartitionCensus(api, settings.milvus.collection).read,
            pipeline=PipelineReader(settings, api).read if has_kafka else None,
        )
    )


class _AllDocuments(Searches):
    """The search service without tenants."""

    def __init__(self, service: SearchService) -> None:
        self._service = service

    @override
    async def answer(
        self,
        body: object,
        *,
        tenant: str | None,
        admit: Callable[[], None],
        report: Callable[[SearchReport], None],
    ) -> SearchAnswer | SearchAnswers:
        if tenant is not None:
            raise UsageError("searches of one tenant are not composed here")
        return await self._service.answer(body, admit=admit, report=report)
