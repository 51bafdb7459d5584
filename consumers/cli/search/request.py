"""The request of `milvus-stream search`: its options as the body of POST /v1/search."""

import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from consumers.query.conditions import OPERATORS, all_of, condition
from pipeline.errors import UsageError
from pipeline.query import MAX_SEARCH_BODY_BYTES, MalformedRequest, decode_json

_MOST_CHARS = MAX_SEARCH_BODY_BYTES


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
    fusion: Sequence[str] = (),
    params: Sequence[str] = (),
    chunks: bool = False,
    facets: Sequence[str] = (),
    fields: Sequence[str] = (),
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
    times = {"last": last, "from": from_, "to": to}
    freshness: dict[str, Any] = {"level": "strong"} if strong else {}
    if wait_for:
        freshness["wait_for"] = [_awaited(text) for text in wait_for]
    given = {
        "query": text,
        "vector": None if vector is None else _vector(vector),
        "limit": limit,
        "params": dict(map(_parameter, params)) or None,
        "fusion": dict(map(_weight, fusion)) or None,
        "facets": [*facets] or None,
        "fields": [*fields] or None,
        "explain": explain or None,
        "count": count or None,
        "rerank": rerank,
        "group_size": None if group_size == 1 else group_size,
        "mode": mode,
        "time": {name: value for name, value in times.items() if value} or None,
        "min_score": min_score,
        "recency": None if recency is None else {"half_life": recency},
        "freshness": freshness or None,
    }
    # What is not given is left to the defaults of a request.
    body: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if chunks:
        body["group_by"] = None
    if conditions := [*map(_condition, where), *map(_filter, filters)]:
        body["filter"] = all_of(conditions)
    return body


def page_body(cursor: str, body: Mapping[str, Any], url: str | None) -> dict[str, Any]:
    """The body of a request for a further page; `body` is that of the other options, of which a page has but the limit.

    Raises UsageError beside another option, and without a query worker: only those give cursors.
    """
    if url is None:
        raise UsageError("--cursor is taken by a query worker: add --url, or search with a greater --limit")
    if body.keys() - {"limit"}:
        raise UsageError("--cursor holds the whole request: leave out the query and the options of the search")
    return {"cursor": cursor, "limit": body["limit"]}


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


def _weight(text: str) -> tuple[str, Any]:
    """`keyword=0.5`; the request checks the name."""
    name, _, value = text.partition("=")
    try:
        number = json.loads(value)
    except ValueError:
        number = None
    if not name or isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
        raise UsageError(f"--fusion {text!r}: write --fusion NAME=NUMBER, e.g. --fusion dense=1 --fusion keyword=0.5")
    return name, number


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
