"""The MCP tools over the configured collection, for the command `mcp`; and whether the package mcp is there."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib.util import find_spec

from prometheus_client import CollectorRegistry

from consumers.config import Settings
from consumers.query.admission import Admission
from consumers.query.mcp.sources import StoredDocuments
from consumers.query.mcp.tools import Tools
from consumers.query.searches import Searches
from consumers.wiring.freshness import freshness_watch
from consumers.wiring.reranking import reranking
from consumers.wiring.searches import search_service, searcher
from pipeline.embedding import Embedder
from pipeline.errors import UsageError
from pipeline.query import DocumentService, QueryBatcher
from pipeline.store import MilvusServerApi
from pipeline.telemetry import QueryMetrics


def mcp_installed() -> bool:
    """Whether the package mcp is there."""
    return find_spec("mcp") is not None


def check_mcp_installed() -> None:
    """Raise UsageError where the package mcp is missing."""
    if not mcp_installed():
        raise UsageError("the package mcp is not installed: pip install 'milvus-stream[mcp]'")


@contextmanager
def mcp_tools(settings: Settings, api: MilvusServerApi, model: Embedder) -> Iterator[Tools]:
    """The tools over the configured collection. Raises Mismatch for a collection of another model."""
    metrics = QueryMetrics(CollectorRegistry())
    with (
        reranking(settings, wanted=settings.query.rerank.default) as reranker,
        closing(QueryBatcher(model.embed_queries)) as batcher,
        closing(
            search_service(
                settings,
                searcher(settings, api, model, reranker),
                batcher,
                metrics,
                freshness=freshness_watch(settings, api),
            )
        ) as service,
    ):
        searches = Searches(service, Admission(service.concurrency), local=True)
        yield Tools(searches, StoredDocuments(DocumentService(service), searches), service.freshness)
