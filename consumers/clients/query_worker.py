"""A query worker over HTTP, for the commands of this project: its answers checked, its refusals as their errors."""

import asyncio
import json
import math
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, NoReturn
from urllib.parse import quote

import httpx
from pydantic import AfterValidator, Discriminator, Tag, TypeAdapter, ValidationError

from consumers.clients.http_client import at_most, http_client, is_loopback
from pipeline.errors import MilvusStreamError, Mismatch, NotFound, RateLimited, Unavailable, UsageError
from pipeline.query import (
    DocumentHistory,
    MalformedRequest,
    SearchAnswer,
    SearchAnswers,
    StoredDocument,
    decode_json,
)

_CONNECT_S = 5.0
_TOTAL_S = 45.0
"""For one exchange from its first byte to its last. The query worker itself ends a search after 5 s and a read of a
document after 30 s."""
_DOCUMENT_MS = 30_000
_MOST_BYTES = 32 * 1024 * 1024
"""Results and documents have at most 8 MiB of JSON; warnings, facets and explanations come on top."""
_MOST_DEPTH = 100
_MOST_DETAIL_CHARS = 1_000
_MOST_WAIT_S = 86_400
_PROBLEM = "urn:milvus-stream:problem:"
_NO_WORKER = "give the address of a query worker, e.g. --url http://localhost:8080"


class QueryWorker:
    """Searches and documents of the query worker at one address.

    Every call raises UsageError (a refused request, no access, an address where no query worker answers), Unavailable,
    RateLimited, Mismatch, and NotFound for a document that is not stored. Nothing is sent anywhere but to the address:
    redirects are errors.
    """

    def __init__(self, url: str, api_key: str | None = None) -> None:
        """`url`: http or https, host, and where a proxy needs one a path. Raises UsageError for any other."""
        self._url = _checked(url)
        self._api_key = api_key

    @property
    def sends_key_in_clear(self) -> bool:
        """Whether a key would cross a network without TLS."""
        address = httpx.URL(self._url)
        return self._api_key is not None and address.scheme == "http" and not is_loopback(address.host)

    def search(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to one request body of POST /v1/search."""
        return self._checked_answer("search", "/v1/search", _SEARCH, body)

    def document(self, doc_id: str, tenant: str | None) -> dict[str, Any]:
        """A document as it is stored now."""
        return self._checked_answer("documents", _document_path(doc_id, "", tenant), _DOCUMENT)

    def history(self, doc_id: str, tenant: str | None) -> dict[str, Any]:
        """Where a document is, and which records it came from."""
        return self._checked_answer("documents", _document_path(doc_id, "/history", tenant), _HISTORY)

    def similar(self, doc_id: str, tenant: str | None, limit: int) -> dict[str, Any]:
        """Documents similar to a stored one."""
        body = {"doc_id": doc_id, "limit": limit, "timeout_ms": _DOCUMENT_MS}
        if tenant is not None:
            body["tenant"] = tenant
        return self._checked_answer("documents", "/v1/similar", _SIMILAR, body)

    def _checked_answer(
        self, command: str, path: str, form: TypeAdapter[Any], body: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """The JSON object of an answer. POST where there is a body, else GET."""
        address = self._url + path
        status, headers, content = self._exchange(address, body)
        if status != httpx.codes.OK:
            _refused(command, address, status, headers, content)
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise UsageError(f"{address} answers with {kind or 'no content-type'} and not JSON: {_NO_WORKER}")
        try:
            answer = decode_json(content)
            _check_printable(answer)
        except MalformedRequest as error:
            raise Unavailable(f"{address}: the answer is not JSON: {error}") from None
        try:
            # Strict: what is printed as a number must be none in quotes.
            _check_times(form.validate_json(content, strict=True))
        except ValidationError as error:
            problem = error.errors(include_url=False, include_input=False)[0]
            place = "/".join(str(part) for part in problem["loc"]) or "event_time"
            raise UsageError(
                f"{address}: the answer is none of a query worker of this version: {place}: {problem['msg']}; "
                f"{_NO_WORKER}, of the version of this command"
            ) from None
        assert isinstance(answer, dict)  # noqa: S101 - each form is an object
        return answer

    def _exchange(self, address: str, body: Mapping[str, Any] | None) -> tuple[int, httpx.Headers, bytes]:
        """Status, headers and content. Raises Unavailable, UsageError (redirect, an answer too large)."""
        try:
            return asyncio.run(self._sent(address, body))
        except TimeoutError:
            raise Unavailable(f"{address} did not answer within {_TOTAL_S:.0f} s") from None
        except httpx.HTTPError as error:
            why = str(error) or type(error).__name__
            if "CERTIFICATE_VERIFY_FAILED" in why:
                why += "; the environment variable SSL_CERT_FILE names the file of the certificates to trust instead"
            raise Unavailable(f"{address} cannot be reached: {why}") from None

    async def _sent(self, address: str, body: Mapping[str, Any] | None) -> tuple[int, httpx.Headers, bytes]:
        headers = {"accept": "application/json", "accept-encoding": "identity"}
        if self._api_key is not None:
            headers["authorization"] = f"Bearer {self._api_key}"
        if body is not None:
            headers["content-type"] = "application/json"
        sent = None if body is None else json.dumps(body).encode()
        async with (
            asyncio.timeout(_TOTAL_S),
            http_client(address, httpx.Timeout(_TOTAL_S, connect=_CONNECT_S)) as client,
            client.stream("GET" if body is None else "POST", address, content=sent, headers=headers) as response,
        ):
            if response.is_redirect:
                target = response.headers.get("location", "")[:_MOST_DETAIL_CHARS]
                raise UsageError(
                    f"{address} leads on to {target!r}, which is not followed: give the address of the query worker"
                )
            if response.headers.get("content-encoding", "identity").lower() != "identity":
                raise UsageError(f"{address} answers in a content-encoding that was not asked for: {_NO_WORKER}")
            if (content := await at_most(response.aiter_raw(), _MOST_BYTES)) is None:
                raise UsageError(f"{address} answers with more than {_MOST_BYTES // 2**20} MiB: {_NO_WORKER}")
            return response.status_code, response.headers, content


def _with_zone(text: str) -> str:
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("has no time zone")
    return text


_TIME: TypeAdapter[str] = TypeAdapter(Annotated[str, AfterValidator(_with_zone)])
_SEARCH: TypeAdapter[Any] = TypeAdapter(
    Annotated[
        Annotated[SearchAnswer, Tag("answer")] | Annotated[SearchAnswers, Tag("answers")],
        Discriminator(lambda value: "answers" if isinstance(value, dict) and "answers" in value else "answer"),
    ]
)
_SIMILAR: TypeAdapter[Any] = TypeAdapter(SearchAnswer)
_DOCUMENT: TypeAdapter[Any] = TypeAdapter(StoredDocument)
_HISTORY: TypeAdapter[Any] = TypeAdapter(DocumentHistory)


def _checked(url: str) -> str:
    """The address without a slash at its end. Raises UsageError."""
    try:
        address = httpx.URL(url)
        host, scheme, port = address.host, address.scheme, address.port
    except (httpx.InvalidURL, ValueError):
        host, scheme, port = "", "", None
    if scheme not in ("http", "https") or not host or not (port is None or 0 < port < 65_536):
        raise UsageError("--url: write http://HOST:PORT or https://HOST of a query worker")
    if address.userinfo:
        raise UsageError("--url: leave out user and password; a query worker takes a key, client.api_key")
    if address.query or address.fragment or "?" in url or "#" in url:
        raise UsageError("--url: leave out what begins with ? or #")
    return str(address).rstrip("/")


def _document_path(doc_id: str, below: str, tenant: str | None) -> str:
    """The address of a document below that of the query worker, its id in any characters."""
    # Bytes of the command line that are no UTF-8 are passed on as they are; the query worker refuses them.
    name = quote(doc_id, safe="", errors="surrogateescape")
    if not name.strip("."):
        name = name.replace(".", "%2E")  # `.` and `..` would be taken out of the address
    whose = "" if tenant is None else f"&tenant={quote(tenant, safe='', errors='surrogateescape')}"
    return f"/v1/documents/{name}{below}?timeout_ms={_DOCUMENT_MS}{whose}"


def _check_printable(answer: object) -> None:
    """Raise MalformedRequest for what cannot be printed as JSON.

    A number beyond 64-bit floats would become Infinity. A deep nesting could need more stack than there is; metadata
    has 32 levels.
    """
    level = [answer]
    for _ in range(_MOST_DEPTH):
        if any(isinstance(value, float) and not math.isfinite(value) for value in level):
            raise MalformedRequest("a number in it is too large")
        level = [
            member
            for value in level
            if isinstance(value, dict | list)
            for member in (value.values() if isinstance(value, dict) else value)
        ]
        if not level:
            return
    raise MalformedRequest("it is nested too deep")


def _check_times(answer: object) -> None:
    """Raise ValidationError where the event time of a result is none: their age is printed."""
    match answer:
        case SearchAnswer():
            results = list(answer.results)
        case SearchAnswers():
            results = [result for one in answer.answers for result in one.results]
        case _:
            results = []
    for result in results:
        _TIME.validate_python(result.event_time)


def _refused(command: str, address: str, status: int, headers: httpx.Headers, content: bytes) -> NoReturn:
    """Raise the error for an answer other than 200."""
    problem = _problem(content)
    if problem is None:
        _refused_by_other(address, status)
    code, detail = problem
    retry = _retry_after(headers)
    match status, code:
        case 404, "no-such-document" | "document-deleted":
            raise NotFound(detail)
        case 400 | 413 | 422, _:
            raise UsageError(f"{command} {detail}")
        case 401, _:
            raise UsageError(
                f"{address}: {detail}. The key is client.api_key, in the environment MILVUS_STREAM__CLIENT__API_KEY"
            )
        case 429, _:
            raise RateLimited(f"{address}: {detail}{retry}")
        case 503, "model-mismatch":
            raise Mismatch(f"{address}: {detail}")
        case 503 | 504, _:
            raise Unavailable(f"{address}: {detail}{retry}")
        case 500, _:
            raise MilvusStreamError(f"{address}: {detail}")
        case _:
            raise UsageError(f"{address}: {detail}")


def _refused_by_other(address: str, status: int) -> NoReturn:
    """Raise the error for an answer that no query worker wrote: that of a proxy, or of another program."""
    if status == 429 or status >= 500:
        raise Unavailable(f"{address} answers {status} without a reason, as a proxy does without its server")
    if status in (401, 403):
        raise UsageError(f"{address} answers {status}, and not by a query worker: a proxy before it refuses access")
    raise UsageError(f"{address} answers {status}, which is no answer of a query worker: {_NO_WORKER}")


def _problem(content: bytes) -> tuple[str, str] | None:
    """The code and the detail of a problem document of a query worker; None: it is none."""
    try:
        problem = decode_json(content)
    except MalformedRequest:
        return None
    if not isinstance(problem, dict) or not str(problem.get("type", "")).startswith(_PROBLEM):
        return None
    detail = " ".join(str(problem.get("detail", problem.get("title", "")))[:_MOST_DETAIL_CHARS].split())
    at = problem.get("at")
    if isinstance(at, str) and at and at not in detail:
        detail = f"{at[:_MOST_DETAIL_CHARS]}: {detail}"
    return str(problem["type"]).removeprefix(_PROBLEM), detail


def _retry_after(headers: httpx.Headers) -> str:
    """The wait that an answer asks for, as the end of a message."""
    text = headers.get("retry-after", "")
    if not (text.isascii() and text.isdecimal() and len(text) < 6 and int(text) <= _MOST_WAIT_S):
        return ""
    return f"; try again in {int(text)} s"
