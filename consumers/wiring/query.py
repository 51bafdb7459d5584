"""The query worker: a searcher over the configured collection, and the HTTP application around it."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial

import structlog
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from consumers.config import Settings
from consumers.http import ProbeServer
from consumers.query.access import Access
from consumers.query.app import create_app
from consumers.query.origins import Origins
from consumers.wiring.canary import canary
from consumers.wiring.freshness import freshness_watch
from consumers.wiring.mcp import mcp_installed
from consumers.wiring.page import page
from consumers.wiring.reranking import reranking
from consumers.wiring.searches import cursors, search_service, searcher
from pipeline.embedding import Embedder, embed_documents
from pipeline.errors import MilvusStreamError
from pipeline.query import EmbeddingService, QueryBatcher, Searcher
from pipeline.store import MilvusServerApi
from pipeline.telemetry import QueryMetrics

log = structlog.get_logger(__name__)


@contextmanager
def query_app(
    settings: Settings,
    api: MilvusServerApi,
    model: Embedder,
    *,
    access: Access,
    registry: CollectorRegistry,
    probes: ProbeServer | None = None,
) -> Iterator[FastAPI]:
    """The application of a query worker; `probes` answer as it does.

    Raises Mismatch for a collection of another model.
    """
    metrics = QueryMetrics(registry)
    with (
        reranking(settings) as reranker,
        canary(settings, api, metrics),
        closing(QueryBatcher(model.embed_queries)) as batcher,
        closing(QueryBatcher(partial(embed_documents, model), cache_size=0)) as documents,
    ):
        search = searcher(settings, api, model, reranker)
        service = search_service(
            settings, search, batcher, metrics, cursors=cursors(settings), freshness=freshness_watch(settings, api)
        )
        ready = readiness(search)
        if probes is not None:
            probes.watch(alive=dict, ready=ready)
        yield create_app(
            service,
            ready,
            registry=registry,
            access=access,
            embeddings=EmbeddingService(model, batcher, documents),
            mcp=mcp_installed(),
            page=page(settings, api, search, service, access),
            origins=Origins(settings.query.cors_origins),
        )


def readiness(search: Searcher) -> Callable[[], Mapping[str, str]]:
    """The readiness check. It logs why searches cannot be answered: clients need not know Milvus's address."""
    logged = ""

    def ready() -> Mapping[str, str]:
        nonlocal logged
        try:
            search.check()
        except MilvusStreamError as error:
            if (why := str(error)) != logged:
                log.warning("query.not_ready", why=why)
            logged = why
            return {"milvus": "the collection cannot be searched now; the line query.not_ready of the log says why"}
        logged = ""
        return {}

    return ready
