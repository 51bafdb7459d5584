"""The body of a request: read within bounds, decoded strictly."""

import json
from typing import NoReturn

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
        # Nobody hears it: the client has left, or took longer than http_server.REQUEST_TIMEOUT_S.
        raise bad_body(400, "incomplete", "The body is not whole", "the connection ended before it") from None
    return bytes(body)


def decode(body: bytes) -> object:
    """JSON as RFC 8259 has it: UTF-8, no NaN, no key twice in one object; raises HttpProblem 400."""

    def refuse(_: str) -> NoReturn:
        raise ValueError("NaN and Infinity are not JSON")

    def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        if len(members := dict(pairs)) != len(pairs):
            raise ValueError("a key stands twice in one object")
        return members

    try:
        decoded: object = json.loads(body.decode(), parse_constant=refuse, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        reason = {json.JSONDecodeError: "the syntax is wrong", UnicodeDecodeError: "it is not UTF-8"}.get(
            type(error), "it is nested too deep" if isinstance(error, RecursionError) else str(error)
        )
        where = f" at character {error.pos}" if isinstance(error, json.JSONDecodeError) else ""
        raise bad_body(400, "malformed", "The body is not JSON", f"{reason}{where}") from None
    return decoded
