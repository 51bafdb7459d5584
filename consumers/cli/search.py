"""`milvus-stream search`: one search without a server, answered as the query worker answers."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from typing import Any

from prometheus_client import CollectorRegistry

from consumers.config import Settings
from consumers.query.conditions import OPERATORS, all_of, condition
from consumers.wiring import connections, documents
from consumers.wiring.searches import search_service, searcher
from consumers.wiring.start_checks import check_search
from pipeline.errors import UsageError
from pipeline.query import DirectEmbedder, InvalidRequest, answer_json, parse_request


def search(settings: Settings, body: Mapping[str, Any]) -> dict[str, Any]:
    """Answer one request body of POST /v1/search; by words without loading the model.

    Raises UsageError, Unavailable, Mismatch.
    """
    try:
        # The service checks it again; here before a model is loaded.
        request = parse_request(body, settings.query.max_limit)
    except InvalidRequest as error:
        raise UsageError(f"search {error}") from None
    with ExitStack() as stack:
        api = stack.enter_context(connections.milvus(settings))
        check_search(settings, api)
        model = embedder = None
        if request.mode != "keyword":
            model = stack.enter_context(documents.embedder(settings, queries_first=True))
            embedder = DirectEmbedder(model.embed_queries)
        configured = searcher(settings, api, model)
        with closing(search_service(settings, configured, embedder, CollectorRegistry())) as service:
            return answer_json(asyncio.run(service.answer(body)))


def request_body(
    text: str,
    *,
    mode: str | None = None,
    limit: int,
    last: str | None,
    from_: str | None,
    to: str | None,
    where: Sequence[str],
    min_score: float | None = None,
    recency: str | None = None,
) -> dict[str, Any]:
    """The options of the command as the body of a request."""
    body: dict[str, Any] = {"query": text, "limit": limit}
    if mode is not None:
        body["mode"] = mode
    if last or from_ or to:
        times = {"last": last, "from": from_, "to": to}
        body["time"] = {name: value for name, value in times.items() if value}
    if min_score is not None:
        body["min_score"] = min_score
    if recency is not None:
        body["recency"] = {"half_life": recency}
    if where:
        body["filter"] = all_of([_condition(text) for text in where])
    return body


def _condition(text: str) -> dict[str, Any]:
    typed = condition(text)
    if typed is None:
        known = " ".join(OPERATORS)
        raise UsageError(f"--where {text!r}: write --where key=value, e.g. --where lang=en; operators: {known}")
    return typed
