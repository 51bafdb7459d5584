"""Problem JSON (RFC 9457) for every error, and the security headers of every answer."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import orjson
import structlog
from starlette.datastructures import MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline.errors import (
    MilvusAway,
    MilvusStreamError,
    Mismatch,
    NotLoaded,
    RequestRefused,
    RequestTooLarge,
    Unavailable,
    UsageError,
)
from pipeline.query import (
    DeadlinePassed,
    DocumentUnreadable,
    InvalidRequest,
    MalformedRequest,
    NoSuchDocument,
    NotFreshYet,
    OffsetsUnavailable,
    Overloaded,
)

RETRY_AFTER_S = 1
_AWAY = (
    "nothing can be searched or read until Milvus is back; what is published is kept in Kafka and stored then. Retry "
    "after the seconds of Retry-After; more time for the request does not help"
)
_NOT_LOADED = (
    "Milvus has not loaded what the request needs, as for up to a minute after its restart: retry; where that does not "
    "help, load the collection"
)
_TYPE = "urn:milvus-stream:problem:"
SECURITY_HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a request was not answered."""

    status: int
    code: str
    """A stable word; the last part of the problem's `type`."""
    title: str
    detail: str
    more: Mapping[str, Any] | None = None
    retry: bool = False
    """The same request may succeed later."""
    reason: str | None = None
    """For the log, where that may say more than clients need to know."""

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers of every answer with it."""
        return {"retry-after": str(RETRY_AFTER_S)} if self.retry else {}

    def response(self, headers: Mapping[str, str] | None = None) -> Response:
        """The HTTP answer."""
        body = {"type": _TYPE + self.code, "title": self.title, "status": self.status, "detail": self.detail}
        return Response(
            orjson.dumps({**body, **(self.more or {})}),
            self.status,
            {**(headers or {}), **self.headers},
            media_type="application/problem+json",
        )


class HttpProblem(MilvusStreamError):
    """An error with the problem that the client gets, and further headers of that answer."""

    def __init__(self, problem: Problem, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(problem.detail)
        self.problem = problem
        self.headers = headers


def bad_body(status: int, code: str, title: str, detail: str) -> HttpProblem:
    """A body that is not JSON of a permitted size."""
    return HttpProblem(Problem(status, code, title, detail))


def problem_of(error: Exception) -> Problem:
    """The problem that a client reads for an error; the text of an unforeseen one stays in the log."""
    match error:
        case HttpProblem():
            return error.problem
        case MalformedRequest() | InvalidRequest() | RequestRefused() | RequestTooLarge() | NoSuchDocument():
            return _not_valid(error)
        case Overloaded():
            return Problem(429, "overloaded", "Too many searches at a time", str(error), retry=True)
        case DeadlinePassed():
            detail = "there was no result in the time of the request; allow more with timeout_ms"
            return Problem(504, "timeout", "The search took too long", detail, retry=True)
        case Unavailable() | Mismatch() | UsageError():
            return _not_available(error)
        case _:
            detail = "the search failed for a reason on our side; it is in the log"
            return Problem(500, "internal", "Internal error", detail)


def _not_valid(
    error: MalformedRequest | InvalidRequest | RequestRefused | RequestTooLarge | NoSuchDocument,
) -> Problem:
    """What another request would not meet. Milvus's own words are left out: they repeat the filter."""
    if isinstance(error, NoSuchDocument):
        if error.deleted_at is None:
            return Problem(404, "no-such-document", "No such document", str(error))
        more = {"deleted_at": error.deleted_at}
        return Problem(404, "document-deleted", "The document was deleted", str(error), more)
    if isinstance(error, MalformedRequest):
        return Problem(400, "malformed", "The body is not JSON", str(error))
    if isinstance(error, InvalidRequest):
        return Problem(422, "invalid-request", "The request is not valid", str(error), {"at": error.at})
    if isinstance(error, RequestRefused):
        detail = "Milvus refused the search, most likely for its filter; compare other fields or values"
        return Problem(422, "refused", "Milvus refused the search", detail, {"at": "/filter"})
    detail = "/limit: the rows found are too large for one answer of Milvus; lower limit, or send fewer texts"
    return Problem(422, "too-large", "The answer would be too large", detail, {"at": "/limit"})


def _not_available(error: Unavailable | Mismatch | UsageError) -> Problem:
    """Errors of the service. Their text names Milvus's address and the collection, which is for the log."""
    if isinstance(error, NotFreshYet):
        more = {"behind": [asdict(one) for one in error.behind]}
        return Problem(503, "not-fresh", "A record is not processed yet", str(error), more, retry=True)
    if isinstance(error, OffsetsUnavailable):
        detail = "what is committed cannot be read from Kafka; the log of the query worker says why"
        title = "Offsets are not known now"
        return Problem(503, "offsets-unavailable", title, detail, retry=True, reason=str(error))
    if isinstance(error, DocumentUnreadable):
        return Problem(503, error.why, "The document cannot be read now", str(error), retry=True)
    if isinstance(error, MilvusAway):
        so_far = {"away_s": round(error.away_s, 1)}
        return Problem(503, "milvus-away", "Milvus does not answer", _AWAY, so_far, retry=True, reason=str(error))
    if isinstance(error, NotLoaded):
        title = "The collection is not loaded"
        return Problem(503, "not-loaded", title, _NOT_LOADED, retry=True, reason=str(error))
    why = "; the line search.failed of the query worker's log says why"
    if isinstance(error, Unavailable):
        code, title, detail = (
            "unavailable",
            "Search is not available now",
            f"Milvus or the model is away{why}",
        )
    elif isinstance(error, Mismatch):
        code, title, detail = "model-mismatch", "The collection is of another model", f"No search can be answered{why}"
    else:
        code, title, detail = "misconfigured", "The query worker is not set up right", f"A setting is wrong{why}"
    return Problem(503, code, title, detail, retry=code == "unavailable", reason=str(error))


def http_problem(status: int, detail: str) -> Problem:
    """The problem of a routing error: unknown path, wrong method."""
    known = {404: ("not-found", "No such path"), 405: ("method-not-allowed", "Method not allowed")}
    code, title = known.get(status, ("http", "The request was refused"))
    return Problem(status, code, title, detail)


class ErrorBoundaryMiddleware:
    """The outermost layer: puts the security headers on every answer and lets no exception out unanswered."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def guarded(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)  # the page has a policy of its own
            await send(message)

        try:
            await self._app(scope, receive, guarded)
        except Exception as error:
            if started:
                raise
            if not isinstance(error, HttpProblem):
                _log.exception("http.failed", path=scope["path"], error=type(error).__name__)
            await problem_of(error).response()(scope, receive, guarded)
