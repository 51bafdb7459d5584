"""The request for the next page of an answer."""

from functools import cache
from typing import Annotated, Any

from pydantic import Field, create_model

from pipeline.query.request.body import parse_body
from pipeline.query.request.filters import StrictModel
from pipeline.query.request.request import MAX_RESULTS, MAX_TIMEOUT_MS, MIN_TIMEOUT_MS
from pipeline.query.request.value_types import Between

MAX_CURSOR_CHARS = 60_000
"""So that the body of a request with it has less than 64 KiB."""


class CursorRequest(StrictModel):
    """The next page of an answer that has `next_cursor`: of the same search, with what was not shown yet."""

    cursor: Annotated[str, Field(min_length=1, max_length=MAX_CURSOR_CHARS)]
    """The `next_cursor` of the page before."""
    limit: Annotated[int, Between(1, MAX_RESULTS)] | None = None
    """Most results of this page; null: as in the first request."""
    timeout_ms: Annotated[int, Between(MIN_TIMEOUT_MS, MAX_TIMEOUT_MS)] | None = None
    """Most milliseconds for this page; null: as in the first request."""


@cache
def cursor_request_model(most: int) -> type[CursorRequest]:
    """The model of such requests to a service that gives at most `most` results."""
    description = CursorRequest.model_fields["limit"].description
    bounded: Any = Annotated[Annotated[int, Between(1, most)] | None, Field(description=description)]
    return create_model("CursorRequest", __base__=CursorRequest, __doc__=CursorRequest.__doc__, limit=(bounded, None))


def parse_cursor_request(body: object, max_results: int = MAX_RESULTS) -> CursorRequest:
    """Check a decoded JSON body. Raises InvalidRequest that names the place by JSON pointer."""
    return parse_body(cursor_request_model(max_results), body)
