"""Pages of one search: the first from a request, each next one from a cursor. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.query.answer import SearchResult
from pipeline.query.cursor import Cursors, Position
from pipeline.query.request.cursor_request import parse_cursor_request
from pipeline.query.request.freshness import FreshnessOptions
from pipeline.query.request.invalid_request import InvalidRequest
from pipeline.query.request.request import SearchRequest, parse_request
from pipeline.query.returned import NOTHING, Returned

_TOO_LARGE = "there is no next_cursor, because the request is too large for one: shorten its filter or its query"
_NO_CURSORS = "is not taken here: this service gives no cursors"


@dataclass(frozen=True, slots=True)
class Page:
    """What one answer is to hold."""

    request: SearchRequest
    now_ms: int
    """What a time range and ages count from, epoch milliseconds: on every page the arrival of the first request."""
    body: Mapping[str, Any]
    """The first request, as it arrived."""
    tenant: str | None = None
    """Whose documents it shows; None: those of every tenant."""
    returned: Returned = NOTHING
    """What the pages before have shown."""


def open_page(body: object, max_results: int, now_ms: int, cursors: Cursors | None, tenant: str | None = None) -> Page:
    """The page that a decoded body is for: the first of a search, or the one that its `cursor` names.

    Raises InvalidRequest; at /cursor where it is not one of `cursors`, or all that one search gives has been given.
    """
    if not isinstance(body, dict) or "cursor" not in body:
        request = parse_request(body, max_results)
        return Page(request, now_ms, body if isinstance(body, dict) else {}, tenant)
    wanted = parse_cursor_request(body, max_results)
    if cursors is None:
        raise InvalidRequest("/cursor", _NO_CURSORS)
    position = cursors.open(wanted.cursor, tenant)
    left = max_results - len(position.returned)
    if left <= 0:
        problem = f"leads beyond the {max_results:,} results that one search gives, all its pages together"
        raise InvalidRequest("/cursor", f"{problem}; narrow its time range or its filter")
    options = {"limit": wanted.limit, "timeout_ms": wanted.timeout_ms}
    changes = {name: value for name, value in options.items() if value is not None}
    try:
        request = parse_request({**position.body, **changes}, max_results)
    except InvalidRequest as error:
        problem = f"holds a request that this service does not take ({error}); send the first request again"
        raise InvalidRequest("/cursor", problem) from None
    changed = {"limit": min(request.limit, left), "freshness": _after_waiting(request.freshness)}
    request = request.model_copy(update=changed)
    return Page(request, position.now_ms, position.body, tenant, position.returned)


def _after_waiting(freshness: FreshnessOptions | None) -> FreshnessOptions | None:
    """The freshness of a further page: the first one has waited, so what it waited for is acknowledged."""
    if freshness is None or not freshness.wait_for:
        return freshness
    return FreshnessOptions(level="strong")


def next_cursor(page: Page, result: SearchResult, cursors: Cursors | None) -> tuple[str | None, tuple[str, ...]]:
    """(the cursor of the page after this one, warnings); None where there is none, and for a list of texts."""
    if cursors is None or page.request.many or not result.more:
        return None, ()
    returned = Returned(page.returned.digests | frozenset(result.returned))
    cursor = cursors.make(Position(page.body, page.now_ms, returned), page.tenant)
    return cursor, () if cursor else (_TOO_LARGE,)
