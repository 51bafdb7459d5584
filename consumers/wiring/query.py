"""The query worker: a searcher over the configured collection, and the HTTP application around it."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager

import structlog
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from consumers.config import Settings
from consumers.http import ProbeServer
from consumers.query.access import Access
from consumers.query.app import create_app
from consumers.wiring.page import page
from consumers.wiring.searches import search_service, searcher
from pipeline.embedding import Embedder
from pipeline.errors import MilvusStreamError
from pipeline.query import QueryBatcher, Searcher
from pipeline.store import MilvusServerApi

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
    search = searcher(settings, api, model)
    with closing(QueryBatcher(model.embed_queries)) as batcher:
        service = search_service(settings, search, batcher, registry)
        ready = readiness(search)
        if probes is not None:
            probes.watch(alive=dict, ready=ready)
        web = page(settings, api, search, service, access)
        yield create_app(service, ready, registry=registry, access=access, page=web)


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
