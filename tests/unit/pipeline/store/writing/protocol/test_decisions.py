"""The decisions of the write protocol."""

from dataclasses import replace

import pytest

from pipeline.records import Position
from pipeline.store.writing.ledger.ledger_rows import entry_row, row_entry
from pipeline.store.writing.protocol.decisions import Decision, DocumentHashes, Entry, decide, final, intent, surplus
from tests.support.documents import NOON_MS, delete, put

FACTS = DocumentHashes("content", "row", "d1")
STORED = final(put("k", "text", 10), FACTS, {"d1": 2}, "model")
VERSIONED = final(put("k", "text", 10, version=5), FACTS, {"d1": 2}, "model")
DELETED = final(delete("k", 10), None, {}, "model")


@pytest.mark.parametrize(
    ("entry", "offset", "version", "changes", "expected"),
    [
        (None, 1, None, {}, Decision.WRITE),
        (STORED, 9, None, {}, Decision.STALE),
        (STORED, 10, None, {}, Decision.UNCHANGED),
        (STORED, 11, None, {}, Decision.ADVANCE),
        (STORED, 10, None, {"content_hash": "other"}, Decision.WRITE),
        (STORED, 11, None, {"row_hash": "other"}, Decision.WRITE),
        (STORED, 11, None, {"milvus_partition": "d2"}, Decision.WRITE),
        (STORED._replace(fingerprint="older model"), 10, None, {}, Decision.WRITE),
        (STORED._replace(pending=True), 10, None, {}, Decision.WRITE),
        (STORED._replace(pending=True), 9, None, {}, Decision.STALE),
        (STORED._replace(footprint={"d1": 2, "d2": 1}), 10, None, {}, Decision.WRITE),
        (STORED._replace(position=Position("documents", 1, 99)), 9, None, {}, Decision.STALE),
        (STORED._replace(position=Position("documents", 1, 99)), 10, None, {}, Decision.ADVANCE),
        (STORED._replace(position=Position("other", 0, 99)), 11, None, {"row_hash": "x"}, Decision.WRITE),
        (VERSIONED, 99, 4, {"content_hash": "other"}, Decision.STALE),
        (VERSIONED, 1, 6, {}, Decision.ADVANCE),
        (VERSIONED, 10, 5, {}, Decision.UNCHANGED),
        (VERSIONED, 9, 5, {"content_hash": "other"}, Decision.STALE),
        (VERSIONED, 11, 5, {"content_hash": "other"}, Decision.WRITE),
        (VERSIONED._replace(position=Position("documents", 1, 99)), 9, 5, {"row_hash": "x"}, Decision.STALE),
        (VERSIONED._replace(position=Position("documents", 1, 99)), 11, 4, {"row_hash": "x"}, Decision.STALE),
        (VERSIONED._replace(position=Position("documents", 1, 99)), 9, 6, {"row_hash": "x"}, Decision.WRITE),
        (VERSIONED, 9, None, {"content_hash": "other"}, Decision.STALE),
        (VERSIONED, 11, None, {"content_hash": "other"}, Decision.WRITE),
        (STORED, 9, 1, {"content_hash": "other"}, Decision.STALE),
        (STORED, 11, 1, {"content_hash": "other"}, Decision.WRITE),
        (DELETED, 9, None, {}, Decision.STALE),
        (DELETED, 11, None, {}, Decision.WRITE),
    ],
)
def test_a_put_against_what_is_stored(
    entry: Entry | None, offset: int, version: int | None, changes: dict[str, str], expected: Decision
) -> None:
    facts = replace(FACTS, **changes)
    assert decide(entry, put("k", "text", offset, version=version), facts, "model") is expected


@pytest.mark.parametrize(
    ("entry", "offset", "expected"),
    [
        (None, 1, Decision.WRITE),
        (STORED, 9, Decision.STALE),
        (STORED, 11, Decision.WRITE),
        (DELETED, 9, Decision.STALE),
        (DELETED, 10, Decision.UNCHANGED),
        (DELETED, 11, Decision.ADVANCE),
        (DELETED._replace(pending=True), 11, Decision.WRITE),
    ],
)
def test_a_delete_against_what_is_stored(entry: Entry | None, offset: int, expected: Decision) -> None:
    assert decide(entry, delete("k", offset), None, "model") is expected


def test_the_intent_covers_both_places_and_claims_no_new_version() -> None:
    moved = intent(STORED, put("k", "text", 11), {"d2": 3})
    assert moved == STORED._replace(footprint={"d1": 2, "d2": 3}, pending=True)
    grown = intent(STORED, put("k", "text", 11), {"d1": 5})
    assert grown is not None
    assert grown.footprint == {"d1": 5}
    shrunk = intent(STORED, put("k", "text", 11), {"d1": 1})
    assert shrunk is not None
    assert shrunk.footprint == {"d1": 2}
    assert intent(shrunk, put("k", "text", 11), {"d1": 1}) is None
    assert intent(None, delete("k", 1), {}) is None


def test_the_intent_of_a_new_document_is_older_than_every_record() -> None:
    first = intent(None, put("k", "text", 0), {"d1": 1})
    assert first is not None
    assert decide(first, put("k", "text", 0), FACTS, "model") is Decision.WRITE
    assert decide(first, put("k", "text", 0, version=-5), FACTS, "model") is Decision.WRITE


def test_surplus_is_the_footprint_less_the_new_place() -> None:
    assert surplus({"d1": 5, "d2": 3}, {"d2": 1}) == {"d1": range(5), "d2": range(1, 3)}
    assert surplus({"d1": 2}, {"d1": 2}) == {}
    assert surplus({"d1": 2}, {}) == {"d1": range(2)}


@pytest.mark.parametrize("tenant", [None, "", "acme"])
def test_an_entry_survives_its_row(tenant: str | None) -> None:
    entry = VERSIONED._replace(tenant=tenant, footprint={"d1": 2, "d2": 7}, pending=True, doc_id='k"é')
    smallest, greatest = -(2**63), 2**63 - 1
    for each in (
        entry,
        entry._replace(reset_offset=greatest, reset_ms=greatest, floor=smallest),
        DELETED._replace(tenant=tenant, written_ms=NOON_MS, floor=0),
    ):
        row = entry_row(each)
        assert max(len(row["content_hash"]), len(row["row_hash"])) <= 128
        assert row_entry({name: value for name, value in row.items() if name != "vector"}) == each


@pytest.mark.parametrize(
    ("stored_id", "new_id", "expected"),
    [("one", "two", Decision.WRITE), ("one", "one", Decision.STALE), ("", "two", Decision.STALE)],
    ids=["created again", "the same topic", "unknown before"],
)
def test_offsets_of_a_topic_created_again_are_not_compared(stored_id: str, new_id: str, expected: Decision) -> None:
    entry = STORED._replace(topic_id=stored_id)
    operation = replace(put("k", "other", 3), topic_id=new_id, timestamp_ms=NOON_MS + 11)
    assert decide(entry, operation, DocumentHashes("other", "row", "d1"), "model") is expected
    versioned = VERSIONED._replace(topic_id=stored_id)
    older = replace(put("k", "other", 99, version=4), topic_id=new_id)
    assert decide(versioned, older, DocumentHashes("other", "row", "d1"), "model") is Decision.STALE
