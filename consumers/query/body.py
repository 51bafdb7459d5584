"""The body of a request, read within bounds."""

from starlette.requests import ClientDisconnect, Request

from consumers.http.problems import bad_body


async def read_body(request: Request, limit: int) -> bytes:
    """The body, at most `limit` bytes of declared JSON; raises HttpProblem 400, 413 or 415.

    A form post of another web site cannot declare JSON without a CORS preflight, which is never granted.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise bad_body(415, "not-json", "The body is not JSON", "send the header content-type: application/json")
    body = bytearray()
    try:
        async for piece in request.stream():
            body += piece
            if len(body) > limit:
                raise bad_body(413, "body-too-large", "The body is too large", f"the body may have {limit:,} bytes")
    except ClientDisconnect:
        # No client reads this answer: it has left, or took longer than http.server.REQUEST_TIMEOUT_S.
        raise bad_body(400, "incomplete", "The body is not whole", "the connection ended before it") from None
    return bytes(body)
