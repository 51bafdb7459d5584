"""Searches of the configured collection, for the query worker and the command `search`."""

from contextlib import suppress
from dataclasses import asdict

from prometheus_client import CollectorRegistry

from consumers.config import Settings
from consumers.wiring.modes import mode_of
from pipeline.embedding import Embedder
from pipeline.errors import Unavailable
from pipeline.query import FetchSettings, QueryEmbedder, Searcher, SearchService, SearchSettings
from pipeline.store import MilvusServerApi, check_model
from pipeline.telemetry import QueryMetrics


def searcher(settings: Settings, api: MilvusServerApi, model: Embedder) -> Searcher:
    """A searcher over the configured collection.

    A collection that does not exist yet is no error: searches are answered 503 until a worker has created it.
    Raises Mismatch for a collection of another model.
    """
    stamp = asdict(model.stamp)
    new = Searcher(
        api,
        settings.milvus.collection,
        SearchSettings(FetchSettings(one_version=mode_of(settings).one_version)),
        accept=lambda info: check_model(info, stamp),
    )
    with suppress(Unavailable):
        new.check()
    return new


def search_service(
    settings: Settings, search: Searcher, embedder: QueryEmbedder, registry: CollectorRegistry
) -> SearchService:
    """The service over a searcher; its metrics go to `registry`."""
    return SearchService(
        search,
        embedder,
        QueryMetrics(registry),
        max_results=settings.query.max_limit,
        concurrency=settings.query.concurrency,
    )
