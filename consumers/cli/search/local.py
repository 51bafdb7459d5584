"""A search of the configured collection without a query worker, answered as the query worker answers."""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from typing import Any

from prometheus_client import CollectorRegistry

from consumers.config import Settings
from consumers.wiring import connections, documents
from consumers.wiring.collection import search_params
from consumers.wiring.freshness import freshness_watch, has_kafka
from consumers.wiring.reranking import reranking
from consumers.wiring.searches import search_service, searcher
from consumers.wiring.start_checks import check_search
from pipeline.errors import UsageError
from pipeline.query import DirectEmbedder, InvalidRequest, SearchRequest, SearchService, answer_json, parse_request
from pipeline.telemetry import QueryMetrics


@contextmanager
def local_search(settings: Settings, body: Mapping[str, Any]) -> Iterator[Callable[[], dict[str, Any]]]:
    """A function that answers one request body of POST /v1/search, as often as it is called.

    By words, or by vectors that the body has, without loading the model. Milvus is connected and the model loaded by
    the first call; one that fails leaves nothing open. Raises UsageError; the function that, Unavailable, Mismatch.
    """
    try:
        # The service checks it again; here before a model is loaded.
        request = parse_request(body, settings.query.max_limit)
    except InvalidRequest as error:
        raise UsageError(f"search {error}") from None
    search_params(settings)
    if request.waits and not has_kafka(settings):
        raise UsageError("search --wait-for reads offsets of the consumer group: set kafka.bootstrap_servers")
    service: SearchService | None = None
    # One event loop for all calls: what waits for offsets belongs to the loop that began it.
    with ExitStack() as stack, asyncio.Runner() as runner:

        def ask() -> dict[str, Any]:
            nonlocal service
            if service is None:
                with ExitStack() as opening:
                    service = _open(settings, request, opening)
                    stack.push(opening.pop_all())
            try:
                return answer_json(runner.run(service.answer(body)))
            except InvalidRequest as error:
                raise UsageError(f"search {error}") from None

        yield ask


def _open(settings: Settings, request: SearchRequest, stack: ExitStack) -> SearchService:
    """The service for a request; the stack closes it. Raises UsageError, Unavailable, Mismatch."""
    api = stack.enter_context(connections.milvus(settings))
    check_search(settings, api)
    model = embedder = None
    if request.embeds:
        model = stack.enter_context(documents.embedder(settings, queries_first=True))
        embedder = DirectEmbedder(model.embed_queries)
    fresh = freshness_watch(settings, api) if request.waits else None
    metrics = QueryMetrics(CollectorRegistry())
    wanted = settings.query.rerank.default if request.rerank is None else bool(request.rerank)
    reranker = stack.enter_context(reranking(settings, wanted=wanted))
    configured = searcher(settings, api, model, reranker)
    return stack.enter_context(closing(search_service(settings, configured, embedder, metrics, freshness=fresh)))
