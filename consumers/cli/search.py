"""`milvus-stream search`: one search without a server, answered as the query worker answers."""

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from consumers.config import Settings
from consumers.wiring import connections, documents
from consumers.wiring.searches import search_limits, searcher
from pipeline.errors import UsageError
from pipeline.query import InvalidRequest, Timing, answer, answer_json, parse_request


def search(settings: Settings, body: Mapping[str, Any]) -> dict[str, Any]:
    """Answer one request body of POST /v1/search. Raises UsageError, Unavailable, Mismatch."""
    started = time.monotonic()
    try:
        request = parse_request(dict(body), search_limits(settings), time.time_ns() // 1_000_000)
    except InvalidRequest as error:
        raise UsageError(f"search {error}") from None
    with connections.milvus(settings) as api, documents.embedder(settings) as model:
        configured = searcher(settings, api, model)
        begun = time.monotonic()
        vectors = model.embed_queries(request.queries)
        embedded = time.monotonic()
        result = configured.search(request, vectors, request.timeout_ms / 1000)
    ended = time.monotonic()
    timing = Timing(*(round(1000 * span, 1) for span in (embedded - begun, ended - embedded, ended - started)))
    return answer_json(answer(result, many=request.many, timing=timing))


def request_body(
    text: str, *, limit: int, last: str | None, from_: str | None, to: str | None, where: Sequence[str]
) -> dict[str, Any]:
    """The options of the command as the body of a request."""
    body: dict[str, Any] = {"query": text, "limit": limit}
    if last or from_ or to:
        times = {"last": last, "from": from_, "to": to}
        body["time"] = {name: value for name, value in times.items() if value}
    if where:
        body["filter"] = {"type": "and", "filters": [_condition(text) for text in where]}
    return body


def _condition(text: str) -> dict[str, Any]:
    """`key=value`: numbers, true and false are taken as such, everything else (also "5" in quotes) as text."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UsageError(f"--where {text!r}: write --where key=value, e.g. --where lang=en")
    try:
        typed = json.loads(value)
    except ValueError:
        typed = value
    if not isinstance(typed, str | int | float | bool):
        typed = value
    return {"type": "eq", "key": key, "value": typed}
