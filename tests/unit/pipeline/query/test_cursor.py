"""Cursors: what they hold, and that nothing but what was made for this caller opens."""

import base64
from typing import Any

import pytest

from pipeline.query import InvalidRequest
from pipeline.query.cursor import Cursors, Position
from pipeline.query.request.cursor_request import MAX_CURSOR_CHARS
from pipeline.query.returned import DIGEST_BYTES, Returned

KEY = b"k" * 32
BODY: dict[str, Any] = {"query": "é 🙂", "limit": 3, "time": {"last": "24h"}, "min_score": 10**300}
RETURNED = Returned(frozenset(bytes([number]) * DIGEST_BYTES for number in range(5)))


def made(tenant: str | None = None, cursors: Cursors | None = None, body: dict[str, Any] = BODY) -> str:
    cursor = (cursors or Cursors(KEY, "documents")).make(Position(body, 1_000, RETURNED), tenant)
    assert cursor is not None
    return cursor


def refused(cursor: str, tenant: str | None = None, cursors: Cursors | None = None) -> None:
    with pytest.raises(InvalidRequest, match="is not a cursor of this service") as refusal:
        (cursors or Cursors(KEY, "documents")).open(cursor, tenant)
    assert refusal.value.at == "/cursor"


@pytest.mark.parametrize("tenant", [None, "", "acme"])
def test_a_cursor_holds_the_request_its_time_and_what_was_shown(tenant: str | None) -> None:
    opened = Cursors(KEY, "documents").open(made(tenant), tenant)
    assert opened == Position(BODY, 1_000, RETURNED)


def test_it_opens_for_the_same_key_collection_and_tenant_only() -> None:
    cursor = made("acme")
    for tenant in (None, "", "acm", "acme2"):
        refused(cursor, tenant)
    refused(cursor, "acme", Cursors(b"x" * 32, "documents"))
    refused(cursor, "acme", Cursors(KEY, "documents2"))
    refused(made(None), "null")


def test_no_character_can_be_changed() -> None:
    cursor = made()
    for at in range(0, len(cursor) - 1):
        other = "A" if cursor[at] != "A" else "B"
        refused(cursor[:at] + other + cursor[at + 1 :])


@pytest.mark.parametrize(
    "text", ["", "A", "AA", "AQ", "=", "é", "\u0661", "a b", "%00", "{}", "A" * 50_000, "AQ" + "A" * 100]
)
def test_any_other_text_is_refused(text: str) -> None:
    refused(text)


def test_a_part_of_a_cursor_is_refused() -> None:
    cursor = made()
    for length in range(0, len(cursor) - 2, 7):
        refused(cursor[:length])
    raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
    refused(base64.urlsafe_b64encode(raw + b"\0").decode())


def test_a_cursor_fits_a_body() -> None:
    full = Returned(frozenset(number.to_bytes(DIGEST_BYTES, "big") for number in range(1_000)))
    cursors = Cursors(KEY, "documents")
    filter_ = {"type": "in", "key": "n", "value": [f"value {number:05}" for number in range(1_000)]}
    cursor = cursors.make(Position({"query": "q" * 8_192, "filter": filter_}, 0, full), None)
    assert cursor is not None
    assert len(cursor) < 20_000
    noise = "".join(chr(0x4E00 + (number * 7919) % 20_000) for number in range(40_000))
    assert cursors.make(Position({"query": noise}, 0, full), None) is None
    assert MAX_CURSOR_CHARS < 64 * 1024
