"""`milvus-stream search`: one search without a server, answered as the query worker answers."""

import asyncio
import json
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from consumers.config import Settings
from consumers.query.conditions import OPERATORS, all_of, condition
from consumers.wiring import connections, documents
from consumers.wiring.collection import search_params
from consumers.wiring.freshness import freshness_watch, has_kafka
from consumers.wiring.reranking import reranking
from consumers.wiring.searches import search_service, searcher
from consumers.wiring.start_checks import check_search
from pipeline.errors import UsageError
from pipeline.query import (
    MAX_SEARCH_BODY_BYTES,
    DirectEmbedder,
    InvalidRequest,
    MalformedRequest,
    answer_json,
    decode_json,
    parse_request,
)
from pipeline.telemetry import QueryMetrics

_MOST_CHARS = MAX_SEARCH_BODY_BYTES


def search(settings: Settings, body: Mapping[str, Any]) -> dict[str, Any]:
    """Answer one request body of POST /v1/search; by words, or by vectors that it has, without loading the model.

    Raises UsageError, Unavailable, Mismatch.
    """
    try:
        # The service checks it again; here before a model is loaded.
        request = parse_request(body, settings.query.max_limit)
    except InvalidRequest as error:
        raise UsageError(f"search {error}") from None
    search_params(settings)
    if request.waits and not has_kafka(settings):
        raise UsageError("search --wait-for reads offsets of the consumer group: set kafka.bootstrap_servers")
    with ExitStack() as stack:
        api = stack.enter_context(connections.milvus(settings))
        check_search(settings, api)
        model = embedder = None
        if request.embeds:
            model = stack.enter_context(documents.embedder(settings, queries_first=True))
            embedder = DirectEmbedder(model.embed_queries)
        wanted = settings.query.rerank.default if request.rerank is None else bool(request.rerank)
        reranker = stack.enter_context(reranking(settings, wanted=wanted))
        configured = searcher(settings, api, model, reranker)
        fresh = freshness_watch(settings, api) if request.waits else None
        metrics = QueryMetrics(CollectorRegistry())
        with closing(search_service(settings, configured, embedder, metrics, freshness=fresh)) as service:
            return answer_json(asyncio.run(service.answer(body)))


def request_body(
    text: str | None,
    *,
    vector: str | None = None,
    mode: str | None = None,
    limit: int,
    last: str | None,
    from_: str | None,
    to: str | None,
    where: Sequence[str],
    filters: Sequence[str] = (),
    min_score: float | None = None,
    recency: str | None = None,
    params: Sequence[str] = (),
    group_size: int = 1,
    explain: bool = False,
    count: bool = False,
    rerank: bool | None = None,
    wait_for: Sequence[str] = (),
    strong: bool = False,
) -> dict[str, Any]:
    """The options of the command as the body of a request. May block.

    `vector`: path of a JSON file, or `-`. `filters`: JSON.
    Raises UsageError where a file or an option cannot be read.
    """
    body: dict[str, Any] = {} if text is None else {"query": text}
    if vector is not None:
        body["vector"] = _vector(vector)
    body["limit"] = limit
    if params:
        body["params"] = dict(map(_parameter, params))
    # What is not given is left to the defaults of a request.
    body.update({name: value for name, value in (("explain", explain), ("count", count)) if value})
    if rerank is not None:
        body["rerank"] = rerank
    if group_size != 1:
        body["group_size"] = group_size
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
    if conditions := [*map(_condition, where), *map(_filter, filters)]:
        body["filter"] = all_of(conditions)
    return body


def _vector(path: str) -> Any:
    try:
        text = sys.stdin.read(_MOST_CHARS + 1) if path == "-" else _read_file(Path(path))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--vector {path}: cannot be read as text: {error}") from None
    if len(text) > _MOST_CHARS:
        raise UsageError(f"--vector {path}: has more than {_MOST_CHARS:,} characters, as many as a request may have")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise UsageError(f"--vector {path}: is no JSON; write a list of numbers, or a list of such lists") from None


def _read_file(path: Path) -> str:
    with path.open(encoding="utf-8") as file:
        return file.read(_MOST_CHARS + 1)


def _parameter(text: str) -> tuple[str, Any]:
    """`ef=128`: a whole number is taken as such, everything else as a word."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise UsageError(f"--param {text!r}: write --param NAME=VALUE, e.g. --param ef=128")
    return name, int(value) if re.fullmatch(r"-?\d{1,18}", value, re.ASCII) else value


def _filter(text: str) -> Any:
    """The filter in a JSON text, as in the body of a request."""
    try:
        return decode_json(text.encode("utf-8", "surrogateescape"))
    except MalformedRequest as error:
        raise UsageError(
            f"--filter is not JSON: {error}. Write it as in the search API, e.g. --filter "
            """'{"type": "exists", "key": "lang", "value": false}'"""
        ) from None


def _awaited(text: str) -> dict[str, Any]:
    """`topic:partition:offset` as a request has it."""
    topic, partition, offset = [*text.rsplit(":", 2), "", ""][:3]
    if not topic or not (partition.isdecimal() and partition.isascii() and offset.isdecimal() and offset.isascii()):
        raise UsageError(f"--wait-for {text!r}: write --wait-for topic:partition:offset, e.g. documents:0:1024")
    return {"topic": topic, "partition": int(partition), "offset": int(offset)}


def _condition(text: str) -> dict[str, Any]:
    typed = condition(text)
    if typed is None:
        known = " ".join(OPERATORS)
        raise UsageError(
            f"--where {text!r}: write --where key=value, e.g. --where lang=en; operators: {known}, or key? alone"
        )
    return typed
