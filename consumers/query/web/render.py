"""Templates into answers: autoescaped HTML, the headers of every page, and the static files with their digests."""

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from typing import Any, Final

import orjson
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import Response

CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
PAGE_HEADERS: Final = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}
_TYPES = {"js": "text/javascript; charset=utf-8", "css": "text/css; charset=utf-8", "svg": "image/svg+xml"}
_SHOWN_VALUE = 300
"""Characters of a metadata value in a card."""


@dataclass(frozen=True, slots=True)
class StaticFile:
    """A file of the package that pages load."""

    content: bytes
    media_type: str
    digest: str
    """In its address, so that browsers may keep it."""


@cache
def static_files() -> Mapping[str, StaticFile]:
    """The files by name."""
    folder = resources.files("consumers.query.web") / "static"
    files = {}
    for file in folder.iterdir():
        media_type = _TYPES.get(file.name.rpartition(".")[2])
        if media_type is not None:
            content = file.read_bytes()
            files[file.name] = StaticFile(content, media_type, hashlib.sha256(content).hexdigest()[:16])
    return files


def static_address(name: str) -> str:
    """The address of a static file."""
    return f"/static/{name}?v={static_files()[name].digest}"


def html(template: str, status: int = 200, headers: Mapping[str, str] | None = None, /, **values: Any) -> Response:
    """A page."""
    text = _environment().get_template(template).render(values)
    return Response(text, status, {**PAGE_HEADERS, **(headers or {})}, media_type="text/html")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("consumers.query.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.globals["static"] = static_address
    environment.filters.update(moment=moment, age=age, value=shown_value, number=number, clock=clock_time)
    return environment


def moment(rfc3339: str) -> str:
    """A time for people, UTC: `2026-11-22 09:30`; seconds are cut off."""
    return rfc3339[:16].replace("T", " ")


def age(epoch_ms: int) -> str:
    """How long ago: `12 s ago`, `3 h ago`; `now` within a second, and for what is ahead."""
    seconds = (time.time_ns() // 1_000_000 - epoch_ms) // 1000
    if seconds < 1:
        return "now"
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"


def shown_value(value: object) -> str:
    """A metadata value as text, cut where it is long."""
    text = value if isinstance(value, str) else orjson.dumps(value, default=str).decode()
    return text if len(text) <= _SHOWN_VALUE else text[:_SHOWN_VALUE] + "…"


def number(value: float) -> str:
    """A number with thousands separated, fractions to three digits."""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.3f}"


def clock_time(epoch_ms: int) -> str:
    """`12:03:07`, UTC."""
    return datetime.fromtimestamp(epoch_ms / 1000, UTC).strftime("%H:%M:%S")
