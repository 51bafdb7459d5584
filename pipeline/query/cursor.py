"""Cursors: where the next page of an answer begins, as a text that only a holder of the key can make. Pure.

A cursor is base64url of: version (1 byte), HMAC (16), number of digests (2), the digests, and compressed JSON. Its HMAC
covers the collection and the tenant, which it does not hold: it opens only where both are the same.
"""

import base64
import binascii
import hmac
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.query.request.cursor_request import MAX_CURSOR_CHARS
from pipeline.query.request.invalid_request import InvalidRequest
from pipeline.query.returned import DIGEST_BYTES, Returned

_VERSION = b"\x01"
_MAC_BYTES = 16
_PURPOSE = b"milvus-stream cursor"
_NOT_OURS = (
    "is not a cursor of this service for this caller, or was made before its start; send the first request again "
    "(query workers with the same query.cursor_key take each other's cursors)"
)


@dataclass(frozen=True, slots=True)
class Position:
    """Where a reader of pages is."""

    body: Mapping[str, Any]
    """The first request, as it arrived."""
    now_ms: int
    """When it arrived, epoch milliseconds: what `last` and ages count from on every page."""
    returned: Returned


class Cursors:
    """Makes and opens the cursors of one collection; used by many threads at a time."""

    def __init__(self, key: bytes, collection: str) -> None:
        """`key`: the same for all query workers whose cursors are to be exchangeable."""
        self._key = key
        self._collection = collection

    def make(self, position: Position, tenant: str | None) -> str | None:
        """The cursor; None where the request is too large for one."""
        digests = position.returned.to_bytes()
        held = json.dumps([position.now_ms, position.body], separators=(",", ":")).encode()
        content = len(position.returned).to_bytes(2, "big") + digests + zlib.compress(held)
        text = base64.urlsafe_b64encode(_VERSION + self._mac(content, tenant) + content).decode().rstrip("=")
        return text if len(text) <= MAX_CURSOR_CHARS else None

    def open(self, cursor: str, tenant: str | None) -> Position:
        """What a cursor holds. Raises InvalidRequest at /cursor for a text that `make` did not make for this tenant."""
        try:
            raw = base64.b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4), b"-_", validate=True)
        except (UnicodeEncodeError, binascii.Error):
            raise InvalidRequest("/cursor", _NOT_OURS) from None
        version, mac, content = raw[:1], raw[1 : 1 + _MAC_BYTES], raw[1 + _MAC_BYTES :]
        # Checked before anything is read: what follows trusts the content.
        if version != _VERSION or not hmac.compare_digest(mac, self._mac(content, tenant)):
            raise InvalidRequest("/cursor", _NOT_OURS)
        end = 2 + int.from_bytes(content[:2], "big") * DIGEST_BYTES
        now_ms, body = json.loads(zlib.decompress(content[end:]))
        return Position(body, now_ms, Returned.from_bytes(content[2:end]))

    def _mac(self, content: bytes, tenant: str | None) -> bytes:
        scope = json.dumps([self._collection, tenant]).encode()
        message = _PURPOSE + _VERSION + len(scope).to_bytes(4, "big") + scope + content
        return hmac.digest(self._key, message, "sha256")[:_MAC_BYTES]
