"""What every answer of the query worker must be, whatever was sent."""

import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tests.fuzz.sent import Received, Sent

Validate = Callable[[Mapping[str, Any], Any], str | None]
"""What is wrong with a value by a schema of the OpenAPI document; None: nothing."""

_POINTER = re.compile(r"(/([^~/]|~[01])*)*", re.DOTALL)
_OWN = ("/v1/embeddings", "/v1/vector_stores/")
"""Routes whose errors have OpenAI's shape."""
_PROBLEM, _JSON = "application/problem+json", "application/json"
_BEFORE_ROUTES = frozenset({400, 401, 403, 404, 405, 413, 415, 421, 429})
"""Statuses of the layers around the routes: their answers are problems on every route."""


class Checks:
    """The checks of one OpenAPI document."""

    def __init__(self, document: Mapping[str, Any], validate: Validate, *, most_s: float) -> None:
        self._paths = document["paths"]
        self._validate = validate
        self._most_s = most_s

    def findings(self, sent: Sent, received: Received) -> Iterator[tuple[str, str]]:
        """(name of the check, what is wrong) of all that is."""
        if received.seconds > self._most_s + _waits_s(sent):
            yield "slow", f"{received.seconds:.1f} s"
        if received.status >= 500 and not _late(sent, received):
            yield "server error", f"{received.status} {received.body[:300]!r}"
        if sent.method == "HEAD":
            if received.body:
                yield "HEAD with a body", f"{len(received.body)} bytes"
            return
        value, broken = _json(received.body)
        if broken is not None:
            yield "no JSON", f"{received.status} {broken}"
            return
        if received.status >= 400:
            yield from self._problem(sent, received, value)
        elif received.status == 200:
            yield from self._answer(sent, received, value)
        else:
            yield "unexpected status", str(received.status)

    def _answer(self, sent: Sent, received: Received, value: Any) -> Iterator[tuple[str, str]]:
        if received.kind != _JSON:
            yield "content type", f"200 {received.kind}"
        operation = self._operation(sent)
        if (schema := _schema(operation["responses"].get("200", {}))) and (wrong := self._validate(schema, value)):
            yield "answer against its schema", wrong
        if sent.body is None:
            return
        body, broken = _json(_unpacked(sent))
        if broken is not None:
            yield "accepted what is no JSON", broken
        elif (schema := _schema(operation.get("requestBody", {}))) and (wrong := self._validate(schema, body)):
            yield "accepted against the schema of the request", wrong

    def _problem(self, sent: Sent, received: Received, value: Any) -> Iterator[tuple[str, str]]:
        own_shape = isinstance(value, dict) and "error" in value
        if own_shape and sent.route.partition(" ")[2].startswith(_OWN):
            yield from _openai_error(received, value["error"])
            return
        if received.kind != _PROBLEM:
            yield "content type of an error", f"{received.status} {received.kind}"
        if not isinstance(value, dict) or not {"type", "title", "status", "detail"} <= value.keys():
            yield "an error is a problem", f"{received.status} {str(value)[:200]}"
            return
        if value["status"] != received.status or not value["detail"]:
            yield "an error is a problem", f"{received.status} {value}"
        if received.status == 422 and _POINTER.fullmatch(str(value.get("at", "?"))) is None:
            yield "a refusal names the place", str(value)[:200]
        described = self._operation(sent)["responses"].get(str(received.status))
        if described is None and received.status not in _BEFORE_ROUTES:
            yield "undescribed status", str(received.status)

    def _operation(self, sent: Sent) -> Mapping[str, Any]:
        method, _, path = sent.route.partition(" ")
        operation: Mapping[str, Any] = self._paths[path][method.lower()]
        return operation


def _openai_error(received: Received, error: Any) -> Iterator[tuple[str, str]]:
    if not isinstance(error, dict) or error.keys() != {"message", "type", "param", "code"} or not error["message"]:
        yield "an error in OpenAI's shape", f"{received.status} {error}"


def _schema(described: Mapping[str, Any]) -> Mapping[str, Any]:
    schema: Mapping[str, Any] = described.get("content", {}).get(_JSON, {}).get("schema", {})
    return schema


def _json(body: bytes) -> tuple[Any, str | None]:
    try:
        return json.loads(body, parse_constant=_no_constant), None
    except (ValueError, RecursionError) as error:
        return None, f"{type(error).__name__}: {str(error)[:100]} {body[:100]!r}"


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


def _late(sent: Sent, received: Received) -> bool:
    """Whether a request that limits its own time has met that limit."""
    body = _unpacked(sent)
    if received.status == 504:
        return b"timeout_ms" in body or "timeout_ms" in sent.path
    return received.status == 503 and b"wait_for" in body and b":not-fresh" in received.body


def _unpacked(sent: Sent) -> bytes:
    """The body as the worker reads it."""
    if sent.body is None or sent.headers.get("content-encoding") != "gzip":
        return sent.body or b""
    try:
        return gzip.decompress(sent.body)
    except (OSError, EOFError, zlib.error):
        return b""


def _waits_s(sent: Sent) -> float:
    """The seconds that a request allows itself."""
    allowed = re.findall(rb'"timeout_ms"\s*:\s*([0-9]{1,6})\b', _unpacked(sent))
    allowed += [part.encode() for part in re.findall(r"timeout_ms=([0-9]{1,6})\b", sent.path)]
    return max((min(int(number), 60_000) for number in allowed), default=0) / 1000
