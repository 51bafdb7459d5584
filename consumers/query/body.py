"""The body of a request, read within bounds."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from starlette.requests import ClientDisconnect, Request

from consumers.http.problems import bad_body
from pipeline.query import MAX_BODY_BYTES, MAX_SEARCH_BODY_BYTES, Overloaded

LARGE_BODIES_BYTES = 64 * 1024 * 1024


class LargeBodies:
    """The memory for what bodies have beyond 64 KiB, shared by all that are being read.

    Every client may be sending one, so their number alone bounds no memory.
    """

    def __init__(self, total: int = LARGE_BODIES_BYTES) -> None:
        self._left = total

    @contextmanager
    def room(self) -> Iterator[Callable[[int], None]]:
        """A function that takes bytes, and raises Overloaded where too few are left; they are given back at the end."""
        taken = 0

        def take(count: int) -> None:
            nonlocal taken
            if count > self._left:
                raise Overloaded("as many large requests as allowed are being read; try again")
            self._left -= count
            taken += count

        try:
            yield take
        finally:
            self._left += taken


async def read_search(request: Request, large: LargeBodies) -> bytes:
    """The body of a search; only one with vectors may be large. Raises as `read_body`."""
    body = await read_body(request, MAX_SEARCH_BODY_BYTES, large)
    if len(body) > MAX_BODY_BYTES and b'"vector"' not in body:
        allowed = f"the body may have {MAX_BODY_BYTES:,} bytes, or {MAX_SEARCH_BODY_BYTES:,} with vector"
        raise bad_body(413, "body-too-large", "The body is too large", allowed)
    return body


async def read_body(request: Request, limit: int, large: LargeBodies | None = None) -> bytes:
    """The body, at most `limit` bytes of declared JSON; raises HttpProblem 400, 413 or 415, and Overloaded.

    `large`: where a limit above 64 KiB takes its memory from.
    A form post of another web site cannot declare JSON without a CORS preflight, which is never granted.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise bad_body(415, "not-json", "The body is not JSON", "send the header content-type: application/json")
    body = bytearray()
    try:
        with (large or LargeBodies(0)).room() as take:
            async for piece in request.stream():
                before = max(len(body), MAX_BODY_BYTES)
                if len(body) + len(piece) > limit:
                    raise bad_body(413, "body-too-large", "The body is too large", f"the body may have {limit:,} bytes")
                take(max(len(body) + len(piece) - before, 0))
                body += piece
    except ClientDisconnect:
        # No client reads this answer: it has left, or took longer than http.server.REQUEST_TIMEOUT_S.
        raise bad_body(400, "incomplete", "The body is not whole", "the connection ended before it") from None
    return bytes(body)
