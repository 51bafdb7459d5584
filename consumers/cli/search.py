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
from consumers.wiring.searches import search_service, searcher
from consumers.wiring.start_checks import check_search
from pipeline.errors import UsageError
from pipeline.query import DirectEmbedder, InvalidRequest, MalformedRequest, answer_json, decode_json, parse_request

_OPERATORS = {"=": "eq", "!=": "ne", ">": "gt", ">=": "gte", "<": "lt", "<=": "lte", "~=": "contains"}
_CONDITION = re.compile(r"(?![!<>~]=)(.+?)(!=|>=|<=|~=|=|>|<)(.*)", re.DOTALL)


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
    filters: Sequence[str] = (),
    min_score: float | None = None,
    recency: str | None = None,
) -> dict[str, Any]:
    """The options of the command as the body of a request; `filters`: JSON. Raises UsageError."""
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
    if conditions := [*map(_condition, where), *map(_filter, filters)]:
        body["filter"] = {"type": "and", "filters": conditions}
    return body


def _filter(text: str) -> object:
    """The filter in a JSON text, as in the body of a request."""
    try:
        return decode_json(text.encode("utf-8", "surrogateescape"))
    except MalformedRequest as error:
        raise UsageError(
            f"--filter is not JSON: {error}. Write it as in the search API, e.g. --filter "
            """'{"type": "exists", "key": "lang", "value": false}'"""
        ) from None


def _condition(text: str) -> dict[str, Any]:
    """`key=value`, or with another operator: numbers, true and false are taken as such, everything else as text.

    So "5" in quotes is a text. Without an operator, `key?`: rows that have the field.
    """
    found = _CONDITION.fullmatch(text)
    if found is None and len(text) > 1 and text.endswith("?"):
        return {"type": "exists", "key": text[:-1]}
    if found is None:
        known = " ".join(_OPERATORS)
        raise UsageError(
            f"--where {text!r}: write --where key=value, e.g. --where lang=en; operators: {known}, or key? alone"
        )
    key, operator, value = found.groups()
    try:
        typed = json.loads(value)
    except ValueError:
        typed = value
    if not isinstance(typed, str | int | float | bool):
        typed = value
    return {"type": _OPERATORS[operator], "key": key, "value": typed}
