"""Who opens a page: the key in a cookie, and no requests that other web sites make."""

from typing import Final
from urllib.parse import parse_qs, quote, unquote, urlsplit

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from consumers.query.web.ports import Access, KeyRefused
from consumers.query.web.render import html

COOKIE: Final = "milvus_stream_key"
_MOST_KEY_CHARS = 512
_MOST_BYTES = 8 * 1024
_PAGES = ("/", "/document", "/partitions", "/pipeline")


def from_elsewhere(request: Request) -> bool:
    """Whether another web site makes its visitor's browser send this, other than by a link to a page.

    Such a request cannot be read there, but it would search. Programs and old browsers do not send these headers.
    """
    site = request.headers.get("sec-fetch-site", "none")
    if site in ("none", "same-origin"):
        return False
    return request.method != "GET" or request.headers.get("sec-fetch-dest") != "document"


async def caller(request: Request, access: Access | None) -> str | None:
    """The tenant that the caller is bound to, None: all documents; raises KeyRefused."""
    return None if access is None else await access.tenant(cookie_key(request))


def cookie_key(request: Request) -> str | None:
    """The key that the browser keeps."""
    return unquote(request.cookies.get(COOKIE, "")) or None


async def enter_key(request: Request, access: Access) -> Response:
    """Keep the key of the form in a cookie until the browser is closed; an empty one forgets it."""
    fields = await _fields(request)
    next_ = _local(fields.get("next", ""))
    key = fields.get("key", "").strip()
    if not key:
        left = Response(status_code=303, headers={"location": "/"})
        left.delete_cookie(COOKIE, path="/", httponly=True, samesite="lax")
        return left
    try:
        if len(key) > _MOST_KEY_CHARS:
            raise KeyRefused
        await access.tenant(key)
    except KeyRefused:
        return key_form(next_, refused=True)
    entered = Response(status_code=303, headers={"location": next_})
    entered.set_cookie(
        COOKIE, quote(key, safe=""), path="/", httponly=True, samesite="lax", secure=request.url.scheme == "https"
    )
    return entered


def key_form(next_: str, *, refused: bool) -> Response:
    """The form that a key is entered in; `next_` is the address to go on with."""
    return html("key.html", 401, next=_local(next_), refused=refused)


def _local(address: str) -> str:
    """The address if it is one of a page of ours, else that of the first page."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return "/"
    if parts.scheme or parts.netloc or parts.path not in _PAGES or not address.isprintable():
        return "/"
    return f"{parts.path}?{parts.query}" if parts.query else parts.path


async def _fields(request: Request) -> dict[str, str]:
    """The fields of a small form post; none where it is too large or no such form."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/x-www-form-urlencoded":
        return {}
    body = bytearray()
    try:
        async for piece in request.stream():
            body += piece
            if len(body) > _MOST_BYTES:
                return {}
    except ClientDisconnect:
        return {}
    try:
        fields = parse_qs(body.decode(errors="replace"), max_num_fields=8)
    except ValueError:
        return {}
    return {name: values[-1] for name, values in fields.items()}
