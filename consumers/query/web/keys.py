"""The key of a browser: a form to enter it, and a cookie that only the page reads."""

import re
from typing import Final
from urllib.parse import parse_qs, urlsplit

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from consumers.http.problems import HttpProblem
from consumers.query.access import Access
from consumers.query.web.render import html

COOKIE: Final = "milvus_stream_key"
PAGES: Final = frozenset({"/", "/document", "/partitions", "/pipeline", "/freshness", "/key"})
_KEY = re.compile(r"[A-Za-z0-9._~+/=-]{1,3500}", re.ASCII)
"""A key or a token as the header takes it; browsers keep cookies of up to 4 KB."""
_MOST_BYTES = 16 * 1024

_log = structlog.get_logger(__name__)


def cookie_key(request: Request) -> bytes | None:
    """The key that the browser keeps."""
    key = request.cookies.get(COOKIE, "")
    return key.encode() if _KEY.fullmatch(key) else None


class KeyPage:
    """Answers `/key`: the form, and what is entered there."""

    def __init__(self, access: Access) -> None:
        self._access = access

    async def answer(self, request: Request) -> Response:
        """The form; after a post the page that the caller came from."""
        if request.method != "POST":
            return key_form("/", status=200)
        fields = await _fields(request)
        next_ = _local(fields.get("next", ""))
        key = fields.get("key", "").strip()
        if not key:
            forgotten = Response(status_code=303, headers={"location": "/"})
            forgotten.delete_cookie(COOKIE, path="/", httponly=True, samesite="lax")
            return forgotten
        try:
            opens = _KEY.fullmatch(key) is not None and await self._opens(key)
        except HttpProblem as error:
            problem = error.problem
            return html("message.html", problem.status, error.headers, title=problem.title, detail=problem.detail)
        if not opens:
            _log.warning("page.key_refused")
            return key_form(next_, refused=True)
        entered = Response(status_code=303, headers={"location": next_})
        # Behind a proxy that ends TLS only the header says it. Whoever forges it gets a cookie that is sent less often.
        secure = "https" in (request.url.scheme, request.headers.get("x-forwarded-proto"))
        entered.set_cookie(COOKIE, key, path="/", httponly=True, samesite="lax", secure=secure)
        return entered

    async def _opens(self, key: str) -> bool:
        """Whether a request with this key would be let in; raises HttpProblem where that is not known now."""
        try:
            await self._access.caller([(b"authorization", b"Bearer " + key.encode())])
        except HttpProblem as error:
            if error.problem.status != 401:
                raise
            return False
        return True


def key_form(next_: str, *, refused: bool = False, status: int = 401) -> Response:
    """The form that a key is entered in; `next_` is the address to go on with."""
    return html("key.html", status, next=_local(next_), refused=refused)


def _local(address: str) -> str:
    """The address if it is one of a page of ours, else that of the first page."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return "/"
    if parts.scheme or parts.netloc or parts.path not in PAGES or not address.isascii() or not address.isprintable():
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
        fields = parse_qs(body.decode(errors="replace"), max_num_fields=8)
    except (ClientDisconnect, ValueError):
        return {}
    return {name: values[-1] for name, values in fields.items()}
