"""The page of the query worker over the configured collection."""

from consumers.config import Settings
from consumers.query.access import Access
from consumers.query.web import Page, PageParts
from consumers.wiring.pipeline_state import PipelineReader
from pipeline.query import PartitionCensus, Searcher, SearchService
from pipeline.store import MilvusServerApi

_MOST_NAMES = 200


def page(
    settings: Settings, api: MilvusServerApi, search: Searcher, service: SearchService, access: Access
) -> Page | None:
    """The page, None where it is switched off."""
    if not settings.query.page:
        return None
    # The default of the setting is not used: a query worker without it has no Kafka.
    has_kafka = "bootstrap_servers" in settings.kafka.model_fields_set
    return Page(
        PageParts(
            collection=settings.milvus.collection,
            searches=service,
            access=access,
            names=lambda tenant: search.metadata_names(_MOST_NAMES, tenant=tenant),
            partitions=PartitionCensus(api, settings.milvus.collection).read,
            pipeline=PipelineReader(settings, api).read if has_kafka else None,
        )
    )
