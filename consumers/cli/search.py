"""`milvus-stream search`: one search without a server, answered as the query worker answers."""

import asyncio
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from typing import Any

from prometheus_client import CollectorRegistry

from consumers.config import Settings
from consumers.wiring import connections, documents
from consumers.wiring.freshness import freshness_watch, has_kafka
from consumers.wiring.searches import search_service, searcher
from consumers.wiring.start_checks import check_search
from pipeline.errors import UsageError
from pipeline.query import DirectEmbedder, InvalidRequest, answer_json, parse_request
from pipeline.telemetry import QueryMetrics

_OPERATORS = {"=": "eq", "!=": "ne", ">": "gt", ">=": "gte", "<": "lt", "<=": "lte"}
_CONDITION = re.compile(r"(.+?)(!=|>=|<=|=|>|<)(.*)", re.DOTALL)


def search(settings: Settings, body: Mapping[str, Any]) -> dict[str, Any]:
    """Answer one request body of POST /v1/search; by words without loading the model.

    Raises UsageError, Unavailable, Mismatch.
    """
    try:
        # The service checks it again; here before a model is loaded.
        request = parse_request(body, settings.query.max_limit)
    except InvalidRequest as error:
        raise UsageError(f"search {error}") from None
    if request.waits and not has_kafka(settings):
        raise UsageError("search --wait-for reads offsets of the consumer group: set kafka.bootstrap_servers")
    with ExitStack() as stack:
        api = stack.enter_context(connections.milvus(settings))
        check_search(settings, api)
        model = embedder = None
        if request.mode != "keyword":
            model = stack.enter_context(documents.embedder(settings, queries_first=True))
            embedder = DirectEmbedder(model.embed_queries)
        configured = searcher(settings, api, model)
        fresh = freshness_watch(settings, api) if request.waits else None
        metrics = QueryMetrics(CollectorRegistry())
        with closing(search_service(settings, configured, embedder, metrics, fresh)) as service:
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
    wait_for: Sequence[str] = (),
    strong: bool = False,
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
    freshness: dict[str, Any] = {"level": "strong"} if strong else {}
    if wait_for:
        freshness["wait_for"] = [_awaited(text) for text in wait_for]
    if freshness:
        body["freshness"] = freshness
    if where:
        body["filter"] = {"type": "and", "filters": [_condition(text) for text in where]}
    return body


def _awaited(text: str) -> dict[str, Any]:
    """`topic:partition:offset` as a request has it."""
    topic, partition, offset = [*text.rsplit(":", 2), "", ""][:3]
    if not topic or not (partition.isdecimal() and partition.isascii() and offset.isdecimal() and offset.isascii()):
        raise UsageError(f"--wait-for {text!r}: write --wait-for topic:partition:offset, e.g. documents:0:1024")
    return {"topic": topic, "partition": int(partition), "offset": int(offset)}


def _condition(text: str) -> dict[str, Any]:
    """`key=value`, or with another operator: numbers, true and false are taken as such, everything else as text.

    So "5" in quotes is a text.
    """
    found = _CONDITION.fullmatch(text)
    if found is None:
        known = " ".join(_OPERATORS)
        raise UsageError(f"--where {text!r}: write --where key=value, e.g. --where lang=en; operators: {known}")
    key, operator, value = found.groups()
    try:
        typed = json.loads(value)
    except ValueError:
        typed = value
    if not isinstance(typed, str | int | float | bool):
        typed = value
    return {"type": _OPERATORS[operator], "key": key, "value": typed}
